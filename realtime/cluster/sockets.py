"""
`LocalSockets`: the connections of this worker that a message of events names, and what it asks for done to them.

Runs in the worker, as a part of the cluster bus. A message names a group: rooms and ids of connections in one
namespace. Here it becomes sessions, each once. An event is encoded once for all of them. It sends no message itself;
what has to be awaited runs as a task of the bus.

**Order.** What this turn of the event loop has brought for rooms waits in their outboxes until the turn ends. It is
written before a message is done, so that a message does not overtake an earlier event of its sender.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Protocol

from realtime.broker.base import Room
from realtime.cluster.messages import (
    CalledGroup,
    CallGroup,
    EmitEvent,
    EndGroup,
    FindGroup,
    FoundGroup,
    Group,
    MoveGroup,
    UserConnection,
)
from realtime.errors import BrokerUnavailable, ClientError, RealtimeError
from realtime.log_lines import log
from realtime.rooms.event_rooms import MAIN, event_room
from realtime.rooms.fanout import Subscriber
from realtime.session.events import encode_values
from realtime.session.registry import Home, LocalSession, Registry
from realtime.tasks import SideTasks

logger = logging.getLogger("realtime.cluster")


class LocalRooms(Protocol):
    """The rooms of this worker: the hub's registry."""

    def members(self, room: Room) -> Iterable[Subscriber]:
        """Return the members that a room has on this worker."""


class Outboxes(Protocol):
    """What this worker's rooms have not written yet: the hub's delivery."""

    def write_out(self) -> None:
        """Write what waits in the rooms' outboxes."""


class LocalSockets:
    """Picks connections, and does what a message asks for."""

    __slots__ = ("_home", "_outboxes", "_rooms", "_sessions", "_tasks")

    def __init__(self, home: Home, rooms: LocalRooms, outboxes: Outboxes, sessions: Registry, tasks: SideTasks) -> None:
        self._home = home
        self._rooms = rooms
        self._outboxes = outboxes
        self._sessions = sessions
        self._tasks = tasks

    def pick(self, group: Group) -> list[LocalSession]:
        """Return the connections of a group that are here."""
        chosen = group.rooms or ("",)
        picked = {id(each): each for name in chosen for each in self._in(group.namespace, name)}
        for name in group.excluded:
            for each in self._in(group.namespace, name):
                picked.pop(id(each), None)
        return list(picked.values())

    def _in(self, namespace: str, name: str) -> Iterator[LocalSession]:
        """Give the connections of a namespace in one room; in "/" also those in a declared room of this name."""
        rooms = [event_room(namespace, name)]
        if namespace == MAIN and name:
            rooms.append(Room(name))
        for room in rooms:
            for member in self._rooms.members(room):
                session = self._sessions.by_id(member.connection_id)
                if session is not None and session.connection.namespace == namespace:
                    yield session
        session = self._sessions.by_id(name)
        if session is not None and session.is_admitted and session.connection.namespace == namespace:
            yield session

    # What messages ask for

    def emit(self, message: EmitEvent) -> None:
        """Send an event to a group."""
        self._outboxes.write_out()
        for session in self.pick(message.group):
            session.send_event(message.event, is_volatile=message.is_volatile)

    def end(self, message: EndGroup) -> None:
        """Close the connections of a group, behind what was emitted to them before."""
        self._outboxes.write_out()
        for session in self.pick(message.group):
            session.end(message.code, message.reason)

    def move(self, message: MoveGroup) -> None:
        """Put the connections of a group into rooms and out of others. Each one's refusals go to the log alone."""
        for session in self.pick(message.group):
            self._tasks.spawn(_move(session, message))

    def find(self, request: FindGroup) -> FoundGroup:
        """Return the connections of a group that are here."""
        home = self._home
        places = [place_of(each) for each in self.pick(request.group) if each.is_admitted]
        return FoundGroup(request.number, home.worker, home.node, home.slot, places)

    async def call(self, request: CallGroup) -> CalledGroup:
        """Send an event to a group, and return what each connection acknowledges with, once all have or time is up."""
        self._outboxes.write_out()
        called = [each for each in self.pick(request.group) if each.is_admitted]
        answers = await asyncio.gather(*(_call(each, request) for each in called))
        by_id = {each.connection.id: answer for each, answer in zip(called, answers, strict=True)}
        silent = [str(connection_id) for connection_id, answer in by_id.items() if answer is None]
        given = {str(connection_id): answer for connection_id, answer in by_id.items() if answer is not None}
        return CalledGroup(request.number, self._home.worker, given, silent)


def place_of(session: LocalSession) -> UserConnection:
    """Return what other workers get to know of a connection."""
    connection = session.connection
    return UserConnection(
        connection.id,
        connection.address,
        sorted(connection.rooms),
        connection.transport,
        session.protocol_name,
        connection.user,
    )


async def _move(session: LocalSession, message: MoveGroup) -> None:
    """Move one connection."""
    try:
        for room in message.enters:
            await session.join(room)
        for room in message.leaves:
            await session.part(room)
    except (ClientError, BrokerUnavailable) as error:
        session.log_refusal("room", error, enters=message.enters, leaves=message.leaves)


async def _call(session: LocalSession, request: CallGroup) -> bytes | None:
    """Call one connection; None where it does not acknowledge."""
    try:
        values = await session.call(request.event, request.within_s)
    except (TimeoutError, RealtimeError) as error:
        log(logger, logging.DEBUG, "- not acknowledged", connection=session.connection.id, reason=error)
        return None
    return encode_values(values, lambda: "an acknowledgement")
