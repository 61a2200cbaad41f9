"""
A WebSocket transport of ours with a session that writes everything down, for the tests beside this file.

`Wire` stands in for the socket: what was written is kept, and what is received comes in the pieces that a test cuts.
`Rig` holds a real socket instead, adopted as the gateway adopts one, with a raw client at its other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Handshake, Parameters, Transport
from realtime.transport.frames import apply_mask
from realtime.transport.handshake import Admission
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits
from tests.support.one_worker import until

HEAD = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\x37\xfa\x21\x3d"
FIN, CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x80, 0, 1, 2, 8, 9, 10
DEADLINE_S = 60.0


def frame(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """Write a client's frame; `first` is its first byte, whatever that may be."""
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        length = bytes((first, bit | size))
    elif size < 65536:
        length = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        length = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return length + (MASK + apply_mask(payload, MASK) if masked else payload)


def text(message: str) -> bytes:
    return frame(FIN | TEXT, message.encode())


def binary(message: bytes) -> bytes:
    return frame(FIN | BINARY, message)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(FIN | CLOSE, code.to_bytes(2, "big") + reason)


class Session:
    """Writes down what it is told. `on_message` may do more, with the transport."""

    def __init__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> None:
        self.transport = transport
        self.handshake = handshake
        self.subprotocol = subprotocol
        self.messages: list[bytes | str] = []
        self.pongs = 0
        self.ends: list[tuple[int, str]] = []
        self.told = asyncio.Event()
        self.ended = asyncio.Event()
        self.on_message: Callable[[bytes | str], None] = lambda message: None

    @property
    def log_fields(self) -> dict[str, Any]:
        return {"connection": "someone"}

    def receive(self, message: bytes | str) -> None:
        assert not self.ends, "nothing follows the end"
        self.messages.append(message)
        self.told.set()
        self.on_message(message)

    def pong_received(self) -> None:
        self.pongs += 1

    def connection_lost(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))
        self.ended.set()

    async def wait_for(self, count: int) -> list[bytes | str]:
        """Wait until so many messages came."""
        while len(self.messages) < count:
            self.told.clear()
            await asyncio.wait_for(self.told.wait(), DEADLINE_S)
        return self.messages

    def say(self, message: bytes) -> None:
        self.transport.write(self.transport.framing.frame(message))


class Sessions:
    """Makes sessions, and keeps them. `prepare` may change each, before its first message."""

    def __init__(self, prepare: Callable[[Session], None] = lambda session: None) -> None:
        self.subprotocols = ("first", "second")
        self.prepare = prepare
        self.all: list[Session] = []

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        return Parameters(query)

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Session:
        session = Session(transport, handshake, subprotocol)
        self.all.append(session)
        self.prepare(session)
        return session


class Wire(asyncio.Transport):
    """A socket that is none: keeps what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "nothing is written after the end of the stream"
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = pause_reading

    def abort(self) -> None:
        self.closed = True

    close = abort

    def is_closing(self) -> bool:
        return self.closed


class Rig:
    """An endpoint, and raw clients of it."""

    def __init__(
        self,
        prepare: Callable[[Session], None] = lambda session: None,
        *,
        admission: Admission | None = None,
        **limits: Any,
    ) -> None:
        self.sessions = Sessions(prepare)
        self.wheel = TimerWheel(0.0)
        self.lost = 0
        self.endpoint = WebSocketEndpoint(
            self.sessions,
            wheel=self.wheel,
            limits=WebSocketLimits(**limits),
            admission=admission,
            owner=self,
        )
        self._now_s = 0.0
        self._gone = asyncio.Event()

    def ended(self, peer: Peer) -> None:
        self.lost += 1
        self._gone.set()

    def pass_time(self, seconds: float) -> None:
        """Turn the wheel on, at once, by so many seconds."""
        self._now_s += seconds
        self.wheel.advance(self._now_s)

    async def wait_for_losses(self, count: int) -> None:
        while self.lost < count:
            self._gone.clear()
            await asyncio.wait_for(self._gone.wait(), DEADLINE_S)

    @contextlib.asynccontextmanager
    async def connect(self, received: bytes = b"") -> AsyncIterator[Client]:
        """Adopt one end of a socket; `received` was taken from it before. Give the other end, as a client."""
        ours, theirs = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: WebSocketTransport(self.endpoint, Peer("203.0.113.7", 4711), received), ours
        )
        reader, writer = await asyncio.open_connection(sock=theirs, limit=2**24)
        try:
            yield Client(reader, writer, protocol)
        finally:
            writer.transport.abort()
            transport.abort()
            await until(lambda: protocol not in self.endpoint.connections)

    @contextlib.asynccontextmanager
    async def open(self, after: bytes = b"", *, head: bytes = HEAD) -> AsyncIterator[tuple[Client, Session]]:
        """Connect, with the handshake done. `after`: bytes that came together with its head."""
        async with self.connect(head + after) as client:
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            yield client, self.sessions.all[-1]


class Client:
    """A client that may do everything wrong."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: WebSocketTransport | None = None
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol  # the server's side, where a test has it

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE_S)

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def frame(self) -> tuple[int, bytes]:
        """Read one frame of the server's: its first byte and its payload."""
        return await asyncio.wait_for(self._frame(), DEADLINE_S)

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        assert size < 0x80, "a server masks nothing"
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first, await self.reader.readexactly(size)

    async def close_frame(self) -> tuple[int, str]:
        """Read a close frame, which has to be the next one."""
        first, payload = await self.frame()
        assert first == FIN | CLOSE, (first, payload)
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else (1005, "")

    async def end(self) -> bytes:
        """Read to the end of the stream."""
        return await asyncio.wait_for(self.reader.read(), DEADLINE_S)
