"""
`rediss://` with a certificate of a private authority, and a user with the permissions that the broker needs, no more.

Real servers, sentinels and nodes with TLS. Their certificates, for an address or a name, are made here. The list of
commands is the one that docs/deploying/redis.md shows.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.broker.base import ClientInfo, ConnectionId, PublishRequest, WorkerId
from realtime.broker.factory import make_broker
from realtime.errors import BrokerUnavailable
from realtime.timing.rate import Rate
from tests.realtime.broker.conftest import ROOT
from tests.realtime.broker.workers import KEPT, Heard, Place, flushed
from tests.support.aio import run_async
from tests.support.processes import free_port
from tests.support.redis_cluster import RedisCluster, ok
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.sentinels import Sentinels

ANN = ClientInfo("ann", "c1")
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates, and leaves them and their keys in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of one's own")])
        basics = x509.BasicConstraints(ca=True, path_length=None)
        signs = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self._certificate = self._builder(self._name, self._key).add_extension(basics, critical=True)
        self._certificate = self._certificate.add_extension(signs, critical=True)
        self.path = directory / "authority.pem"
        self.path.write_bytes(self._sign(self._certificate))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.not_valid_before(NOW - datetime.timedelta(hours=1))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (issuer, x509.SubjectKeyIdentifier.from_public_key(key.public_key())):
            builder = builder.add_extension(extension, critical=False)  # which Python asks for from 3.13 on
        return builder.not_valid_after(NOW + datetime.timedelta(hours=1)).serial_number(x509.random_serial_number())

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, address: str) -> list[str]:
        """Return options of a server whose certificate is for that address, or that name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        is_name = address.strip("0123456789.") != ""
        name = x509.DNSName(address) if is_name else x509.IPAddress(ipaddress.ip_address(address))
        names = x509.SubjectAlternativeName([name])
        certificate, key_file = self._directory / f"{address}.pem", self._directory / f"{address}.key"
        certificate.write_bytes(self._sign(self._builder(subject, key).add_extension(names, critical=False)))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key_file)]
        return [*files, "--tls-ca-cert-file", str(self.path), "--tls-auth-clients", "optional"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    require("redis")
    return Authority(tmp_path)


@pytest.fixture
def secure(authority: Authority) -> Iterator[tuple[RedisServer, int]]:
    """A Redis whose certificate is for 127.0.0.1, and the port on which it speaks TLS."""
    port = free_port()
    with RedisServer(options=["--tls-port", str(port), *authority.issue("127.0.0.1")]) as server:
        yield server, port


def commands_in_the_documentation() -> list[str]:
    """Return the words of the user in docs/deploying/redis.md that grant commands."""
    text = (ROOT / "docs/deploying/redis.md").read_text()
    found = re.search(r"^user realtime (?P<words>.*?)```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, "docs/deploying/redis.md shows such a user"
    words = found["words"].replace("\\\n", " ").split()
    return [word for word in words if word not in ("on", "~rt:*", "&rt:*") and not word.startswith(">")]


def add_user(server: RedisServer, prefix: str) -> None:
    words = ["on", ">s3cret", f"~{prefix}:*", f"&{prefix}:*", *commands_in_the_documentation()]
    ok(server.command("ACL", "SETUSER", "realtime", "reset", *words))
    ok(server.command("ACL", "SETUSER", "default", "off"))


async def use(place: Place) -> None:
    """Do everything that a broker can."""
    room = place.room()
    async with place.worker("a") as a, place.worker("b") as b:
        await a.broker.subscribe(room)
        await b.broker.add_member(room, ANN, announce=True)
        await b.broker.publish(PublishRequest(room, b"1", retention=KEPT, idempotency_key="k"))
        await flushed(a, room)
        assert [each.data for each in a.heard.publications[room]] == [b"1"]
        assert (await a.broker.history(room, retention=KEPT, limit=1, reverse=True)).top.offset == 1
        assert (await a.broker.history(room, retention=KEPT, limit=1)).top.offset == 1
        assert (await a.broker.positions([room]))[room].offset == 1
        await a.broker.forget_history(room)
        assert (await a.broker.member_counts(room)).clients == 1
        assert (await a.broker.members_page(room)).members == {ANN.connection_id: ANN}
        assert await a.broker.allow(room, "ann", Rate(1, 60))
        assert len(await a.broker.workers()) == 2
        await b.broker.add_member(room, ClientInfo("bob", "c2"), announce=True, lasting=True)
        await a.broker.reap(b.id)
        assert await a.broker.members(room) == {"c2": ClientInfo("bob", "c2")}, "inherited"
        assert await a.broker.remove_member(room, ConnectionId("c2"), announce=True) is not None
        await a.broker.unsubscribe(room)


@run_async
async def test_a_user_with_the_documented_commands_can_do_everything(
    authority: Authority, secure: tuple[RedisServer, int]
) -> None:
    server, port = secure
    place = Place("redis", f"rediss://realtime:s3cret@127.0.0.1:{port}?ssl_ca_certs={authority.path}")
    add_user(server, place.own)
    server.command("CONFIG", "RESETSTAT")
    await use(place)


@run_async
async def test_such_a_user_can_do_everything_in_a_cluster() -> None:
    require("redis")
    with RedisCluster() as cluster:
        place = Place("cluster", cluster.url.replace("://", "://realtime:s3cret@"))
        for node in cluster.masters:
            add_user(node, place.own)
        await use(place)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@run_async
async def test_the_master_that_sentinels_name_is_reached_by_tls_alone_and_followed(
    authority: Authority, name: str
) -> None:
    with Sentinels(tls=authority.issue(name), host=name) as sentinels:
        place = Place("redis", f"{sentinels.url}?ssl_ca_certs={authority.path}")
        await use(place)
        async with place.worker() as a:
            await a.broker.add_member(place.room(), ANN, announce=True)
            sentinels.wait_for_replica()
            sentinels.master.stop()
            await a.heard.until(lambda: a.heard.how_often("link restored"))
            assert await a.broker.members(place.room()) == {ANN.connection_id: ANN}
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate verify failed"):
            await make_broker(sentinels.url, worker_id=WorkerId("a")).start(Heard())


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@run_async
async def test_the_nodes_of_a_cluster_are_reached_by_tls_alone_and_followed(authority: Authority, name: str) -> None:
    announced = ["--cluster-announce-hostname", name, "--cluster-preferred-endpoint-type", "hostname"]
    options = announced if name == "localhost" else []
    with RedisCluster(masters=2, empty=1, tls=authority.issue(name), options=options) as cluster:
        url = cluster.url.replace("127.0.0.1", name)
        place = Place("cluster", f"{url}?ssl_ca_certs={authority.path}")
        await use(place)
        async with place.worker() as a:
            assert a.broker.statistics()["nodes"] == 3, "also the one without slots"
            room = place.room()
            (target,) = cluster.empty
            await a.broker.subscribe(room)
            (before,) = await a.publish(room, b"1")
            await asyncio.to_thread(cluster.move, cluster.slot_of(f"{{{room}}}"), target)
            await a.heard.until(lambda: a.heard.how_often("gap"))
            (after,) = await a.publish(room, b"2")
            assert (after.epoch, after.offset) == (before.epoch, before.offset + 1)
            assert [each.data for each in await a.heard.count(room, 2)] == [b"1", b"2"]
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate verify failed"):
            await make_broker(url, worker_id=WorkerId("a")).start(Heard())


@run_async
async def test_an_unknown_certificate_is_refused(authority: Authority, secure: tuple[RedisServer, int]) -> None:
    _, port = secure
    for url in (
        f"rediss://:s3cret@127.0.0.1:{port}",
        f"rediss://:s3cret@localhost:{port}?ssl_ca_certs={authority.path}",
    ):
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate verify failed") as caught:
            await make_broker(url, worker_id=WorkerId("a")).start(Heard())
        assert "s3cret" not in str(caught.value)


@run_async
async def test_a_missing_authority_file_is_named(secure: tuple[RedisServer, int]) -> None:
    _, port = secure
    with pytest.raises(BrokerUnavailable, match="No such file"):
        await make_broker(f"rediss://127.0.0.1:{port}?ssl_ca_certs=/nowhere", worker_id=WorkerId("a")).start(Heard())


@run_async
async def test_a_server_without_tls_is_named(authority: Authority) -> None:
    with RedisServer(free_port()) as server, pytest.raises(BrokerUnavailable):
        await make_broker(f"rediss://127.0.0.1:{server.port}", worker_id=WorkerId("a")).start(Heard())
