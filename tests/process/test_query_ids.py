"""
A session without a cookie is found by the id in its query, under every stickiness.

Real processes: four workers, each with its own sessions. Every request with the id of a session has to be answered by
the worker that has it: on a connection of its own, as a later request of any connection, and as a handshake.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as websocket

from sticky.keys.hashing import Hashing, Slot
from tests.process.test_tls import make_certificate
from tests.support.http import Client
from tests.support.tiny_cluster import TinyCluster

WORKERS, SESSIONS = 4, 100
STICKY = ("ip", "session", "none")
SECRET = "s" * 32
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def start(sticky: str, **asked: Any) -> TinyCluster:
    options: dict[str, Any] = {"workers": WORKERS, "secret": SECRET, "balance": "round-robin", **asked}
    return TinyCluster(worker="tests.support.sid_worker", sticky=sticky, query_id_paths=["/io/"], **options)


@pytest.fixture(scope="module", params=STICKY)
def cluster(request: pytest.FixtureRequest) -> Iterator[TinyCluster]:
    with start(request.param) as running:
        yield running


def addresses() -> Iterator[str]:
    """Give one client address after another: by its address, a client without an id meets one worker only."""
    return (f"127.0.1.{number % 250 + 1}" for number in itertools.count())


class TLSClient(Client):
    """A client whose connection is encrypted up to the worker."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        super().__init__(port, address)
        self.stream.close()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock)
        self.stream = self.sock.makefile("rb")


@pytest.fixture(scope="module", params=["ip", "none"])
def encrypted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyCluster]:
    """A cluster whose workers terminate TLS: the primary sees no request."""
    certfile, keyfile = make_certificate(tmp_path_factory.mktemp("tls"), "sticky")
    config = {"certfile": str(certfile), "keyfile": str(keyfile)}
    with start(request.param, workers=2, tls=True, config=config) as running:
        yield running


@pytest.fixture(scope="module")
def encrypted_sessions(encrypted: TinyCluster) -> dict[str, int]:
    return make_sessions(encrypted, 40, TLSClient)


def visit(cluster: TinyCluster, address: str = "127.0.0.1") -> Client:
    return Client(cluster.address[1], address)


def request(
    sid: str | None, extra: str = "", *, method: str = "GET", body: bytes = b"", path: str = "/io/", pad: int = 0
) -> bytes:
    query = f"?EIO=4&transport=polling&pad={pad}" + (f"&sid={sid}" if sid else "") + "&t=x"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path}{query} HTTP/1.1\r\nHost: h\r\n{length}{extra}\r\n".encode() + body


def ask(client: Client, sid: str | None, extra: str = "", **options: Any) -> dict[str, Any]:
    client.send(request(sid, extra, **options))
    return client.answer()


@pytest.fixture(scope="module")
def sessions(cluster: TinyCluster) -> dict[str, int]:
    """Make sessions, each on a connection of its own, and return the process of each."""
    return make_sessions(cluster)


def make_sessions(cluster: TinyCluster, count: int = SESSIONS, make: type[Client] = Client) -> dict[str, int]:
    found: dict[str, int] = {}
    for address in itertools.islice(addresses(), count):
        with make(cluster.address[1], address) as client:
            answer = ask(client, None)
            found[answer["sid"]] = answer["pid"]
    assert set(found.values()) == set(cluster.pids().values()), "each worker has some"
    assert {len(sid) for sid in found} == {20}
    return found


def shuffled(sessions: dict[str, int]) -> list[tuple[str, int]]:
    found = list(sessions.items())
    random.Random(1).shuffle(found)
    return found


def test_each_request_on_a_connection_of_its_own_meets_its_worker(
    cluster: TinyCluster, sessions: dict[str, int]
) -> None:
    for (sid, pid), address in zip(shuffled(sessions) * 2, addresses(), strict=False):
        with visit(cluster, address) as client:
            answer = ask(client, sid)
            assert (answer["pid"], answer["known"], answer["client"]) == (pid, True, address)
            assert "set-cookie" not in answer["headers"]


def test_requests_of_many_sessions_on_one_connection_meet_their_workers(
    cluster: TinyCluster, sessions: dict[str, int]
) -> None:
    with visit(cluster) as client:
        for sid, pid in shuffled(sessions):
            for method, body in (("GET", b""), ("POST", b"42"), ("PUT", b"x" * 100_000)):
                answer = ask(client, sid, method=method, body=body)
                assert (answer["pid"], answer["known"], answer["body"]) == (pid, True, len(body))


def test_pipelined_requests_meet_their_workers_in_order(cluster: TinyCluster, sessions: dict[str, int]) -> None:
    wanted = shuffled(sessions)
    with visit(cluster) as client:
        client.send(b"".join(request(sid, method="POST", body=b"1") for sid, _ in wanted))
        assert [(answer["sid"], answer["pid"]) for answer in (client.answer() for _ in wanted)] == wanted


