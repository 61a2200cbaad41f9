"""
Too many connections of one address, with real processes and few descriptors: the others are served.

What is counted, and that it is counted wherever a connection is; who makes room when there is none; and that everybody
is told. The clients are addresses of the loopback network, or what a PROXY header says.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import DEADLINE_S, RunningServer
from tests.support.tiny_cluster import TinyCluster, answer, read_all

FLOOD, GOOD = "127.66.0.1", "127.0.0.7"
REASON = b"too many connections from this address\n"
HOLD = b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n"
BEGIN = b"GET / HTTP/1.1\r\nHost: tiny\r\n"


def hold(cluster: TinyCluster, client: str = FLOOD, before: bytes = b"") -> socket.socket:
    """Open a connection that a worker has and keeps."""
    sock = cluster.connect(client)
    sock.sendall(before + HOLD)
    answer(sock)
    return sock


def is_refused(sock: socket.socket) -> bool:
    """Read what a new connection is told, and close it. Return whether that it is one too many."""
    with sock:
        with contextlib.suppress(ConnectionError):
            received = sock.recv(4096)
            if received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"):
                assert received.endswith(REASON), received
                return True
            assert received.startswith(b"HTTP/1.1 200"), received
        return False


def asked(cluster: TinyCluster, client: str = FLOOD, before: bytes = b"") -> socket.socket:
    """Open one more connection and ask for something."""
    sock = cluster.connect(client)
    with contextlib.suppress(ConnectionError):  # it may be refused before it has said anything
        sock.sendall(before + BEGIN + b"\r\n")
    return sock


def wait_until_served(cluster: TinyCluster, client: str = FLOOD) -> None:
    """Ask until it is not one too many; asking is the clock."""
    cluster.wait_until(lambda _: not is_refused(asked(cluster, client)), f"{client} is served")


def hold_when_served(cluster: TinyCluster) -> socket.socket:
    """Open a connection that is kept, as soon as it is not one too many."""
    while True:  # the test's own deadline ends it
        sock = cluster.connect(FLOOD)
        with contextlib.suppress(ConnectionError):
            sock.sendall(HOLD)
            if sock.recv(12) == b"HTTP/1.1 200":
                return sock
        sock.close()


def counters(cluster: TinyCluster) -> dict[str, int]:
    found: dict[str, int] = cluster.status()["counters"]
    return found


def test_one_address_has_so_many_connections_wherever_they_are_and_others_have_theirs() -> None:
    with TinyCluster(connections_per_address=3) as cluster:
        held = [hold(cluster) for _ in range(2)]
        half = cluster.connect(FLOOD)
        half.sendall(BEGIN)
        cluster.wait_until(lambda status: status["before_head"] == 1, "one has not said yet what it wants")
        cluster.wait_until(lambda status: not any(each["unacked"] for each in status["workers"]), "two are a worker's")
        assert all(is_refused(asked(cluster)) for _ in range(20))
        assert counters(cluster)["refused_address"] == 20
        cluster.log.wait_for(rf"connection refused peer={FLOOD} connections=3")
        assert len(cluster.log.find_all(f"connection refused peer={FLOOD}")) < 20, "at most one a second"
        assert cluster.get(client=GOOD)["client"] == GOOD
        half.sendall(b"\r\n")
        assert answer(half)["client"] == FLOOD, "who was there is served on"
        half.close()
        held.pop().close()
        held += [hold_when_served(cluster), hold_when_served(cluster)]
        assert is_refused(asked(cluster)), "what ended is counted once"
        for sock in held:
            sock.close()


def test_every_end_is_counted() -> None:
    """Connections of one address, one after another and each as it likes, where one is allowed."""
    with TinyCluster(connections_per_address=1, handshake_s=60.0) as cluster:
        for number in range(24):
            sock = cluster.connect(FLOOD)
            with sock:
                if number % 4 == 0:
                    sock.sendall(BEGIN)  # and no more
                elif number % 4 == 1:
                    sock.sendall(b"no request at all\r\n\r\n")
                    read_all(sock)
                elif number % 4 == 2:
                    sock.sendall(BEGIN + b"\r\n")
                    answer(sock)
            cluster.wait_until(lambda status: status["counters"].get("accepted") == number + 1, "it has come")  # noqa: B023
            cluster.wait_until(lambda status: status["client_addresses"] == 0, "nothing is left of it")
        assert "refused_address" not in counters(cluster)


def test_what_a_dead_worker_had_is_not_counted_any_more() -> None:
    with TinyCluster(connections_per_address=3, workers=1) as cluster:
        held = [hold(cluster) for _ in range(3)]
        assert is_refused(asked(cluster))
        [pid] = cluster.pids().values()
        os.kill(pid, signal.SIGKILL)
        for sock in held:
            with sock, contextlib.suppress(ConnectionError):
                read_all(sock)
        cluster.wait_until(lambda _: pid not in cluster.pids().values() and cluster.pids(), "another serves")
        held = [hold(cluster) for _ in range(3)]
        assert is_refused(asked(cluster))
        for sock in held:
            sock.close()


def test_what_goes_on_in_another_worker_is_counted_once(tmp_path: Path) -> None:
    """Its worker dies before it has read it, so another serves it."""
    trap = tmp_path / "trap"
    config = {"die": "adopted", "path": str(trap)}
    with TinyCluster(connections_per_address=2, config=config) as cluster:
        trap.touch()
        held = [hold(cluster), hold(cluster)]
        assert not trap.exists(), "a worker died"
        assert is_refused(asked(cluster))
        held.pop().close()
        held.append(hold_when_served(cluster))
        assert is_refused(asked(cluster))
        for sock in held:
            sock.close()
        cluster.wait_until(lambda status: status["client_addresses"] == 0, "nothing is left of them")


def proxied(client: str) -> bytes:
    family = "TCP6" if ":" in client else "TCP4"
    return f"PROXY {family} {client} {client} 1 2\r\n".encode()


def test_behind_the_proxy_protocol_its_clients_are_counted_ipv6_by_64() -> None:
    options: dict[str, Any] = {"trusted": ["127.0.0.0/24"], "proxy_protocol": True, "connections_per_address": 2}
    with TinyCluster(**options) as cluster:
        same = ["2001:db8::1", "2001:db8::2", "2001:db8::3"]
        held = [hold(cluster, GOOD, proxied(client)) for client in same[:2]]
        held += [hold(cluster, GOOD, proxied("192.0.2.1")) for _ in range(2)]
        assert is_refused(asked(cluster, GOOD, proxied(same[2])))
        assert is_refused(asked(cluster, GOOD, proxied("192.0.2.1")))
        assert not is_refused(asked(cluster, GOOD, proxied("2001:db8:0:1::1")))
        assert not is_refused(asked(cluster, GOOD, proxied("192.0.2.2")))
        late = cluster.connect(GOOD)  # its header comes in pieces
        late.sendall(proxied("192.0.2.1")[:9])
        cluster.wait_until(lambda status: status["before_head"] == 1, "it has begun")
        late.sendall(proxied("192.0.2.1")[9:])
        assert is_refused(late)
        held += [hold(cluster, GOOD, b"PROXY UNKNOWN\r\n") for _ in range(4)]  # its own probes
        for sock in held:
            sock.close()


def test_trusted_proxies_and_unix_sockets_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    options: dict[str, Any] = {"trusted": ["127.0.0.0/24"], "connections_per_address": 1}
    with TinyCluster(binds=["127.0.0.1:0", f"unix:{path}"], **options) as cluster:
        forwarded = HOLD.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        socks = [cluster.connect(GOOD) for _ in range(4)]
        for _ in range(4):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            socks.append(sock)
        for sock in socks:
            sock.sendall(forwarded)
            assert answer(sock)["client"] == "192.0.2.1"
        held = hold(cluster)
        assert is_refused(asked(cluster))
        for sock in (*socks, held):
            sock.close()


# Few descriptors


@contextlib.contextmanager
def flood(cluster: TinyCluster, count: int, say: bytes, client: Callable[[int], str]) -> Iterator[list[socket.socket]]:
    socks = []
    try:
        for number in range(count):
            sock = cluster.connect(client(number))
            socks.append(sock)
            with contextlib.suppress(ConnectionError):
                sock.sendall(say)
        yield socks
    finally:
        for sock in socks:
            sock.close()


def said(socks: list[socket.socket]) -> list[bytes]:
    """Return what was said to each so far: the first line, or nothing."""
    found = []
    for sock in socks:
        readable, _, _ = select.select([sock], [], [], 0)
        line = b""
        if readable:
            with contextlib.suppress(ConnectionError):
                line = sock.recv(4096, socket.MSG_PEEK).partition(b"\r\n")[0]
        found.append(line)
    return found


@pytest.mark.parametrize(
    ("say", "sticky"),
    [(b"", "ip"), (BEGIN, "none"), (HOLD, "ip"), (HOLD, "none")],
    ids=["silent-ip", "half-none", "held-ip", "held-none"],
)
def test_one_address_cannot_hold_all_descriptors(say: bytes, sticky: str) -> None:
    """Also where no number was set. All workers and the primary have 64 descriptors."""
    with (
        TinyCluster(nofile=64, handshake_s=60.0, workers=1, sticky=sticky) as cluster,
        flood(cluster, 200, say, lambda number: FLOOD) as socks,
    ):
        for number in range(30):
            assert cluster.get(client=f"127.0.1.{number + 1}")["slot"] == 0, "honest clients are served"
        held = [hold(cluster, f"127.0.2.{number + 1}") for number in range(5)]
        lines = said(socks)
        assert set(lines) <= {b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable"}
        assert lines.count(b"HTTP/1.1 503 Service Unavailable") > 100
        assert counters(cluster)["refused_address" if say == HOLD else "refused_evicted"] > 100
        assert "out_of_descriptors" not in counters(cluster), "there always were some"
        for sock in held:
            sock.close()


def test_where_each_address_has_one_the_oldest_unfinished_head_makes_room() -> None:
    with TinyCluster(nofile=64, handshake_s=60.0) as cluster:
        held = hold(cluster, GOOD)
        with flood(cluster, 200, BEGIN, lambda number: f"127.66.{number // 200}.{number % 200 + 1}") as socks:
            assert cluster.get(client="127.0.0.8")["client"] == "127.0.0.8", "who comes and says all is served"
            cluster.wait_until(lambda status: status["counters"]["accepted"] >= 202, "nobody waits in the backlog")
            lines = said(socks)
            refused = lines.count(b"HTTP/1.1 503 Service Unavailable")
            assert 100 < refused < 200
            assert lines == [b"HTTP/1.1 503 Service Unavailable"] * refused + [b""] * (200 - refused), "oldest first"
            socks[-1].sendall(b"\r\n")
            assert answer(socks[-1])["slot"] in (0, 1), "who is left is served"
            held.sendall(b"again\r\n\r\n")
            assert held.recv(65536), "so is who was there"
        cluster.log.wait_for("out of descriptors .*raise the limit")
        assert len(cluster.log.find_all("out of descriptors")) == 1, "told once"
        held.close()


def test_whoever_comes_when_nobody_can_make_room_is_told_at_once() -> None:
    """All descriptors are of connections that wait for a stopped worker; the primary has no deadline for them soon."""
    with TinyCluster(nofile=64, handshake_s=60.0, patience_s=300.0, workers=1) as cluster:
        [pid] = cluster.pids().values()
        os.kill(pid, signal.SIGSTOP)
        try:
            with flood(cluster, 150, HOLD, lambda number: f"127.66.0.{number + 1}") as socks:
                cluster.wait_until(lambda status: status["counters"]["accepted"] >= 150, "nobody waits in the backlog")
                lines = said(socks)
                assert lines.count(b"HTTP/1.1 503 Service Unavailable") == counters(cluster)["refused_no_room"]
                rest = lines.count(b"")
                before = counters(cluster)
                assert cluster.status()["before_head"] == 0
                assert counters(cluster) == before, "with nobody to accept, nothing is tried again"
                os.kill(pid, signal.SIGCONT)
                assert rest > 20
                ready = [sock for sock, line in zip(socks, lines, strict=True) if not line]
                assert all(answer(sock)["slot"] == 0 for sock in ready), "who had room is served in the end"
                cluster.wait_until(lambda status: status["workers"][0]["unacked"] == 0, "they are the worker's alone")
                assert cluster.get(client=GOOD)["slot"] == 0
        finally:
            os.kill(pid, signal.SIGCONT)


# With real transports


WEBSOCKET = (
    "GET {} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
KINDS: dict[str, bytes] = {
    "WebSocket": WEBSOCKET.format("/connection/websocket").encode(),
    "hosted WebSocket": WEBSOCKET.format("/hosted/ws").encode(),
    "stream": b"GET /connection/uni_sse HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP": b"GET /hosted/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "health": b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n",
}
APP = """
from realtime import App

