"""
Each transport reports the first byte that it reads, and the end of its connection: real sockets, no processes.

The primary forgets its copy of a connection after that report. tests/sticky/test_acknowledgements.py has when exactly.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from realtime.process.gateway import Gateway
from realtime.protocol.centrifuge.endpoints import ENDPOINTS
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.adopted import AdoptedConnections
from realtime.transport.asgi_host import ASGIHost, HostedOptions
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky.handoff.journal import NO_MARK
from sticky.handoff.messages import REFUSED
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing, Slot
from sticky.worker.adopted import Adopted
from sticky.worker.routes import Routes
from sticky.worker.settlement import Settlement
from tests.process.test_tls import make_certificate, trusting_anybody
from tests.realtime.transport.wire import Sessions
from tests.support.aio import run_async
from tests.support.one_worker import until

OURS = next(iter(ENDPOINTS.websocket_paths))
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TURNS = 100  # of the loop, in which nothing may be reported


class FixedTLS:
    """The TLS context of a certificate that is made in a directory. It is `TLSContexts`."""

    def __init__(self, directory: Path) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*make_certificate(directory, "here"))

    def context(self) -> ssl.SSLContext:
        return self._context


class Reports:
    """What transports have reported, in order. It is a `Settler`."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def first_byte_was_read(self, settlement: Settlement) -> None:
        self.events.append("read")

    def connection_has_ended(self, settlement: Settlement) -> None:
        self.events.append("ended")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class OneWorker:
    """A worker, as gateway and host know it. It is a `HostingWorker`, and `Primary` of the connections."""

    slot = Slot(0)
    worker_id = node = "here"

    def __init__(self) -> None:
        self.routes = Routes(Affinity(AffinitySettings()), Hashing(bytes(16)), Slot(0))

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes, is_relayed: bool = False) -> bool:
        return False

    def closed(self, *, peer_address: str) -> None:
        """Nothing has to be known of it."""


def make_gateway(parser: str, tls: FixedTLS | None = None) -> Gateway:
    worker = OneWorker()
    connections = AdoptedConnections(worker, worker.routes.keys)
    endpoint = WebSocketEndpoint(Sessions(), wheel=TimerWheel(0.0), owner=connections)
    host = ASGIHost(
        application,
        worker=worker,
        owner=connections,
        endpoint=endpoint,
        websocket_paths=ENDPOINTS.websocket_paths,
        options=HostedOptions(parser=parser),
    )
    return Gateway(endpoint, host, connections, endpoints=ENDPOINTS, tls=tls)


@asynccontextmanager
async def adopted(gateway: Gateway, reports: Reports, **facts: Any) -> AsyncIterator[socket.socket]:
    """Have a gateway adopt one end of a socket. Give the other end, as a client; closing it ends the connection."""
    ours, client = socket.socketpair()
    client.setblocking(False)
    fields: dict[str, Any] = {"kind": "http", "method": "GET", "path": "/", "upgrade": False, **facts}
    connection = Adopted(
        ours,
        "192.0.2.1",
        1,
        "http",
        sticky_id=None,
        new_sticky_id=None,
        peer_address="192.0.2.1",
        **{"reason": "ip", **fields},
        settlement=Settlement(reports, NO_MARK, 0.0),
    )
    (gateway.refuse if fields.get("reason") == REFUSED else gateway.adopt)(connection)
    try:
        yield client
    finally:
        client.close()
    await until(lambda: gateway.statistics()["open"] == 0)


@pytest.mark.parametrize("parser", ["httptools", "h11"])
@pytest.mark.parametrize(
    ("first", "facts"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", {}, id="request"),
        pytest.param(b"G", {}, id="one byte of a request"),
        pytest.param(HANDSHAKE % OURS.encode(), {"path": OURS, "upgrade": True}, id="WebSocket"),
        pytest.param(b"G", {"path": OURS, "upgrade": True}, id="one byte of a WebSocket"),
        pytest.param(HANDSHAKE % b"/ws", {"path": "/ws", "upgrade": True}, id="WebSocket of the application"),
        pytest.param(b"G", {"reason": REFUSED}, id="refused"),
    ],
)
@run_async
async def test_the_first_byte_and_the_end_are_reported_once(parser: str, first: bytes, facts: dict[str, Any]) -> None:
    reports = Reports()
    async with adopted(make_gateway(parser), reports, **facts) as client:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert reports.events == [], "nothing is there to be read"
        for data in (first, b"\r"):
            await asyncio.get_running_loop().sock_sendall(client, data)
            await until(lambda: reports.events)
            assert reports.events == ["read"]
    assert reports.events == ["read", "ended"]


@pytest.mark.parametrize("parser", ["httptools", "h11"])
@pytest.mark.parametrize(
    ("received", "facts"),
    [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", {}), (HANDSHAKE % OURS.encode(), {"path": OURS, "upgrade": True})],
)
@run_async
async def test_what_came_with_the_connection_was_read(parser: str, received: bytes, facts: dict[str, Any]) -> None:
    reports = Reports()
    async with adopted(make_gateway(parser), reports, received=received, **facts):
        await until(lambda: reports.events)
        assert reports.events == ["read"]
    assert reports.events == ["read", "ended"]


@pytest.mark.parametrize("parser", ["httptools", "h11"])
@run_async
async def test_a_connection_that_ends_unread_has_ended(parser: str) -> None:
    reports = Reports()
    async with adopted(make_gateway(parser), reports):
        pass
    assert reports.events == ["ended"]


@run_async
async def test_a_tls_connection_is_read_when_its_handshake_is_done(tmp_path: Path) -> None:
    reports = Reports()
    async with adopted(make_gateway("httptools", FixedTLS(tmp_path)), reports, kind="tls") as client:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert reports.events == []
        _, writer = await asyncio.open_connection(sock=client, ssl=trusting_anybody(), server_hostname="127.0.0.1")
        await until(lambda: reports.events)
        assert reports.events == ["read"]
        writer.transport.abort()
        await until(lambda: len(reports.events) > 1)
    assert reports.events == ["read", "ended"]


@run_async
async def test_a_tls_connection_whose_handshake_fails_has_ended(tmp_path: Path) -> None:
    reports = Reports()
    async with adopted(make_gateway("httptools", FixedTLS(tmp_path)), reports, kind="tls") as client:
        await asyncio.get_running_loop().sock_sendall(client, b"\x16\x03\x01 this is no handshake")
        await until(lambda: reports.events)
    assert reports.events == ["ended"]
