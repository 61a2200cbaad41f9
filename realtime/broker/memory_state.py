"""
The state of a broker in memory: streams and idempotency keys (streams.py), members, rate meters.

Pure: the time is an argument. What must be sent to subscribers is returned, never sent. Two thin shells use it:
memory.py in the only worker of a cluster, and local_server.py for all workers of one machine. Nothing is written to a
disk.

Theory of operation
===================

**A member** is stored once by room (`_members`) and once by owner (`_owned`). It is *present* under one owner. Adding
it again moves it to the new owner. Removing it, or reaping its owner, ends it. A lasting member of a reaped owner goes
to the heir. Without an heir it stays under the dead owner until an heir exists.

Invariant 1: `_members` and `_owned` hold the same pairs of room and connection id. No empty dictionary stays in either.

Invariant 2: `Budget.used` is the sum of the costs of all streams, keys, members and meters. It is 0 when all are gone.

**Memory.** What a user of the broker adds can be refused with `Full`, before anything has changed. Rooms that workers
keep among themselves (`PRIVATE`) are counted and never refused. They belong to connections, whose number is bounded,
and losing them would lose leaves. A member that returns after a lost link is not refused either: it was admitted
before.

**When the process dies**, everything stored is gone. Streams begin again under new epochs, because the epochs derive
from a random run id. A returning client therefore learns that it may have missed something.
"""

from __future__ import annotations

