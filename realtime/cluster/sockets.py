"""
`LocalSockets`: the connections of this worker that a message of events names, and what it asks for done to them.

Runs in the worker, as a part of the cluster bus. A message names rooms and ids of connections in one namespace; here
they become sessions, each once. The event is encoded once for all of them. It never sends a message itself.

**Order.** What this turn of the event loop has brought for rooms waits in their outboxes until the turn ends. It is
written before a message is done, so that a message does not overtake an earlier event of its sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from realtime.broker.base import Room
from realtime.cluster.messages import EmitEvent
from realtime.rooms.event_rooms import MAIN, event_room
from realtime.rooms.fanout import Subscriber
from realtime.session.registry import LocalSession, Registry


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

    __slots__ = ("_outboxes", "_rooms", "_sessions")

    def __init__(self, rooms: LocalRooms, outboxes: Outboxes, sessions: Registry) -> None:
        self._rooms = rooms
        self._outboxes = outboxes
        self._sessions = sessions

    def emit(self, message: EmitEvent) -> None:
        """Send an event to the connections that a message names."""
        self._outboxes.write_out()
        for session in self.pick(message.namespace, message.rooms, message.excluded):
            session.send_event(message.event, is_volatile=message.is_volatile)

    def pick(self, namespace: str, rooms: Iterable[str], excluded: Iterable[str]) -> list[LocalSession]:
        """
        Return the admitted connections of a namespace that are in any of `rooms`, or have it as their id; all of the
        namespace where there is none. Those in `excluded` are left out.
        """
        chosen = list(rooms) or [""]
        picked = {id(each): each for name in chosen for each in self._in(namespace, name)}
        for name in excluded:
            for each in self._in(namespace, name):
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
        if session is not None and session.connection.namespace == namespace:
            yield session
