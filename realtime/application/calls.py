"""
What a worker asks of an application's handlers: those of connections, rooms and calls.

Runs in the worker, on its event loop. It answers the wire protocol's questions (`session.base.ApplicationCalls`) and
the hub's, of members that leave. It finds the handler, decodes what a client sent, and encodes what the handler
returns. It never speaks to a client itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from realtime.application.event_handler import EventHandler
from realtime.application.handlers import Handler
from realtime.application.namespaces import ANY_EVENT, DeclaredNamespaces
from realtime.application.room import Rooms
from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.errors import ClientError, Disconnect
from realtime.log_lines import log
from realtime.rooms.event_rooms import EVENT_ROOM_OPTIONS, is_event_room
from realtime.rooms.fanout import Accepts
from realtime.rooms.options import RoomOptions
from realtime.session.answers import encode
from realtime.session.connection import Connection
from realtime.session.events import encode_values

ACCEPTS_FAILED: Final = "accepts failed"  # its traceback follows; the member does not get the publication

logger = logging.getLogger("realtime.app")


class HandlerCalls:
    """The handlers of one application, as a worker calls them."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self._on: dict[str, Handler] = {}
        """By name, such as `on_connect`."""
        self._methods: dict[str, Handler] = {}
        self.namespaces = DeclaredNamespaces()

    # What the wire protocol asks

    def room_options(self, room: Room) -> RoomOptions | None:
        """Return how a room is kept, as its declaration says; None for a room that is none."""
        found = self.rooms.find(room)
        if found is None:
            return EVENT_ROOM_OPTIONS if is_event_room(room) else None
        return found.kind.options

    def room_patterns(self) -> Sequence[str]:
        """Return the patterns of all declared rooms."""
        return self.rooms.patterns

    async def connect(self, conn: Connection, data: bytes | None) -> bytes | None:
        """Admit a client: without a handler every client is admitted. Return data for it."""
        handler = self._on.get("on_connect")
        if handler is None:
            return None
        value = await handler(conn, handler.decode(data))
        return None if value is None else encode(value, _name_of, handler)

    @property
    def sees_moves(self) -> bool:
        """Whether there is a handler for moves."""
        return "on_migrate" in self._on

    async def migrate(self, conn: Connection, when: str) -> None:
        """See a connection before and after its move."""
        handler = self._on.get("on_migrate")
        if handler is not None:
            await handler(conn, when)

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Learn that an admitted client is gone."""
        handler = self._on.get("on_disconnect")
        if handler is not None:
            await handler(conn, code, reason)

    async def subscribe(self, conn: Connection, room: Room, data: bytes | None) -> bytes | None:
        """
        Admit a client to a room: without a handler every client is admitted. Return data for it.

        What the client sent is not looked at where the handler takes no `data`: most have none to check.
        """
        handler, variables = self._room_handler(room, "on_subscribe")
        if handler is None:
            return None
        value = handler.decode(data) if handler.positional > 1 else None
        answer = await handler(conn, value, **variables)
        return None if answer is None else encode(answer, _name_of, handler, room)

    async def publish(self, conn: Connection, room: Room, data: bytes) -> bytes | None:
        """Return what the room gets of a client's publication; None drops it."""
        handler, variables = self._room_handler(room, "on_publish")
        if handler is None:
            return data  # an open room
        value = await handler(conn, handler.decode(data), **variables)
        return None if value is None else encode(value, _name_of, handler, room)

    def accepts(self, conn: Connection, room: Room) -> Accepts | None:
        """
        Return what says of each publication whether this member gets it; None where it gets all.

        A predicate that raises says no: what it would have kept from the member may be secret.
        """
        handler, variables = self._room_handler(room, "accepts")
        if handler is None:
            return None

        def accept(publication: RawPublication) -> bool:
            try:
                return bool(handler.call_now(conn, publication.tags or {}, **variables))
            except Exception:  # noqa: BLE001 - logged with its traceback
                log(logger, logging.ERROR, ACCEPTS_FAILED, room=room, connection=conn.id, exc_info=True)
                return False

        return accept

    # What the hub asks, when members leave

    @property
    def has_end_hook(self) -> bool:
        """Whether there is a handler for connections that end."""
        return "on_disconnect" in self._on

    async def empty(self, room: Room) -> None:
        """Learn that the last member of a room has left; at least once."""
        handler, variables = self._room_handler(room, "on_empty")
        if handler is not None:
            await handler(**variables)

    async def lost(self, info: ClientInfo) -> None:
        """Learn that a client's worker has died with it. The record holds the connection as it was admitted."""
        assert info.conn_info is not None, "a record holds what is to be known"
        await self.disconnect(Connection.restore(info.conn_info), 1006, "its worker is gone")

    async def leave(self, room: Room, info: ClientInfo) -> None:
        """Learn that a member has left a room; at least once, also after a crash."""
        handler, variables = self._room_handler(room, "on_leave")
        if handler is not None:
            await handler(info, **variables)

    def _room_handler(self, room: Room, name: str) -> tuple[Handler | None, Mapping[str, Any]]:
        found = self.rooms.find(room)
        if found is None:
            return None, {}
        return found.kind.handlers.get(name), found.variables

    async def rpc_call(self, conn: Connection, method: str, data: bytes | None) -> bytes | None:
        """Answer a call. 104: no such method; 108: no methods at all."""
        handler = self._methods.get(method)
        if handler is not None:
            value = await handler(conn, handler.decode(data))
            return None if value is None else encode(value, _name_of, handler)
        if self._methods:
            raise ClientError(104, "method not found")
        raise ClientError(108, "not available")

    async def message(self, conn: Connection, data: bytes) -> None:
        """Take a message that expects no answer. Without a handler the connection ends: 3508."""
        handler = self._on.get("on_message")
        if handler is None:
            raise Disconnect(3508, "not available")
        await handler(conn, handler.decode(data))

    # Events

    def has_namespace(self, namespace: str) -> bool:
        """Say whether a namespace is declared."""
        return self.namespaces.find(namespace) is not None

    async def take_event(self, conn: Connection, name: str, args: Sequence[Any], *, wants_answer: bool) -> bytes | None:
        """
        Run the handler of an event. Return the arguments of its acknowledgement, where the client wants one: what the
        handler returned, each element of a tuple by itself. 104: there is no handler.
        """
        found = self.namespaces.find(conn.namespace)
        if found is None:
            raise ClientError(104, "event not found")
        handler = found.kind.handlers.get(name)
        if handler is None:
            handler = found.kind.handlers.get(ANY_EVENT)
            if handler is None:
                raise ClientError(104, "event not found")
            args = (name, *args)
        value = await handler(conn, args, found.variables)
        if not wants_answer:
            return None
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        return encode_values(values, _name_of, handler)


def _name_of(handler: Handler | EventHandler, room: Room | None = None) -> str:
    """Name an answer, for the error that it cannot be encoded."""
    of_room = "" if room is None else f" of room {room!r}"
    return f"{handler.where}: the answer of handler `{handler.name}()`{of_room}"
