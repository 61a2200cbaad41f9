"""
Records: what another worker has to know when this one dies.

Runs in the worker. A record is a *lasting* member of a private room at the broker: when its worker is gone, another
worker inherits it, and with it the duty that it stands for. Four kinds of private rooms hold them. The
beginning of its name says the kind; no client's room begins with a zero byte.

    leave   the members of a room whose `on_leave` is still to be called
    grace   the memberships of one user in one room that are in grace: by this a client that returns finds its own
    empty   the workers that are about to find out whether a room is empty
    end     the connections of one user whose `on_disconnect` is still to be called

A record that cannot be removed now stays postponed until `flush`. This file calls no handler.
"""

from __future__ import annotations

from realtime.broker.base import Broker, ClientInfo, ConnectionId, Room
from realtime.errors import BrokerUnavailable

LEAVE, GRACE, EMPTY, END = "\0l:", "\0a:", "\0e:", "\0d:"


class Records:
    """The records of one worker."""

    __slots__ = ("_broker", "_postponed")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._postponed: dict[tuple[Room, ConnectionId], None] = {}  # removals, in the order in which they failed

    async def add(self, record: Room, info: ClientInfo) -> None:
        """
        Add a record of a member or a connection, or replace it.

        Raises:
            BrokerUnavailable: it may or may not have been added.
        """
        await self._broker.add_member(record, info, announce=False, lasting=True)

    async def take(self, record: Room, connection_id: ConnectionId) -> int | None:
        """
        Remove a record. Of several workers that try, one gets how many others are left; the others get None.

        Raises:
            BrokerUnavailable: it may or may not have been removed, and nothing is postponed.
        """
        return await self._broker.remove_member(record, connection_id, announce=False)

    async def remove(self, record: Room, connection_id: ConnectionId) -> int | None:
        """Remove a record, as `take` does, now or as soon as the broker is back."""
        try:
            left = await self.take(record, connection_id)
        except BrokerUnavailable:
            self.schedule_removal(record, connection_id)
            return None
        self._postponed.pop((record, connection_id), None)
        return left

    def schedule_removal(self, record: Room, connection_id: ConnectionId) -> None:
        """Have `flush` remove a record."""
        self._postponed[record, connection_id] = None

    def is_postponed(self, record: Room, connection_id: ConnectionId) -> bool:
        """Whether the removal of a record waits for the broker."""
        return (record, connection_id) in self._postponed

    async def flush(self) -> None:
        """Do every removal that is postponed. What cannot be done now stays postponed."""
        for record, connection_id in list(self._postponed):
            await self.remove(record, connection_id)

    @property
    def postponed(self) -> int:
        """How many removals wait for the broker."""
        return len(self._postponed)


def leave_record(room: Room) -> Room:
    """Return where the members of a room have their records."""
    return Room(LEAVE + room)


def grace_record(room: Room, user: str) -> Room:
    """Return where a user's memberships in grace are. A length divides the two names, since both hold anything."""
    return Room(f"{GRACE}{len(user)}:{user}{room}")


def empty_record(room: Room) -> Room:
    """Return where the workers are that find out whether a room is empty."""
    return Room(EMPTY + room)


def end_record(user: str) -> Room:
    """Return where the connections of a user have their records."""
    return Room(END + user)


def room_of(name: Room) -> Room:
    """Return the room that a record of a member is about; a name that is no record's is the room itself."""
    if name.startswith((LEAVE, EMPTY)):
        return Room(name[len(LEAVE) :])
    if name.startswith(GRACE):
        length, _, rest = name.removeprefix(GRACE).partition(":")
        return Room(rest[int(length) :])
    return name


assert len(LEAVE) == len(EMPTY), "`room_of` cuts the same length off both"
