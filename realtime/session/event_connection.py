"""
Events of a `Connection`: what an application calls to send them, to await acknowledgements, and to put a client into
rooms.

Runs in the worker, as the upper half of `Connection` (connection.py). It keeps nothing, and knows no packet: what has
to reach the client goes through the session that serves it, and what goes to others is a `Target`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from realtime.broker.base import ConnectionId
from realtime.rooms.event_rooms import MAIN
from realtime.session.events import encode_event, one_or_several
from realtime.session.target import Emitter, Target
from realtime.threads import done, from_any_thread, from_any_thread_at_once

ACKNOWLEDGE_S: Final = 60.0  # as long as python-socketio's `call` waits


class EventSession(Protocol):
    """What a connection asks of the session that serves it, of events; on the worker's event loop."""

    @property
    def emitter(self) -> Emitter:
        """What sends events to others: the application."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that serves the connection."""

    def send_event(self, event: bytes, *, is_volatile: bool = False) -> None:
        """Send an event; a volatile one only if the client can take it at once."""

    async def call(self, event: bytes, timeout_s: float) -> list[Any]:
        """Send an event, and return the arguments of the client's acknowledgement."""

    async def join(self, name: str) -> None:
        """Bring the client into a room, by the application's name for it."""

    async def part(self, name: str) -> None:
        """Take the client out of a room."""


class EventConnection:
    """A client that events are sent to. Every method may be called in any thread."""

    __slots__ = ()

    _session: EventSession

    @property
    def id(self) -> ConnectionId:
        """The connection id."""
        raise NotImplementedError("Connection has it")

    @property
    def namespace(self) -> str:
        """The namespace of Socket.IO that the client is in; "" with a protocol that has none."""
        raise NotImplementedError("Connection has it")

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop that serves this connection."""
        return self._session.event_loop()

    def emit(self, event: str, *args: Any, volatile: bool = False) -> Awaitable[None]:
        """
        Send the client an event at once, whether the result is awaited or not.

        In `on_connect` it follows the answer to the client's connect. A client of the Centrifuge protocol gets it as a
        message: `{"event": event, "args": [...]}`.

        Args:
            event: its name.
            args: anything that JSON can say, and bytes anywhere in it.
            volatile: drop it if the client cannot take it at once.

        Returns:
            What can be awaited, as the result of `send` can; it is done already.

        Raises:
            ReservedEvent: Socket.IO keeps this name for itself.
            AnswerError: JSON cannot say an argument; the text names the field.
            ConnectionMoved: another worker serves the client now.
        """
        self._emit(encode_event(event, args), volatile)
        has_left: Awaitable[None] = done()
        return has_left

    @from_any_thread_at_once
    def _emit(self, event: bytes, is_volatile: bool) -> None:
        self._session.send_event(event, is_volatile=is_volatile)

    @from_any_thread
    async def call(self, event: str, *args: Any, timeout_s: float = ACKNOWLEDGE_S) -> Any:
        """
        Send the client an event, and return what it acknowledges with: one value, a tuple of several, None for none.

        Args:
            event: its name.
            args: as of `emit`.
            timeout_s: how long to wait.

        Raises:
            TimeoutError: no acknowledgement came in time. One that comes later is ignored.
            ConnectionEnded: the client has gone, or goes meanwhile.
            NoAcknowledgements: the client's protocol has none (`conn.protocol`).
            ReservedEvent, AnswerError, ConnectionMoved: as `emit`.
        """
        return one_or_several(await self._session.call(encode_event(event, args), timeout_s))

    @from_any_thread
    async def enter(self, room: str) -> None:
        """
        Put this client into a room. Harmless where it is in it.

        A declared room asks its `on_subscribe`. Any other name is a room of events: it exists as long as connections of
        the same namespace are in it. In `on_connect` too the client gets what is emitted to the room from now on.

        Raises:
            UnknownChannel: the client is no client of Socket.IO, and the room is not declared (102).
            ClientError: `on_subscribe` refuses, or the client is in too many rooms (106).
            ConnectionMoved: another worker serves the client now.
        """
        await self._session.join(_checked(room))

    @from_any_thread
    async def leave(self, room: str) -> None:
        """
        Take this client out of a room. Harmless where it is not in it.

        Raises:
            UnknownChannel: as `enter`.
            ConnectionMoved: another worker serves the client now.
        """
        await self._session.part(_checked(room))

    def to(self, *rooms: str) -> Target:
        """
        Return the other connections in some rooms: `await conn.to("chat").emit("message", data)`.

        In a declared room the emit is the client's own publication: `on_publish` and the rates of the room hold, and
        the client has to be in it.

        Args:
            rooms: names of rooms in the client's namespace, or ids of connections.
        """
        return self.broadcast.to(*rooms)

    @property
    def broadcast(self) -> Target:
        """All other connections of the client's namespace: `await conn.broadcast.emit("joined", conn.user)`."""
        return Target(self._session.emitter, self.namespace or MAIN, sender=self)


def _checked(room: str) -> str:
    """
    Return the name of a room.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(room, str) or not room:
        raise TypeError(f"a room is a text that is not empty, and not {room!r}")
    return room
