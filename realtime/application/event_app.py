"""
What an application declares and calls for events: the half of `App` that Socket.IO's users know.

Runs in the worker. Handlers are declared at import, and emits go out through the worker that runs the application
(emitting.py). Nothing here knows a packet.

    @app.event("message")
    async def message(conn: Connection, text: str) -> str:
        await conn.to("chat").emit("message", text)
        return "delivered"  # the acknowledgement
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from realtime.application import emitting
from realtime.application.calls import HandlerCalls
from realtime.application.declaration import written_as
from realtime.application.server_events import ServerEvents
from realtime.application.source import calling_place, place_of
from realtime.cluster.bus import ClusterBus
from realtime.errors import DeclarationError
from realtime.rooms.event_rooms import MAIN
from realtime.rooms.hub import Hub
from realtime.session.target import FoundConnection, Target
from realtime.threads import from_any_thread

F = TypeVar("F", bound=Callable[..., Any])


class EventApp(HandlerCalls):
    """The events of an application. Every method that is for users may be called in any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._server_events = ServerEvents()

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs this application; None before that."""
        raise NotImplementedError("Application has it")

    @property
    def hub(self) -> Hub:
        """The worker's rooms."""
        raise NotImplementedError("Application has it")

    @property
    def bus(self) -> ClusterBus:
        """What reaches the workers of all machines."""
        raise NotImplementedError("Application has it")

    # What a user declares

    @written_as('write @app.event("message"), with a name in parentheses')
    def event(self, name: str, *, namespace: str = MAIN) -> Callable[[F], F]:
        """
        Handle an event of Socket.IO's clients. Called with the connection and the event's arguments; what it returns is
        the acknowledgement: one value, several as a tuple, none for None.

        An argument whose parameter is annotated is validated before. `Reject` becomes an acknowledgement that is an
        error, where the client wants one.

        Args:
            name: of the event; "*" takes those that no other handler takes, with the name as the first argument.
            namespace: in which clients send it, or a pattern such as "/room-{id}", whose variables are given by name.

        Raises:
            DeclarationError: the event has a handler already, or is Socket.IO's own; the handler takes what it is not
                given; or the decorator is written without the name.
        """
        where = calling_place()
        if not isinstance(name, str):
            called = getattr(name, "__name__", repr(name))
            problem = f'`{called}`: write @app.event("message"), with a name in parentheses'
            raise DeclarationError(place_of(name) or where, problem)

        def register(function: F) -> F:
            self.namespaces.handle(namespace, name, function, place_of(function) or where)
            return function

        return register

    def namespace(self, name: str) -> Target:
        """
        Declare a namespace, or a pattern of namespaces such as "/room-{id}", and return all of its connections:
        `await app.namespace("/admin").emit("alert", text)`. In a running worker it has to be declared.

        Args:
            name: begins with "/".

        Raises:
            DeclarationError: this is no name of a namespace; or another pattern matches it, and neither has more
                literal characters.
        """
        if self.event_loop() is None:
            self.namespaces.declare(name, calling_place())
        return Target(self, name)

    @written_as('write @app.server_event("reload"), with a name in parentheses')
    def server_event(self, name: str) -> Callable[[F], F]:
        """
        Handle an event that another worker sends by `server_side_emit`. Called with the arguments alone.

        Args:
            name: of the event.

        Raises:
            DeclarationError: the event has a handler already, the handler takes what it is not given, or the decorator
                is written without the name.
        """
        if not isinstance(name, str):
            called = getattr(name, "__name__", repr(name))
            problem = f'`{called}`: write @app.server_event("reload"), with a name in parentheses'
            raise DeclarationError(place_of(name) or calling_place(), problem)

        def register(function: F) -> F:
            self._server_events.handle(name, function)
            return function

        return register

    # What a user calls

    @from_any_thread
    async def server_side_emit(self, event: str, *args: Any) -> None:
        """
        Send an event to all other workers of all machines, and to no client.

        Args:
            event: its name, as `@app.server_event` has it.
            args: anything that JSON can say, and bytes anywhere in it.

        Raises:
            ReservedEvent, AnswerError, BrokerUnavailable, RuntimeError: as `Target.emit`.
        """
        await self._server_events.emit(self.hub.broker, event, args)

    def to(self, *rooms: str) -> Target:
        """
        Return the connections in some rooms of the namespace "/": `await app.to("chat").emit("message", data)`.

        Args:
            rooms: names of rooms, or ids of connections.
        """
        return Target(self).to(*rooms)

    def except_(self, *rooms: str) -> Target:
        """Return the connections of the namespace "/" that are in none of these rooms."""
        return Target(self).except_(*rooms)

    @property
    def local(self) -> Target:
        """The connections of the namespace "/" that this worker serves."""
        return Target(self).local

    @property
    def volatile(self) -> Target:
        """All connections of the namespace "/", as far as they can take an event at once."""
        return Target(self).volatile

    @from_any_thread
    async def emit(self, event: str, *args: Any) -> None:
        """
        Send an event to all connections of the namespace "/", on all workers.

        Args:
            event: its name.
            args: anything that JSON can say, and bytes anywhere in it.

        Raises:
            ReservedEvent, AnswerError, BrokerUnavailable, RuntimeError: as `Target.emit`.
        """
        await Target(self).emit(event, *args)

    async def emit_to(self, target: Target, event: str, args: Sequence[Any]) -> None:
        """Send an event to the connections that a target names: what a `Target` calls."""
        await emitting.emit(self, target, event, args)

    async def call_all(self, target: Target, event: str, args: Sequence[Any], timeout_s: float) -> dict[str, Any]:
        """Return what connections acknowledge with: what a `Target` calls, as the following."""
        return await emitting.call(self, target, event, args, timeout_s)

    async def move_all(self, target: Target, enters: Sequence[str], leaves: Sequence[str]) -> None:
        """Put connections into rooms, and out of others."""
        await emitting.move(self, target, enters, leaves)

    async def end_all(self, target: Target, code: int, reason: str) -> None:
        """Close connections."""
        await emitting.end(self, target, code, reason)

    async def find_all(self, target: Target) -> list[FoundConnection]:
        """Return connections."""
        return await emitting.find(self, target)
