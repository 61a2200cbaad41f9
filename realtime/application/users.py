"""
One user of an application, wherever that user is connected.

Runs in the worker. A user has any number of connections, on any workers of any machines; nothing keeps a list of them.
A question therefore goes to all workers, and each answers for its own connections. An answer costs what the cluster has
workers, and a connection costs nothing for it. A worker that does not answer within two seconds is left out, and the
log says so. It asks no handler of the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from realtime.broker.base import Room
from realtime.cluster.bus import ClusterBus
from realtime.cluster.messages import DisconnectUser, SubscribeUser, UnsubscribeUser
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


class UserHandle:
    """
    A user by name. Every call may raise `BrokerUnavailable`. Every method may be called in any thread.
    """

    __slots__ = ("_bus", "event_loop", "name")

    def __init__(
        self, name: str, bus: Callable[[], ClusterBus], event_loop: Callable[[], asyncio.AbstractEventLoop | None]
    ) -> None:
        self.name = name
        self._bus = bus
        self.event_loop = event_loop
        """Returns the event loop of the worker that runs the application."""

    @from_any_thread
    async def connections(self) -> list[Place]:
        """Return every connection of the user, on all workers."""
        return await find(self._bus(), self.name)

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
        await self._bus().send_all(DisconnectUser(self.name, connection_id, (), code, reason))

    @from_any_thread
    async def revoke_tokens(self) -> None:
        """Refuse every token of the user that was issued before now; a connection that has one needs another."""
        await self._bus().revoke(user=self.name)

    @from_any_thread
    async def subscribe(self, room: str, *, connection_id: str = "") -> None:
        """
        Subscribe all connections of the user, or one, to a room. No handler is called.

        Args:
            room: the room's name.
            connection_id: the id of the one connection; "" for all.
        """
        await self._bus().send_all(SubscribeUser(self.name, room, connection_id))

    @from_any_thread
    async def unsubscribe(self, room: str, *, connection_id: str = "") -> None:
        """
        End the subscription of all connections of the user, or of one, to a room.

        Args:
            room: the room's name.
            connection_id: the id of the one connection; "" for all.
        """
        await self._bus().send_all(UnsubscribeUser(self.name, room, connection_id))


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
