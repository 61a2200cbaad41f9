"""
`NamespaceTransport`: the transport of one namespace's session. It writes through to the Engine.IO connection that all
namespaces of a client share.

Runs in the worker. It also has what only this wire protocol needs of a client in a namespace: events that the client
has to acknowledge, and what waits until the client is admitted. It never reads: namespaces.py does.

**Held back.** Until CONNECT is answered, all that is written waits here: events of `on_connect`, and of rooms that the
client is in by then. The answer leaves first, and what waits behind it in the same write. A client that is refused gets
none of it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from realtime.errors import ConnectionEnded
from realtime.protocol.socketio.packets import Packet, PacketType, framed
from realtime.transport.base import Framing, Handshake
from realtime.transport.frames import TEXT

HELD_MAX: Final = 1_048_576  # bytes that wait for an answer to CONNECT: as much as may wait for a slow client
HELD_OVERHEAD: Final = 64  # bytes that each waiting piece counts beside its own
CALLS_MAX: Final = 10_000  # events without an acknowledgement, so that a client which gives none costs little


class Engine(Protocol):
    """An Engine.IO connection, as namespaces use it (`engine.EngineConnection`)."""

    @property
    def handshake(self) -> Handshake:
        """What is known of the client since its first request."""

    @property
    def takes_now(self) -> bool:
        """Whether what is written now leaves at once."""

    def write(self, frames: bytes) -> None:
        """Send WebSocket frames. The caller looks into `left_behind.fallen_behind` afterwards."""

    def send(self, frames: bytes) -> None:
        """As `write`, for a caller that writes to this connection alone."""

    def close(self, reason: str) -> None:
        """Close in an orderly way. The user is notified within the call."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_congested_since(self) -> float | None: ...

    def buffered(self) -> int: ...

    def acknowledged_bytes(self) -> int: ...

    def limit_unsent(self, is_limited: bool) -> None: ...


class NamespacesOfClient(Protocol):
    """All namespaces of one client (`namespaces.Namespaces`), as the transport of one of them needs them."""

    def paused(self, transport: NamespaceTransport) -> None:
        """Read nothing more from the client: this namespace has enough."""

    def resumed(self, transport: NamespaceTransport) -> None:
        """Read on, where no other namespace has enough."""

    def ended(self, transport: NamespaceTransport, code: int) -> None:
        """Learn that this server has ended a session."""


class NamespaceTransport:
    """What one session writes to. Is its `Transport`, and the hub's `Writer`."""

    __slots__ = ("_calls", "_client", "_engine", "_held", "_held_bytes", "_number", "namespace")

    framing: Framing = TEXT
    has_close_frame = False

    def __init__(self, engine: Engine, client: NamespacesOfClient, namespace: str) -> None:
        self.namespace: Final = namespace
        self._engine = engine
        self._client = client
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        self._number = 0  # of the next event that is to be acknowledged
        self._calls: dict[int, asyncio.Future[list[Any]]] | None = None

    # As a transport

    def choose_framing(self, *, binary: bool) -> None:
        """Frames carry both."""

    def write(self, data: bytes) -> None:
        """Send frames, or hold them back until the client is admitted."""
        if self._held is None:
            if data:
                self._engine.write(data)
        elif data and self._held_bytes <= HELD_MAX:
            self._held.append(data)
            self._held_bytes += len(data) + HELD_OVERHEAD

    @property
    def is_overfull(self) -> bool:
        """Whether so much was to be held back that some of it is lost. The client cannot be admitted then."""
        return self._held_bytes > HELD_MAX

    @property
    def was_opened(self) -> bool:
        """Whether the client was admitted."""
        return self._held is None

    def open(self, answer: bytes) -> None:
        """Write the answer to CONNECT, and behind it what was held back."""
        assert self._held is not None, "CONNECT is answered once"
        held, self._held = self._held, None
        self._engine.send(b"".join((answer, *held)))

    def refuse(self, answer: bytes) -> None:
        """Write an answer that refuses the client, and drop what was held back."""
        assert self._held is not None, "a client that is admitted is refused no more"
        self._held.clear()
        self._engine.send(answer)

    def close(self, code: int, reason: str) -> None:
        """End the client's presence in the namespace, or its whole connection: `NamespacesOfClient.ended` decides."""
        self._client.ended(self, code)

    def pause_reading(self) -> None:
        self._client.paused(self)

    def resume_reading(self) -> None:
        self._client.resumed(self)

    def is_congested_since(self) -> float | None:
        return self._engine.is_congested_since()

    def buffered(self) -> int:
        return self._engine.buffered()

    def acknowledged_bytes(self) -> int:
        return self._engine.acknowledged_bytes()

    def limit_unsent(self, is_limited: bool) -> None:
        """Do nothing: other namespaces of the client may want all the room that the kernel has."""

    @property
    def takes_now(self) -> bool:
        """Whether what is written now leaves at once."""
        return self._held is None and self._engine.takes_now

    # Acknowledgements by the client

    def call(self, packet: Packet) -> asyncio.Future[list[Any]]:
        """
        Send an event with the next number, and return what becomes the arguments of its acknowledgement. A caller that
        waits no more cancels it.
        """
        if self._calls is None:
            self._calls = {}
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if len(self._calls) >= CALLS_MAX:
            answer.set_exception(ConnectionEnded(f"with {CALLS_MAX} events not acknowledged"))
            return answer
        number, calls = self._number, self._calls
        self._number += 1
        calls[number] = answer
        answer.add_done_callback(lambda _: calls.pop(number, None))
        packet.id = number
        self.write(framed(packet))
        return answer

    def acknowledged(self, number: int | None, values: list[Any]) -> None:
        """Take an acknowledgement. One that nothing waits for is not looked at."""
        answer = None if number is None or self._calls is None else self._calls.get(number)
        if answer is not None and not answer.done():
            answer.set_result(values)

    def abandon(self, connection_id: str) -> None:
        """Have all calls fail: the client has gone."""
        for answer in list((self._calls or {}).values()):
            if not answer.done():
                answer.set_exception(ConnectionEnded(connection_id))


def connect_packet(namespace: str, connection_id: str) -> bytes:
    """Return the answer to a CONNECT, framed. It has the one key that clients expect."""
    return framed(Packet(PacketType.CONNECT, namespace, data=b'{"sid":"%b"}' % connection_id.encode()))
