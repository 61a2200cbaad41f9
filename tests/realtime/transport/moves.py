"""
WebSockets that move between two endpoints of one process, over real TCP, for the tests beside this file.

`Walker` is one connection: its client is websockets' own, fed by hand, so that it reads and writes exactly when a test
says so; its session numbers what it writes and notes what it reads, wherever the connection is. A move takes the way
through bytes and a descriptor of its own, as one between two processes does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import uvloop
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from realtime.transport.handshake import Admission
from realtime.transport.left_behind import note
from realtime.transport.peer import Peer
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_export import WebSocketExport
from tests.realtime.transport.wire import Rig, Session

PATIENCE_S = 20.0
TURNS_MAX = 20_000  # of the loop, for something that comes
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
KERNEL_BYTES = 16 * 1024  # in each direction's buffers: little, so that something stays unsent
DEFLATE = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


def on(name: str, test: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on a fresh loop of that name."""
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(asyncio.wait_for(test, PATIENCE_S * 3))


async def until(is_so: Callable[[], object]) -> None:
    """Give turns of the loop away until it is so."""
    for _ in range(TURNS_MAX):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come")


class Walker:
    """A connection that moves between `rigs`, with both of its ends."""

    def __init__(self, rigs: list[Rig], sock: socket.socket, *, is_compressed: bool) -> None:
        self.rigs = rigs
        self.sock = sock  # the client's end
        offers = [DEFLATE] if is_compressed else None
        self.client = ClientProtocol(parse_uri("ws://h/c"), extensions=offers, max_size=None)
        self.out = bytearray()  # of the client, not yet sent
        self.sent: list[str | bytes] = []  # messages of the client
        self.read: list[str | bytes] = []  # by the client
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.is_eof = False
        self.written: list[str | bytes] = []  # by the session
        self.messages: list[str | bytes] = []  # that the session received
        self.ends: list[tuple[int, str]] = []
        self.drained = 0
        self.is_patient = False
        self.at = 0  # the rig where it is
        self.moves = 0
        self.transport: WebSocketTransport
        self._partial: list[bytes] = []
        self._opcode = Opcode.TEXT

    # The session

    @property
    def session(self) -> Session:
        """Make the session as it is here and now: it writes down what it is told, with the others of this walk."""
        session = Session(self.transport, None, None)
        session.messages, session.ends = self.messages, self.ends
        session.is_patient = self.is_patient
        session.drained = self._drained
        return session

    def _drained(self) -> None:
        self.drained += 1

    def write(self, message: str | bytes) -> None:
        """Write a message as the session."""
        payload = message.encode() if isinstance(message, str) else message
        framed = self.transport.framing.frame(payload)
        self.transport.write(framed)
        note(framed)
        self.written.append(message)

    # The client

    def ask(self) -> None:
        """Put what the client has to send behind the rest of it."""
        self.out += b"".join(self.client.data_to_send())

    def send(self, most: int = 2**30) -> None:
        """Send some of what the client has to send."""
        with contextlib.suppress(BlockingIOError):
            del self.out[: self.sock.send(self.out[:most])]

    def receive(self, most: int = 2**20) -> int:
        """Read some of what came for the client; return how many bytes."""
        try:
            data = self.sock.recv(most)
        except BlockingIOError:
            return 0
        if not data:
            self.is_eof = True
            return 0
        self.client.receive_data(data)
        assert self.client.parser_exc is None, self.client.parser_exc
        for event in self.client.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self.ask()
        return len(data)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.pongs.append(bytes(frame.data))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            assert frame.fin, "the server sends whole messages"
            payload = bytes(frame.data)
            self.read.append(payload.decode() if frame.opcode is Opcode.TEXT else payload)

    async def open(self) -> None:
        self.client.send_request(self.client.connect())
        self.ask()
        while self.client.state is State.CONNECTING:
            self.send()
            self.receive()
            await asyncio.sleep(0)
        assert self.client.state is State.OPEN, self.client.handshake_exc

    async def settle(self) -> None:
        """Send and read everything, and wait until both ends have all of it."""

        def is_done() -> bool:
            self.send()
            while self.receive():
                pass
            return (
                not self.out
                and self.read == self.written[: len(self.read)]
                and len(self.read) == len(self.written)
                and len(self.messages) == len(self.sent)
                and len(self.pongs) == len(self.pings)
            )

        await until(is_done)
        assert self.read == self.written
        assert self.messages == self.sent
        assert self.pongs == self.pings

    # Moves

    async def detach(self) -> None:
        """Bring the connection to where it can be exported."""
        self.transport.pause_reading()
        await self.transport.detach()
        assert self.transport.can_move is None

    async def move(
        self, before_attaching: Callable[[], None] = lambda: None, *, is_released_first: bool = True
    ) -> None:
        """Move the connection to the other rig."""
        old, self.at = self.transport, 1 - self.at
        await self.detach()
        new = self.arrive(old)
        before_attaching()
        if is_released_first:
            old.release()
        await new.attach(self.session, self._copy)
        old.release()
        self.moves += 1

    def arrive(self, old: WebSocketTransport) -> WebSocketTransport:
        """Export, and import what another process would get."""
        export = msgspec.msgpack.decode(msgspec.msgpack.encode(old.export()), type=WebSocketExport)
        self._copy = socket.socket(fileno=os.dup(old.descriptor))
        self.transport = WebSocketTransport.imported(self.rigs[self.at].endpoint, export.peer(), export)
        return self.transport

    async def refuse(self, before_attaching: Callable[[], None] = lambda: None) -> None:
        """Offer the connection, and take it back."""
        await self.detach()
        self.transport.export()
        await asyncio.sleep(0)
        self.transport.take_back()
        before_attaching()
        await self.transport.attach(self.session)