def test_requests_of_one_session_stay_where_they_are_and_so_do_those_without_one(
    cluster: TinyCluster, sessions: dict[str, int]
) -> None:
    with visit(cluster) as client:
        first = ask(client, None)
        before = cluster.status()["counters"].get("given_back", 0)
        for method in ("GET", "OPTIONS", "POST"):
            for path in ("/io/", "/page"):
                answer = ask(client, first["sid"], method=method, path=path)
                assert answer["pid"] == first["pid"], "with the id"
                assert ask(client, None, method=method, path=path)["pid"] == first["pid"], "and without"
        assert ask(client, first["sid"][::-1])["pid"] == first["pid"], "an id that no worker made is none"
    assert cluster.status()["counters"].get("given_back", 0) == before


def test_the_handshake_of_a_websocket_meets_the_worker_of_its_session(
    cluster: TinyCluster, sessions: dict[str, int]
) -> None:
    host, port = cluster.address
    for sid, pid in shuffled(sessions)[:20]:
        with websocket(f"ws://{host}:{port}/io/?EIO=4&transport=websocket&sid={sid}") as client:
            answer = json.loads(client.recv())
            assert (answer["pid"], answer["known"]) == (pid, True), "as the first request"
        with visit(cluster) as kept:
            ask(kept, None)
            assert upgraded(kept, sid)["pid"] == pid, "as a later one"


def upgraded(client: Client, sid: str) -> dict[str, Any]:
    """Send the handshake of a WebSocket, and return its only message."""
    client.send(request(sid, UPGRADE))
    assert b" 101 " in client.stream.readline()
    while client.stream.readline() != b"\r\n":
        pass
    _, length = client.stream.read(2)
    size = length if length < 126 else int.from_bytes(client.stream.read(2), "big")
    found: dict[str, Any] = json.loads(client.stream.read(size))
    return found


def test_a_decoy_leads_nowhere(cluster: TinyCluster, sessions: dict[str, int]) -> None:
    sids = shuffled(sessions)[:12]
    with visit(cluster) as client:
        here = ask(client, None)["pid"]
        for sid, _ in sids:
            for decoy in (f"/io/?xsid={sid}", f"/io/x?sid={sid}", f"/?sid={sid}", f"/io/?sid={sid}&sid={sid}"):
                client.send(f"GET {decoy} HTTP/1.1\r\nHost: h\r\nCookie: sid={sid}\r\n\r\n".encode())
                assert client.answer()["pid"] == here, decoy


def test_ids_lead_to_their_slot_whatever_becomes_of_its_worker_and_to_any_when_it_is_gone() -> None:
    """A worker dies, all are replaced, two slots go and come back: no other session notices that."""
    with start("none", workers=3, drain_s=1.0) as running:
        sessions = make_sessions(running, 30)
        pids = running.pids()
        os.kill(pids[2], signal.SIGKILL)
        running.wait_until(lambda status: running.pids().get(2, pids[2]) != pids[2], "slot 2 has another worker")
        check_answers(running, sessions, lost={2})
        running.command("scale", workers=1)
        running.wait_for_live([0])
        check_answers(running, sessions, lost={1, 2}, live=1)
        running.command("scale", workers=3)
        running.wait_for_live([0, 1, 2])
        check_answers(running, sessions, lost={1, 2})
        running.command("reload")
        running.wait_until(
            lambda status: len(running.pids()) == 3 and pids[0] not in running.pids().values(), "all were replaced"
        )
        running.wait_until(lambda status: len(status["workers"]) == 3, "the old workers are gone")
        check_answers(running, sessions, lost={0, 1, 2})


def check_answers(cluster: TinyCluster, sessions: dict[str, int], *, lost: set[int], live: int = 3) -> None:
    """Have each session found in its process. Those of lost workers get an answer, of their slot as long as it is."""
    hashing = Hashing(SECRET.encode())
    with visit(cluster) as kept:
        for sid, pid in shuffled(sessions):
            slot = hashing.slot_of_query_id(sid)
            assert slot is not None
            with visit(cluster) as alone:
                for answer in (ask(alone, sid), ask(kept, sid)):
                    assert answer["known"] is (slot not in lost)
                    assert slot in lost or answer["pid"] == pid
                    assert answer["slot"] == slot if slot < live else answer["slot"] < live


def test_while_a_secret_is_replaced_ids_of_both_are_read() -> None:
    old, new = "o" * 32, "n" * 32
    ids = {Hashing(secret.encode()).new_query_id(Slot(slot)): slot for secret in (old, new) for slot in range(2)}
    with start("none", workers=2, secret=new, secret_previous=old) as running, visit(running) as client:
        for sid, slot in ids.items():
            assert ask(client, sid)["slot"] == slot


