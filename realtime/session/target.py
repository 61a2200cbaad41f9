"""
`Target`: the connections that an event goes to, as an application names them.

Pure, in the worker: plain data, from which every call returns another target. What an emit does is the application's
(application/emitting.py). A target knows neither the rooms there are nor a packet.

    await app.to("chat", "news").except_("muted").emit("message", {"text": "hello"})
    await conn.to("chat").volatile.emit("typing", conn.user)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from realtime.broker.base import ConnectionId
from realtime.rooms.event_rooms import MAIN
from realtime.threads import from_any_thread


class Sender(Protocol):
    """A connection, as the one that emits."""

    @property
    def id(self) -> ConnectionId:
        """The connection id."""


@dataclass(frozen=True, slots=True)
class FoundConnection:
    """One connection, on any worker of any machine, as `Target.connections` finds it."""

    id: str
    user: str
    address: str
    namespace: str
    rooms: tuple[str, ...]
    transport: str
    slot: int
    worker: str
    node: str


class Emitter(Protocol):
    """What does to connections what a target is asked for: the application that a worker runs."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker; None before it runs the application."""

    async def emit_to(self, target: Target, event: str, args: Sequence[Any]) -> None:
        """Send `event` with `args` to the connections that a target names."""

    async def call_all(self, target: Target, event: str, args: Sequence[Any], timeout_s: float) -> dict[str, Any]:
        """
        Send `event` with `args` to the connections that a target names, and return their acknowledgements by id.

        Args:
            timeout_s: for all of them to acknowledge.
        """

    async def move_all(self, target: Target, enters: Sequence[str], leaves: Sequence[str]) -> None:
        """Put the connections that a target names into the rooms `enters`, and out of the rooms `leaves`."""

    async def end_all(self, target: Target, code: int, reason: str) -> None:
        """Close the connections that a target names, with `code` and `reason`."""

    async def find_all(self, target: Target) -> list[FoundConnection]:
        """Return the connections that a target names."""


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where an event goes: all connections of a namespace, or those in some rooms, on all workers.

    Attributes:
        emitter: carries an emit out.
        namespace: of the connections.
        rooms: any of these; all connections of the namespace where there is none. A connection's id is the room of
            this connection alone.
        excluded: connections in any of these get nothing.
        sender: the connection that emits, which gets nothing itself; None for the application.
        is_local: only connections of this worker.
        is_volatile: a connection that cannot take the event at once does not get it.
    """

    emitter: Emitter
    namespace: str = MAIN
    rooms: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    sender: Sender | None = None
    is_local: bool = False
    is_volatile: bool = False

    def to(self, *rooms: str) -> Target:
        """Return this target with more rooms: a connection in several of them gets an event once."""
        return replace(self, rooms=_joined(self.rooms, rooms))

    def except_(self, *rooms: str) -> Target:
        """Return this target without the connections in these rooms, or with these ids."""
        return replace(self, excluded=_joined(self.excluded, rooms))

    @property
    def local(self) -> Target:
        """This target, as far as its connections are on this worker."""
        return replace(self, is_local=True)

    @property
    def volatile(self) -> Target:
        """This target, as far as its connections can take an event at once: for what is of no use later."""
        return replace(self, is_volatile=True)

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application."""
        return self.emitter.event_loop()

    @from_any_thread
    async def emit(self, event: str, *args: Any) -> None:
        """
        Send an event.

        Into a declared room, alone, it is a publication: the room's history has it, and members of other protocols get
        it. By `conn.to(…)` it is the client's own publication: `on_publish` and the rates of the room hold.

        Args:
            event: its name.
            args: anything that JSON can say, and bytes anywhere in it.

        Raises:
            ReservedEvent: Socket.IO keeps this name for itself.
            AnswerError: JSON cannot say an argument; the text names the field.
            RoomIsDeclared: a declared room is among several rooms, or the emit into it is local or volatile.
            UnknownNamespace: no declaration matches the namespace.
            BrokerUnavailable: some connections may have got it.
            ClientError: of `conn.to(…)` into a declared room: the client may not publish there, or not now.
            RuntimeError: no worker runs this application.
        """
        await self.emitter.emit_to(self, event, args)

    @from_any_thread
    async def call(self, event: str, *args: Any, timeout_s: float) -> dict[str, Any]:
        """
        Send an event that each connection is to acknowledge, and return by connection id what each acknowledges with,
        as `conn.call` does. Without a connection: nothing, at once.

        Args:
            event: its name.
            args: as of `emit`.
            timeout_s: how long to wait for all.

        Raises:
            AnswersMissing: some connections, or all of some workers, did not acknowledge in time. It has the answers
                that came, and the ids of those that are missing.
            ReservedEvent, AnswerError, UnknownNamespace, BrokerUnavailable, RuntimeError: as `emit`.
        """
        return await self.emitter.call_all(self, event, args, timeout_s)

    @from_any_thread
    async def enter(self, *rooms: str) -> None:
        """
        Put the connections into rooms, as `conn.enter` does. It returns before that has happened on other workers.
        Where a room refuses a connection, that goes to the log.

        Raises:
            UnknownNamespace, BrokerUnavailable, RuntimeError: as `emit`.
        """
        await self.emitter.move_all(self, _joined((), rooms), ())

    @from_any_thread
    async def leave(self, *rooms: str) -> None:
        """Take the connections out of rooms. It returns, and raises, as `enter`."""
        await self.emitter.move_all(self, (), _joined((), rooms))

    @from_any_thread
    async def disconnect(self, code: int = 3503, reason: str = "force disconnect") -> None:
        """
        Close the connections, behind what was emitted to them before. It returns before that has happened on other
        workers.

        Args:
            code: by the default the clients do not come back; by 3011 they reconnect.
            reason: as of `conn.disconnect`.

        Raises:
            UnknownNamespace, BrokerUnavailable, RuntimeError: as `emit`.
        """
        await self.emitter.end_all(self, code, reason)

    @from_any_thread
    async def connections(self) -> list[FoundConnection]:
        """
        Return the connections. A worker that does not answer within two seconds is left out, and the log says so.

        Raises:
            UnknownNamespace, BrokerUnavailable, RuntimeError: as `emit`.
        """
        return await self.emitter.find_all(self)


def _joined(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """
    Return rooms with more rooms, each once.

    Raises:
        TypeError: one is no text, as where a list is given for its elements.
    """
    for each in more:
        if not isinstance(each, str) or not each:
            raise TypeError(
                f"a room is a text that is not empty, and not {each!r}; write to(*rooms) for a list of them"
            )
    return tuple(dict.fromkeys((*before, *more)))
