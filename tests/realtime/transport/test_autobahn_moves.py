"""
Autobahn's cases against an echo whose connections move every few milliseconds, in the middle of whatever comes or goes.

In one process, so that there are thousands of moves where a reload makes one; the way is that of `moves.py`. Autobahn's
verdict on each case without moves is what counts as good. tests/process/test_autobahn.py has the same with reloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.base import Framing, Handshake, Parameters, Transport
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT
from realtime.transport.flood import FloodLimits
from realtime.transport.frames import BINARY, TEXT
from realtime.transport.handshake import Admission
from realtime.transport.left_behind import fallen_behind, note
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits
from realtime.transport.websocket_export import WebSocketExport
from tests.realtime.transport.moves import LOOPS, peer
from tests.support.autobahn import run_cases, worse

AT_ONCE = 8  # cases that are open together
MANY = 500  # moves: what makes the test one
MIB = 1024 * 1024

# Not the large messages of 9.x, nor the thousands of compressed ones of 12.x and 13.x: these take minutes. One of each.
CASES = [
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.*",
    "7.*",
    "10.*",
    "9.1.3",
    "9.2.3",
    "9.3.5",
    "9.5.3",
    "9.7.4",
    "12.1.11",
]


class Echo:
    """A session that sends back what it gets."""

    is_patient = False
    log_fields: Mapping[str, Any] = {}

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def receive(self, message: bytes | str) -> None:
        is_compressed = self._transport.framing in (DEFLATED_TEXT, DEFLATED_BINARY)
        framing: Framing
        if isinstance(message, str):
            framing = DEFLATED_TEXT if is_compressed else TEXT
            framed = framing.frame(message.encode())
        else:
            framing = DEFLATED_BINARY if is_compressed else BINARY
            framed = framing.frame(message)
        self._transport.write(framed)
        if fallen_behind:
            note(framed)

    def end(self, code: int, reason: str) -> None:
        self._transport.close(code, reason)

    def pong_received(self) -> None: ...

    def drained(self) -> None: ...

    def connection_lost(self, code: int, reason: str) -> None: ...


class Echoes:
    """Makes an echo of each connection."""

    subprotocols = ()

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        return Parameters(query)

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Echo:
        transport.choose_framing(binary=False)
        return Echo(transport)


class Server:
    """A listening echo with two endpoints, between which its connections move."""

    def __init__(self) -> None:
        self.wheel = TimerWheel(asyncio.get_running_loop().time())
        limits = WebSocketLimits(message_bytes=32 * MIB, outbound_bytes=256 * MIB, flood=FloodLimits(0, 0, 0))
        admission = Admission(compression=True)
        self.endpoints = [
            WebSocketEndpoint(Echoes(), wheel=self.wheel, limits=limits, admission=admission) for _ in range(2)
        ]
        self.moves = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self, *, moving: bool) -> AsyncIterator[Server]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: WebSocketTransport(self.endpoints[0], peer()), "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/connection/websocket"
        tasks = [loop.create_task(run_wheel(self.wheel))]
        if moving:
            tasks.append(loop.create_task(self._move_all()))
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
            server.close()
            for connection in [each for endpoint in self.endpoints for each in endpoint.connections]:
                connection.abort()

    async def _move_all(self) -> None:
        """Move every connection that can, over and over."""
        while True:
            for here, there in (self.endpoints, self.endpoints[::-1]):
                for each in list(here.connections):
                    assert isinstance(each, WebSocketTransport)
                    if each.can_move is None:
                        await self._move(each, there)
                await asyncio.sleep(0.001)  # the clients and their connections have their turn

    async def _move(self, old: WebSocketTransport, there: WebSocketEndpoint) -> None:
        """Do what source and target of a migration do, in their order."""
        session = old.session
        assert session is not None, "it is open"
        old.pause_reading()
        await old.detach()
        if old.can_move is not None:
            if old.is_parked:
                await old.attach(session)
            old.resume_reading()
            return
        sock = socket.socket(fileno=os.dup(old.descriptor))
        export = msgspec.msgpack.decode(msgspec.msgpack.encode(old.export()), type=WebSocketExport)
        new = WebSocketTransport.imported(there, export.peer(), export)
        await new.attach(Echo(new), sock)
        old.release()
        self.moves += 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of kosoku
@pytest.mark.parametrize("loop", LOOPS)
def test_cases_are_as_good_while_their_connections_move(loop: str) -> None:
    async def both() -> None:
        async with Server().serving(moving=False) as server:
            before = await run_cases(server.url, CASES, at_once=AT_ONCE)
        assert len(before) > 250
        async with Server().serving(moving=True) as server:
            during = await run_cases(server.url, CASES, at_once=AT_ONCE)
            print(f"{server.moves} moves")
            assert server.moves > MANY
        assert worse(before, during) == []

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(both())