# TLS that ends in the workers


def relayed(cluster: TinyCluster) -> int:
    """Return how many connections were relayed, by the last heartbeats."""
    return sum(each["statistics"].get("relayed", 0) for each in cluster.status()["workers"])


def test_each_request_over_tls_is_served_by_the_worker_of_its_session(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    pids = set()
    with TLSClient(encrypted.address[1]) as kept:
        for sid, pid in shuffled(encrypted_sessions):
            with TLSClient(encrypted.address[1]) as alone:
                for client, (method, body) in itertools.product(
                    (kept, alone), (("GET", b""), ("POST", b"x" * 300_000), ("GET", b""))
                ):
                    answer = ask(client, sid, method=method, body=body)
                    assert (answer["pid"], answer["known"], answer["body"]) == (pid, True, len(body))
                    assert (answer["client"], answer["scheme"]) == ("127.0.0.1", "https")
                pids.add(ask(alone, None)["pid"])
    assert pids <= set(encrypted.pids().values())
    encrypted.wait_until(lambda status: relayed(encrypted) > 0, "connections were relayed")


def test_requests_over_tls_that_belong_where_they_are_are_not_relayed(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    with TLSClient(encrypted.address[1]) as client:
        first = ask(client, None)
        for _ in range(3):
            assert ask(client, first["sid"])["pid"] == ask(client, None)["pid"] == first["pid"]
        other = next(sid for sid, pid in encrypted_sessions.items() if pid != first["pid"])
        assert ask(client, other)["known"]
        assert ask(client, first["sid"])["pid"] == first["pid"], "and back"


def test_answers_larger_than_all_buffers_come_whole_over_a_relay(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    with TLSClient(encrypted.address[1]) as client:
        for sid, pid in shuffled(encrypted_sessions)[:4]:
            client.send(request(sid, pad=5_000_000) + request(sid))
            found = client.answer()
            assert (found["pid"], len(found["pad"]), client.answer()["pid"]) == (pid, 5_000_000, pid)


def test_pipelined_requests_over_tls_are_answered_in_order(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    wanted = shuffled(encrypted_sessions)
    with TLSClient(encrypted.address[1]) as client:
        client.send(b"".join(request(sid, method="POST", body=b"1") for sid, _ in wanted))
        assert [(answer["sid"], answer["pid"]) for answer in (client.answer() for _ in wanted)] == wanted


def test_a_websocket_over_tls_is_served_by_the_worker_of_its_session(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    for sid, pid in shuffled(encrypted_sessions)[:8]:
        with TLSClient(encrypted.address[1]) as client:
            assert upgraded(client, sid)["pid"] == pid


def test_a_client_that_is_gone_leaves_no_relay_behind(
    encrypted: TinyCluster, encrypted_sessions: dict[str, int]
) -> None:
    for sid in encrypted_sessions:
        with TLSClient(encrypted.address[1]) as client:
            client.send(request(sid))
    encrypted.wait_until(
        lambda status: all(each["statistics"].get("open") == 0 for each in status["workers"]), "no connection is open"
    )


def test_a_reload_closes_relayed_connections_and_waits_for_none(encrypted: TinyCluster) -> None:
    sessions = make_sessions(encrypted, 20, TLSClient)
    before = set(encrypted.pids().values())
    with TLSClient(encrypted.address[1]) as client:
        here = ask(client, None)["pid"]
        assert ask(client, next(sid for sid, pid in sessions.items() if pid != here))["known"]
        encrypted.command("reload")
        assert client.stream.read() == b""
    encrypted.wait_until(
        lambda status: len(status["workers"]) == 2 and not before & set(encrypted.pids().values()), "all were replaced"
    )
    assert not any("drain deadline" in line for line in encrypted.log.lines)


def test_a_relayed_client_whose_session_has_died_is_closed_and_comes_back_to_an_answer() -> None:
    with tempfile.TemporaryDirectory() as directory:
        certfile, keyfile = make_certificate(Path(directory), "sticky")
        config = {"certfile": str(certfile), "keyfile": str(keyfile)}
        with start("none", workers=2, tls=True, config=config) as running:
            sessions = make_sessions(running, 8, TLSClient)
            with TLSClient(running.address[1]) as client:
                here = ask(client, None)["pid"]
                sid, pid = next((sid, pid) for sid, pid in sessions.items() if pid != here)
                assert ask(client, sid)["known"]
                os.kill(pid, signal.SIGKILL)
                assert client.stream.read() == b""
            running.wait_until(lambda status: pid not in running.pids().values(), "it was replaced")
            running.wait_for_live([0, 1])
            with TLSClient(running.address[1]) as client:
                assert ask(client, sid)["known"] is False
