"""
One user of an application, wherever that user is connected.

Runs in the worker. A user has any number of connections, on any workers of any machines; nothing keeps a list of them.
A question therefore goes to all workers, and each answers for its own connections. An answer costs what the cluster has
workers, and a connection costs nothing for it. A worker that does not answer within two seconds is left out, and the
log says so. It asks no handler of the application.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from realtime.broker.base import Room
from realtime.cluster.bus import ClusterBus
from realtime.cluster.messages import DisconnectUser, SubscribeUser, UnsubscribeUser
from realtime.errors import UnknownRoom
from realtime.rooms.options import Declarations
from realtime.threads import from_any_thread


@dataclass(frozen=True, slots=True)
class Place:
    """
    One connection of a user: its id, the client's address, its rooms, where it is served, and by which transport
    (`websocket`, `http_stream`, `sse`, …) and protocol (`json`, `protobuf`).
    """

    connection_id: str
    address: str
    rooms: tuple[Room, ...]
    slot: int
    worker: str
    node: str
    transport: str = ""
    protocol: str = ""


class AppOfUsers(Declarations, Protocol):
    """The application that a handle belongs to, as far as a handle of a user needs it."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application; None before that."""

    @property
    def bus(self) -> ClusterBus:
        """Reaches the workers of all machines."""


class UserHandle:
    """
    A user by name. Every call may raise `BrokerUnavailable`. Every method may be called in any thread.
    """

    __slots__ = ("_app", "name")

    def __init__(self, app: AppOfUsers, name: str) -> None:
        self._app = app
        self.name = name

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application."""
        return self._app.event_loop()

    @from_any_thread
    async def connections(self) -> list[Place]:
        """Return every connection of the user, on all workers."""
        return await find(self._app.bus, self.name)

    @from_any_thread
    async def is_online(self) -> bool:
        """Say whether the user has a connection anywhere."""
        return bool(await self.connections())

    @from_any_thread
    async def disconnect(self, code: int = 3503, reason: str = "force disconnect", *, connection_id: str = "") -> None:
        """
        Close all connections of the user, or one.

        Args:
            code: by the default the clients do not come back; by 3011 they reconnect.
            reason: what the clients get beside the code.
            connection_id: the id of the one connection; "" for all.
        """
        await self._app.bus.send_all(DisconnectUser(self.name, connection_id, (), code, reason))

    @from_any_thread
    async def revoke_tokens(self) -> None:
        """Refuse every token of the user that was issued before now; a connection that has one needs another."""
        await self._app.bus.revoke(user=self.name)

    @from_any_thread
    async def subscribe(self, room: str, *, connection_id: str = "") -> None:
        """
        Subscribe all connections of the user, or one, to a room. No handler is called.

        Args:
            room: the room's name.
            connection_id: the id of the one connection; "" for all.

        Raises:
            UnknownRoom: no declaration matches the room's name; the text names those that there are.
        """
        bus = self._app.bus
        if self._app.room_options(Room(room)) is None:
            raise UnknownRoom(room, self._app.room_patterns())
        await bus.send_all(SubscribeUser(self.name, room, connection_id))

    @from_any_thread
    async def unsubscribe(self, room: str, *, connection_id: str = "") -> None:
        """
        End the subscription of all connections of the user, or of one, to a room.

        Args:
            room: the room's name.
            connection_id: the id of the one connection; "" for all.

        Raises:
            UnknownRoom: no declaration matches the room's name, and no connection of the user is in such a room. The
                text names the declarations that there are.
        """
        await check_leaves(self._app.bus, self._app, self.name, Room(room))
        await self._app.bus.send_all(UnsubscribeUser(self.name, room, connection_id))


async def find(bus: ClusterBus, user: str) -> list[Place]:
    """
    Ask every worker for the connections of a user.

    Raises:
        BrokerUnavailable: the workers cannot be asked.
    """
    return [
        Place(
            place.connection_id,
            place.address,
            tuple(map(Room, place.rooms)),
            answer.slot,
            answer.worker,
            answer.node,
            place.transport,
            place.protocol,
        )
        for answer in await bus.survey(user)
        for place in answer.places
    ]


async def check_leaves(bus: ClusterBus, declarations: Declarations, user: str, room: Room) -> None:
    """
    See that a user can be taken out of a room. After a deploy, connections may still be in a room that the new code
    lacks: so it is declared, or the user is in it.

    Raises:
        UnknownRoom: neither is so. The text names the patterns that there are.
        BrokerUnavailable: the workers cannot be asked.
    """
    if declarations.room_options(room) is None and not any(room in place.rooms for place in await find(bus, user)):
        raise UnknownRoom(room, declarations.room_patterns())