import bisect
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from realtime.broker.base import (
    PRIVATE,
    ClientInfo,
    ConnectionId,
    Departed,
    History,
    MemberCounts,
    MembersPage,
    Position,
    Published,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.memory_parts import PART_ENTRIES, MembersPart, MetersPart, Part, in_parts
from realtime.broker.streams import Budget, StreamStore, size_of
from realtime.timing.rate import Meter, Rate

SWEEP_S: Final = 5.0  # between two removals of everything that has expired
SWEEP_MAX_S: Final = 30.0  # the longest pause, when a removal takes long: with a million rooms
SWEEP_SHARE: Final = 100  # removals use at most one part in so many of the time


@dataclass(frozen=True, slots=True)
class StoredMember:
    """A present member, its owner, and what happens to it when the owner is reaped."""

    worker: WorkerId
    info: ClientInfo
    announce: bool
    lasting: bool


class MemoryState:
    """
    Streams, idempotency keys, members and rate meters, and how many bytes they use.

    Times are in seconds, on any clock that never goes back.
    """

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes that may be used. A call that needs more raises `Full` and changes nothing."""
        self.budget = Budget(limit)
        self.streams = StreamStore(self.budget, secrets.token_bytes(16))
        self._members: dict[Room, dict[ConnectionId, StoredMember]] = {}
        self._owned: dict[WorkerId, set[tuple[Room, ConnectionId]]] = {}
        self._meters: dict[tuple[Room, str], Meter] = {}

    # Streams

    def publish(
        self,
        now: float,
        room: Room,
        publication: RawPublication,
        retention: Retention,
        idempotency_key: str | None,
        idempotency_ttl_s: float,
    ) -> tuple[Published, RawPublication | None]:
        """
        Add a publication, as `StreamStore.publish`. The caller must send the returned publication to the subscribers.

        Raises:
            Full: there is no memory for it.
        """
        return self.streams.publish(
            now,
            room,
            publication,
            retention,
            idempotency_key,
            idempotency_ttl_s,
            is_bound=not room.startswith(PRIVATE),
        )

    def position(self, now: float, room: Room, retention: Retention) -> Position:
        return self.streams.position(now, room, retention)

    def positions(self, now: float, rooms: Sequence[Room]) -> dict[Room, Position]:
        return self.streams.positions(now, rooms)

    def history(
        self,
        now: float,
        room: Room,
        retention: Retention,
        since: Position | None,
        limit: int,
        reverse: bool,
        create: bool = False,
    ) -> History:
        return self.streams.history(now, room, retention, since, limit, reverse, create)

    def forget_history(self, room: Room) -> None:
        self.streams.forget_history(room)

    # Members

    def admit_member(self, now: float, room: Room, info: ClientInfo) -> None:
        """
        Check that there is memory for a member that is not present yet.

        Raises:
            Full: there is none.
        """
        if not room.startswith(PRIVATE) and info.connection_id not in self._members.get(room, ()):
            self.streams.admit(now, _cost_of_member(room, info))

    def add_member(self, room: Room, member: StoredMember) -> None:
        """Make a member present, under the owner that it names. A previous owner loses it."""
        connection_id = ConnectionId(member.info.connection_id)
        before = self._members.setdefault(room, {}).get(connection_id)
        if before is not None:
            self.budget.used -= _cost_of_member(room, before.info)
            self._disown(before.worker, room, connection_id)
        self.budget.used += _cost_of_member(room, member.info)
        self._members[room][connection_id] = member
        # After `_disown`, which removes the set of the same worker with its last entry.
        self._owned.setdefault(member.worker, set()).add((room, connection_id))

    def remove_member(
        self, room: Room, connection_id: ConnectionId, owner: WorkerId | None = None
    ) -> ClientInfo | None:
        """Remove a member; with `owner`, only where that worker owns it. Return it, or None where none was removed."""
        members = self._members.get(room, {})
        found = members.get(connection_id)
        if found is None or (owner is not None and found.worker != owner):
            return None
        del members[connection_id]
        self.budget.used -= _cost_of_member(room, found.info)
        assert self.budget.used >= 0, "add_member counted this very info (invariant 2)"
        if not members:
            del self._members[room]
        self._disown(found.worker, room, connection_id)
        return found.info

    def owner(self, room: Room, connection_id: ConnectionId) -> WorkerId | None:
        """Return the worker that owns a member, or None where that member is not present."""
        found = self._members.get(room, {}).get(connection_id)
        return None if found is None else found.worker

    def _disown(self, worker: WorkerId, room: Room, connection_id: ConnectionId) -> None:
        """Remove a member from its owner's set, and the set with its last entry."""
        owned = self._owned[worker]
        assert (room, connection_id) in owned, "a member is owned by the worker that its entry names (invariant 1)"
        owned.remove((room, connection_id))
        if not owned:
            del self._owned[worker]

    def members(self, room: Room) -> dict[ConnectionId, ClientInfo]:
        return {connection_id: member.info for connection_id, member in self._members.get(room, {}).items()}

    def count(self, room: Room) -> int:
        return len(self._members.get(room, ()))

    def member_counts(self, room: Room) -> MemberCounts:
        members = self._members.get(room, {})
        return MemberCounts(len(members), len({member.info.user for member in members.values()}))

    def members_page(self, room: Room, cursor: str, limit: int) -> MembersPage:
        """
        Return the members after `cursor`, in the order of their ids.

        The order does not depend on joins and leaves, so a member that stays is in exactly one page.
        """
        names = sorted(self._members.get(room, ()))
        begin = bisect.bisect_right(names, cursor)
        page = names[begin : begin + max(limit, 1)]
        more = page[-1] if begin + len(page) < len(names) else ""
        return MembersPage({connection_id: self._members[room][connection_id].info for connection_id in page}, more)

    def reap(self, worker: WorkerId, heir: WorkerId | None) -> list[Departed]:
        """
        Remove every member of a dead worker. Lasting members go to the heir, or stay where there is none.

        Return each member that was removed or inherited. The caller must announce the leaves.
        """
        assert heir != worker, "a dead worker cannot inherit from itself"
        departed = []
        for room, connection_id in sorted(self._owned.get(worker, ())):
            member = self._members[room][connection_id]
            if not member.lasting:
                self.remove_member(room, connection_id)
                departed.append(Departed(room, member.info, member.announce))
            elif heir is not None:
                self.add_member(room, replace(member, worker=heir))
                departed.append(Departed(room, member.info, member.announce, inherited=True))
        assert heir is None or worker not in self._owned, "what was not removed has the heir as its owner (invariant 1)"
        return departed

    def has_members(self, worker: WorkerId) -> bool:
        """Return whether a worker still owns a member."""
        return worker in self._owned

    # Rates

    def allow(self, now: float, room: Room, subject: str, rate: Rate) -> bool:
        """
        Count one action, and return whether it is within the rate.

        Raises:
            Full: there is no memory for another meter.
        """
        meter = self._meters.get((room, subject))
        if meter is None:  # a paid off meter was removed, and a new one means the same
            cost = _cost_of_meter(room, subject)
            self.streams.admit(now, cost)
            meter = self._meters[(room, subject)] = Meter()
            self.budget.used += cost
        return meter.take(now, rate)

    # Moving to another process

    def export(self) -> Iterator[Part]:
        """Give everything in parts, for `restore`. Nothing may change meanwhile."""
        yield from self.streams.export()
        members = ((room, each) for room, found in self._members.items() for each in found.values())
        for part in in_parts(members, PART_ENTRIES):
            yield MembersPart([(room, each.worker, each.info, each.announce, each.lasting) for room, each in part])
        for meters in in_parts(self._meters.items(), PART_ENTRIES):
            yield MetersPart([(*pair, meter.paid_at_s) for pair, meter in meters])

    def restore(self, part: Part) -> None:
        """Add a part of another process's state, in the order in which `export` gave them."""
        if isinstance(part, MembersPart):
            for room, worker, info, announce, lasting in part.members:
                self.add_member(Room(room), StoredMember(WorkerId(worker), info, announce, lasting))
        elif isinstance(part, MetersPart):
            for room, subject, paid_at_s in part.meters:
                self._meters[(Room(room), subject)] = Meter(paid_at_s)
                self.budget.used += _cost_of_meter(Room(room), subject)
        else:
            self.streams.restore(part)

    def owners(self) -> list[WorkerId]:
        """Return the workers that own members."""
        return list(self._owned)

    # Expiry

    def sweep(self, now: float) -> None:
        """Remove everything that has expired."""
        self.streams.sweep(now)
        for pair in [pair for pair, meter in self._meters.items() if meter.is_clear(now)]:
            del self._meters[pair]
            self.budget.used -= _cost_of_meter(*pair)
        assert self.budget.used >= 0, "each entry gives back what it took (invariant 2)"

    def sweep_in_time(self, now: float) -> float:
        """Remove everything that has expired. Return after how many seconds to call this again."""
        # By the real clock, whatever the clock of `now`: the event loop stands still for that long.
        begun = time.perf_counter()
        self.sweep(now)
        return min(max(SWEEP_S, SWEEP_SHARE * (time.perf_counter() - begun)), SWEEP_MAX_S)

    def statistics(self) -> dict[str, int]:
        return {
            **self.streams.statistics(),
            "members": sum(map(len, self._members.values())),
            "bytes": self.budget.used,
            "refused": self.budget.refused,
        }


def _cost_of_member(room: Room, info: ClientInfo) -> int:
    """Return about how many bytes a member uses: itself, and its entries by room and by owner."""
    strings = size_of(info.user) + size_of(info.connection_id) + size_of(info.conn_info) + size_of(info.chan_info)
    return 500 + size_of(room) + strings


def _cost_of_meter(room: Room, subject: str) -> int:
    return 300 + size_of(room) + size_of(subject)
