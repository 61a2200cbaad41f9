"""
The members of one room on one worker, and how they are written to.

Runs in the worker, on its event loop. Encodes each publication once per wire, joins all that arrived in one turn of the
loop into one buffer, and writes that buffer to every member: a burst of 16 costs one write per member. One `send` costs
the kernel 6 to 9 µs, the rest of a delivery a tenth of it, so joining is the lever that counts. It never awaits, never
asks the broker, and knows no positions but one: a member that came in while publications were under way has already
seen some of them (`seen`) and is served one by one until the room has caught up with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from realtime.broker.base import ClientInfo, Publication, Room


class Wire(Protocol):
    """One wire format on one kind of transport. Compared by identity: there is one object of each in a worker."""

    def publication(self, room: Room, publication: Publication) -> bytes:
        """Return the bytes that go to the socket."""

    def join(self, room: Room, info: ClientInfo) -> bytes: ...

    def leave(self, room: Room, info: ClientInfo) -> bytes: ...


class Writer(Protocol):
    """Where a member's bytes go. Never blocks, never raises."""

    def write(self, data: bytes) -> None: ...


class Subscriber(Protocol):
    """A connection's session, as the hub sees it."""

    @property
    def wire(self) -> Wire: ...

    @property
    def outlet(self) -> Writer: ...

    def insufficient(self, room: Room) -> None:
        """Learn that publications of this room are lost to this member, which is a member no longer."""


class Fanout:
    """The local members of one room, by wire."""

    __slots__ = ("_groups", "_late", "_watchers", "room", "size")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.size = 0
        self._groups: dict[Wire, dict[Writer, Subscriber]] = {}
        self._watchers: dict[Wire, dict[Writer, Subscriber]] = {}
        self._late: dict[Subscriber, int] = {}

    def add(self, subscriber: Subscriber, *, watches: bool, seen: int = 0) -> None:
        """
        Begin to write to a member.

        Args:
            subscriber: not a member yet.
            watches: it is told of joins and leaves as well.
            seen: publications up to this offset are never written to it; 0 when there is no such.
        """
        if seen:
            self._late[subscriber] = seen
        else:
            self._groups.setdefault(subscriber.wire, {})[subscriber.outlet] = subscriber
        if watches:
            self._watchers.setdefault(subscriber.wire, {})[subscriber.outlet] = subscriber
        self.size += 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Write nothing more to a member, from now on. Return whether it was one."""
        late = self._late.pop(subscriber, None)
        member = _discard(self._groups, subscriber)
        _discard(self._watchers, subscriber)
        if late is None and not member:
            return False
        self.size -= 1
        return True

    def deliver(self, publications: Sequence[Publication]) -> int:
        """Write publications, in order, to every member that has not seen them; return how many were written."""
        written = 0
        for wire, group in self._groups.items():
            buffer = b"".join([wire.publication(self.room, publication) for publication in publications])
            for writer in group:
                writer.write(buffer)
            written += len(group) * len(publications)
        if self._late:
            written += self._deliver_late(publications)
        return written

    def _deliver_late(self, publications: Sequence[Publication]) -> int:
        written = 0
        last = publications[-1].offset
        for subscriber, seen in list(self._late.items()):
            for publication in publications:
                if publication.offset > seen or publication.offset == 0:
                    subscriber.outlet.write(subscriber.wire.publication(self.room, publication))
                    written += 1
            if last >= seen:  # the room has caught up: from here on it gets what all get
                del self._late[subscriber]
                self._groups.setdefault(subscriber.wire, {})[subscriber.outlet] = subscriber
        return written

    def announce_join(self, info: ClientInfo) -> None:
        """Write a join to every member that watches."""
        for wire, group in self._watchers.items():
            buffer = wire.join(self.room, info)
            for writer in group:
                writer.write(buffer)

    def announce_leave(self, info: ClientInfo) -> None:
        """Write a leave to every member that watches."""
        for wire, group in self._watchers.items():
            buffer = wire.leave(self.room, info)
            for writer in group:
                writer.write(buffer)

    def clear(self) -> list[Subscriber]:
        """Remove every member, and return those who were."""
        gone = list(self)
        self._groups.clear()
        self._watchers.clear()
        self._late.clear()
        self.size = 0
        return gone

    def __iter__(self) -> Iterator[Subscriber]:
        for group in self._groups.values():
            yield from group.values()
        yield from self._late


def _discard(groups: dict[Wire, dict[Writer, Subscriber]], subscriber: Subscriber) -> bool:
    group = groups.get(subscriber.wire)
    if group is None or group.pop(subscriber.outlet, None) is None:
        return False
    if not group:
        del groups[subscriber.wire]
    return True


def total(fanouts: Iterable[Fanout]) -> int:
    """Count the memberships."""
    return sum(fanout.size for fanout in fanouts)
