"""
TLS that ends in the workers: https and wss on adopted connections, one slot for an address. Renewed certificates are in
test_new_certificates.py.

The WebSocket clients here are those of `websockets.asyncio`: those of `websockets.sync` read and write one TLS
connection from two threads, and until Python 3.13 nothing keeps these apart, so that now and then an answer is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from sticky.loop.log_lines import SERVER_LAME_DUCK
from tests.sdk.conftest import APP as SDK_APP
from tests.support.http import WHOSE
from tests.support.server import ROOT, RunningServer


def make_certificate(directory: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    certfile, keyfile = directory / "cert.pem", directory / "key.pem"
    certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return certfile, keyfile


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def securely(url: str) -> connect:
    return connect(url, ssl=trusting_anybody(), compression=None)


def get(server: RunningServer, address: str, path: str = "/", **headers: str) -> dict[str, object]:
    source = (address, 0)
    connection = HTTPSConnection(
        "127.0.0.1", server.port, context=trusting_anybody(), source_address=source, timeout=30
    )
    try:
        connection.request("GET", path, headers=headers)
        found: dict[str, object] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def certificate_of(server: RunningServer) -> bytes:
    sock = socket.create_connection(("127.0.0.1", server.port), 30)
    with trusting_anybody().wrap_socket(sock) as wrapped:
        found = wrapped.getpeercert(binary_form=True)
        assert found is not None
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    certfile, keyfile = make_certificate(tmp_path, "first")
    options = ("--certfile", str(certfile), "--keyfile", str(keyfile), "--trusted-proxies", "127.9.0.0/16")
    with RunningServer(WHOSE, *options, workers=3) as running:
        running.wait_until_full()
        yield running


def test_https_is_served_and_an_address_keeps_its_slot(server: RunningServer) -> None:
    assert server.url.startswith("https://")
    slots = {}
    for number in range(1, 61):  # of so few as 20, one in 740 times none would be for some slot
        address = f"127.0.6.{number}"
        found = [get(server, address) for _ in range(3)]
        assert {each["scheme"] for each in found} == {"https"}
        assert len({each["slot"] for each in found}) == 1
        slots[address] = found[0]["slot"]
    assert set(slots.values()) == {0, 1, 2}


def test_a_proxy_that_speaks_tls_to_us_is_believed_within(server: RunningServer) -> None:
    found = get(server, "127.9.0.1", **{"X-Forwarded-For": "192.0.2.7"})
    assert found["client"] == ["192.0.2.7", 0]
    assert get(server, "127.8.0.1", **{"X-Forwarded-For": "192.0.2.7"})["client"][0] == "127.8.0.1"  # type: ignore[index]


def test_rooms_and_hosted_websockets_are_served_over_wss(server: RunningServer) -> None:
    async def both() -> None:
        url = f"wss://127.0.0.1:{server.port}"
        async with asyncio.timeout(30), contextlib.AsyncExitStack() as ending:
            ours = await ending.enter_async_context(securely(f"{url}/connection/websocket"))
            await ours.send(json.dumps({"id": 1, "connect": {}}))
            assert "connect" in json.loads(await ours.recv())
            hosted = await ending.enter_async_context(securely(f"{url}/any"))
            assert json.loads(await hosted.recv())["slot"] in (0, 1, 2)

    asyncio.run(both())


def test_everybody_in_a_room_over_wss_hears_what_is_said_there(tmp_path: Path) -> None:
    async def talk(url: str) -> None:
        async with asyncio.timeout(60), contextlib.AsyncExitStack() as ending:
            members = [await ending.enter_async_context(securely(url)) for _ in range(40)]
            for member in members:
                await member.send(json.dumps({"id": 1, "connect": {"data": {"rooms": ["plain:x"]}}}))
                assert "plain:x" in json.loads(await member.recv())["connect"]["subs"]
            for number in range(3):
                publish = {"id": 2 + number, "publish": {"channel": "plain:x", "data": number}}
                await members[0].send(json.dumps(publish))
            for member in members[1:]:
                said: list[int] = []
                while len(said) < 3:
                    lines = str(await member.recv()).splitlines()
                    said += [json.loads(line)["push"]["pub"]["data"] for line in lines]
                assert said == [0, 1, 2]

    certfile, keyfile = make_certificate(tmp_path, "first")
    options = ("--anonymous", "--certfile", str(certfile), "--keyfile", str(keyfile))
    with RunningServer(SDK_APP, *options, workers=1) as server:
        server.wait_until_full()
        asyncio.run(talk(f"wss://127.0.0.1:{server.port}/connection/websocket"))


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_worker_answers_probes_over_tls_for_every_host(tmp_path: Path, path: str) -> None:
    certfile, keyfile = make_certificate(tmp_path, "first")
    options = ("--certfile", str(certfile), "--keyfile", str(keyfile), "--allowed-hosts", "chat.example.org")
    with RunningServer(WHOSE, *options, "--lame-duck", "600s", workers=2) as server:
        server.wait_until_full()
        status = {"/livez": "alive", "/readyz": "ready"}[path]
        assert get(server, "127.0.6.1", path, Host="evil.example") == {"status": status, "reasons": []}
        server.send_signal(signal.SIGTERM)
        server.log.wait_for(SERVER_LAME_DUCK)
        if path == "/readyz":
            while get(server, "127.0.6.1", path)["status"] != "unready":
                pass  # asking is the clock: a worker learns of it a moment later
        else:
            assert get(server, "127.0.6.1", path)["status"] == "alive"
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_plain_http_is_told_to_use_https(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"this port speaks TLS: use https://\n")


def test_who_begins_a_handshake_that_is_none_harms_nobody(tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, "first")
    options = ("--certfile", str(certfile), "--keyfile", str(keyfile), "--handshake", "1s")
    with RunningServer(WHOSE, *options, workers=1) as server:
        with socket.create_connection(("127.0.0.1", server.port), 30) as sock:
            sock.sendall(bytes.fromhex("1603010200010001fc0303") + bytes(504))
            while sock.recv(4096):
                pass
        assert get(server, "127.0.0.1")["slot"] == 0


def complaint(*options: str) -> str:
    argv = [sys.executable, "-m", "realtime", "serve", "--bind", "127.0.0.1:0", *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_files_that_are_no_certificate_and_key_are_told_by_name_at_the_start(tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, "one")
    good = ("--certfile", str(certfile), "--keyfile", str(keyfile))
    assert "gone.pem cannot be read" in complaint(*good[:3], str(tmp_path / "gone.pem"))
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = make_certificate(other, "two")
    assert "are no certificate and its key" in complaint(*good[:3], str(foreign))
    _, hidden = make_certificate(other, "three", b"password")
    assert "the key has a password" in complaint("--certfile", str(other / "cert.pem"), "--keyfile", str(hidden))