app = App()


async def hosted(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


app.mount("/hosted", hosted)
"""


def test_every_kind_of_connection_is_counted_until_it_ends(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--connections-per-address", "2", "--sticky", "none")
    with RunningServer("app.py", *options, workers=2, cwd=tmp_path) as server:
        server.wait_until_full()

        def begin(kind: str) -> tuple[bytes, socket.socket]:
            sock = socket.create_connection(("127.0.0.1", server.port), DEADLINE_S, (FLOOD, 0))
            with contextlib.suppress(ConnectionError):
                sock.sendall(KINDS[kind])
            return sock.recv(12), sock

        def begin_when_served(kind: str) -> socket.socket:
            while True:  # the test's own deadline ends it
                status, sock = begin(kind)
                if status in (b"HTTP/1.1 200", b"HTTP/1.1 101"):
                    return sock
                assert status == b"HTTP/1.1 503", (kind, status)
                sock.close()

        for _ in range(3):
            for kind in KINDS:
                socks = [begin_when_served(kind), begin_when_served(kind)]
                for other in KINDS:
                    status, refused = begin(other)
                    assert status == b"HTTP/1.1 503", f"{other} beside two of {kind}"
                    refused.close()
                for sock in socks:
                    sock.close()
        found: dict[str, Any] = server.status()
        assert found["counters"]["refused_address"] >= 3 * len(KINDS) ** 2