@contextlib.asynccontextmanager
async def walking(*, is_compressed: bool = False, kernel_bytes: int = KERNEL_BYTES, **limits: Any) -> Any:
    """Give an open connection of the first of two rigs."""
    loop = asyncio.get_running_loop()
    rigs = [Rig(admission=Admission(compression=is_compressed), **limits) for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        adopted, _ = listener.accept()
        walker = Walker(rigs, sock, is_compressed=is_compressed)
        _, walker.transport = await loop.connect_accepted_socket(
            lambda: WebSocketTransport(rigs[0].endpoint, peer()), adopted
        )
        await walker.open()
        rigs[0].sessions.all[0].messages = walker.messages
        rigs[0].sessions.all[0].ends = walker.ends
        rigs[0].sessions.all[0].drained = walker._drained
        rigs[0].sessions.all[0].is_patient = False
        try:
            yield walker
        finally:
            walker.transport.abort()
            await until(lambda: not rigs[0].endpoint.connections and not rigs[1].endpoint.connections)
            assert rigs[0].lost + rigs[1].lost == walker.moves + 1, "each copy that ended was counted once"


def peer() -> Peer:
    return WebSocketExport(address="203.0.113.7", client_port=4711, sticky_id="abc", peer_address="127.0.0.1").peer()


class Chatter:
    """What a client and a session say, at random."""

    def __init__(self, walker: Walker, chance: random.Random) -> None:
        self.walker = walker
        self.chance = chance
        self._parts: list[bytes] | None = None  # of the client's fragmented message
        self._is_text = True

    def _payload(self, most: int) -> bytes:
        size = self.chance.choice([0, 1, 5, 125, 126, 600, most])
        words = [b"room ", b"\xc3\xa9", b"{}", self.chance.randbytes(3).hex().encode()]
        return b"".join(self.chance.choices(words, k=size // 3)) if size else b""

    def client(self) -> None:
        """Have the client begin, go on with or end something."""
        walker, client, chance = self.walker, self.walker.client, self.chance
        if chance.random() < 0.2:
            payload = chance.randbytes(chance.randrange(20))
            client.send_ping(payload)
            walker.pings.append(payload)
        elif self._parts is not None:
            self._continue(is_last=chance.random() < 0.3)
        elif chance.random() < 0.5:
            payload = self._payload(3000)
            if chance.random() < 0.5:
                client.send_text(payload)
                walker.sent.append(payload.decode())
            else:
                client.send_binary(payload)
                walker.sent.append(payload)
        else:
            payload, self._is_text = self._payload(2000), chance.random() < 0.5
            cut = chance.randint(0, len(payload))
            self._parts = [payload]
            (client.send_text if self._is_text else client.send_binary)(payload[:cut], fin=False)
            client.send_continuation(payload[cut:], fin=False)  # which may be in the middle of a character
        walker.ask()

    def _continue(self, *, is_last: bool) -> None:
        assert self._parts is not None
        payload = self._payload(2000)
        self._parts.append(payload)
        self.walker.client.send_continuation(payload, fin=is_last)
        if is_last:
            message, self._parts = b"".join(self._parts), None
            self.walker.sent.append(message.decode() if self._is_text else message)

    def session(self, *, most: int) -> None:
        """Have the session write something, unless that makes the connection too slow."""
        walker = self.walker
        message = f"{len(walker.written)}: " + "x" * self.chance.choice([1, 100, 3000, 40_000, 200_000])
        if walker.transport.buffered() + len(message) + 14 <= most:
            walker.write(message)

    def finish(self) -> None:
        """End what the client has begun."""
        if self._parts is not None:
            self._continue(is_last=True)
            self.walker.ask()
