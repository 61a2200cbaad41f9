"""
The broker's state inside one process, and the broker of a cluster of one worker.

`MemoryState` is pure: streams and idempotency keys (streams.py), and members, in plain dictionaries. The time is an
argument. What must be sent to subscribers is returned, never sent. Two thin shells use it: `MemoryBroker`, in the only
worker of a cluster, and local_server.py, for all workers of one machine.

Theory of operation
===================

**A member** is stored once by room (`_members`) and once by owner (`_owned`). It is *present* under one owner. Adding
it again moves it to the new owner. Removing it, or reaping its owner, ends it. A lasting member of a reaped owner goes
to the heir. Without an heir it stays under the dead owner until an heir exists.

Invariant 1: `_members` and `_owned` hold the same pairs of room and connection id. No empty dictionary stays in either.

Invariant 2: `Budget.used` is the sum of the costs of all streams, keys, members and meters. It is 0 when all are gone.

**Memory.** What a user of the broker adds can be refused with `Full`, before anything has changed. Rooms that workers
keep among themselves (`PRIVATE`) are counted and never refused. They belong to connections, whose number is bounded,
and losing them would lose leaves.

**Notifications** of `MemoryBroker` run in a later turn of the event loop, in the order of the calls. A room that is
unsubscribed by then is skipped.

**When the process dies**, everything stored is gone; nothing is written to a disk. Streams begin again under new
epochs, because the epochs derive from a random run id. A caller that got no answer cannot know whether its call
happened. With `MemoryBroker` the caller dies in the same process, so the question does not arise.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from realtime.broker.base import (
    PRIVATE,
    BrokerListener,
    ClientInfo,
    ConnectionId,
    Departed,
    History,
    IgnoredEvents,
    MemberCounts,
    MembersPage,
    Position,
    Publication,
    Published,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.streams import Budget, Full, Streams, size_of
from realtime.errors import BrokerFull
from realtime.timing.rate import Meter, Rate

SWEEP_S: Final = 5.0  # between two removals of everything that has expired
SWEEP_MAX_S: Final = 30.0  # the longest pause, when a removal takes long: with a million rooms
SWEEP_SHARE: Final = 100  # removals use at most one part in so many of the time


@dataclass(frozen=True, slots=True)
class Member:
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
        self.streams = Streams(self.budget, secrets.token_bytes(16))
        self._members: dict[Room, dict[ConnectionId, Member]] = {}
        self._owned: dict[WorkerId, set[tuple[Room, ConnectionId]]] = {}
        self._meters: dict[tuple[Room, str], Meter] = {}

    # Streams

    def publish(
        self,
        now: float,
        room: Room,
        publication: Publication,
        retention: Retention,
        idempotency_key: str | None,
        idempotency_ttl_s: float,
    ) -> tuple[Published, Publication | None]:
        """
        Add a publication, as `Streams.publish`. The caller must send the returned publication to the subscribers.

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
        begin: bool = False,
    ) -> History:
        return self.streams.history(now, room, retention, since, limit, reverse, begin)

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

    def add_member(self, room: Room, member: Member) -> None:
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

    # Expiry

    def sweep(self, now: float) -> None:
        """Remove everything that has expired."""
        self.streams.sweep(now)
        for pair in [pair for pair, meter in self._meters.items() if meter.is_clear(now)]:
            del self._meters[pair]
            self.budget.used -= _cost_of_meter(*pair)

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


class MemoryBroker:
    """The broker of a cluster of one worker. It calls its listener in a later turn of the event loop, in order."""

    in_order = True

    def __init__(
        self, worker: WorkerId, *, limit: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limit`: bytes that may be used."""
        self._worker = worker
        self._clock = clock
        self._state = MemoryState(limit)
        self._subscribed: set[Room] = set()
        self._listener: BrokerListener = IgnoredEvents()
        self._sweeper: asyncio.TimerHandle | None = None
        self._published = 0

    async def start(self, listener: BrokerListener) -> None:
        """Begin to remove expired state. There is nothing to connect to."""
        self._listener = listener
        self._sweep()

    def _sweep(self) -> None:
        """Remove everything that has expired, and schedule the next removal."""
        pause_s = self._state.sweep_in_time(self._clock())
        self._sweeper = asyncio.get_running_loop().call_later(pause_s, self._sweep)

    async def close(self) -> None:
        """Remove this worker's members. Lasting ones end with the process, because no other worker exists."""
        self._reap(self._worker, None)
        self._listener = IgnoredEvents()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def subscribe(self, room: Room) -> None:
        self._subscribed.add(room)

    async def unsubscribe(self, room: Room) -> None:
        self._subscribed.discard(room)
        self._state.streams.unwatched(room)

    async def publish(
        self,
        room: Room,
        data: bytes,
        *,
        retention: Retention,
        info: ClientInfo | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl_s: float = 300.0,
        exclude: str = "",
    ) -> Published:
        publication = Publication(
            data, info=info, tags=dict(tags) if tags else None, time_ms=int(time.time() * 1000), exclude=exclude
        )
        with self._refusing():
            published, sent = self._state.publish(
                self._clock(), room, publication, retention, idempotency_key, idempotency_ttl_s
            )
        if sent is not None:
            self._published += 1
            self._notify(lambda listener: listener.on_publication(room, sent), room)
        return published

    async def position(self, room: Room, *, retention: Retention) -> Position:
        return self._state.position(self._clock(), room, retention)

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        return self._state.positions(self._clock(), rooms)

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        begin: bool = False,
    ) -> History:
        return self._state.history(self._clock(), room, retention, since, limit, reverse, begin)

    async def forget_history(self, room: Room) -> None:
        self._state.forget_history(room)

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """Add a member. A quiet one is never refused: it is one that was admitted before, and returns."""
        is_new = self._state.owner(room, ConnectionId(info.connection_id)) is None
        if not quietly:
            with self._refusing():
                self._state.admit_member(self._clock(), room, info)
        self._state.add_member(room, Member(self._worker, info, announce, lasting))
        if announce and (is_new or not quietly):
            self._notify(lambda listener: listener.on_join(room, info), room)

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        """Do nothing: there is no other worker that could take the member over."""

    async def remove_member(
        self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        info = self._state.remove_member(room, connection_id, self._worker if mine else None)
        if info is not None and announce:
            self._notify(lambda listener: listener.on_leave(room, info), room)
        return None if info is None else self._state.count(room)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        return self._state.members(room)

    async def member_counts(self, room: Room) -> MemberCounts:
        return self._state.member_counts(room)

    async def workers(self) -> Sequence[WorkerId]:
        return [self._worker]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        return self._state.members_page(room, cursor, limit)

    async def allow(self, room: Room, subject: str, rate: Rate) -> bool:
        with self._refusing():
            return self._state.allow(self._clock(), room, subject, rate)

    async def reap(self, worker: WorkerId) -> None:
        self._reap(worker, None if worker == self._worker else self._worker)

    def _reap(self, worker: WorkerId, heir: WorkerId | None) -> None:
        """Reap a worker's members and announce them. This worker's own leave is no departure to report to itself."""
        reaped = self._state.reap(worker, heir)
        for departed in reaped:
            if departed.announce and not departed.inherited:
                self._notify(_leave(departed), departed.room)
        if reaped and worker != self._worker:
            self._notify(lambda listener: listener.on_departed(reaped))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn `Full` into the contract's error."""
        try:
            yield
        except Full:
            raise BrokerFull("memory:", self._state.budget.limit or 0) from None

    def _notify(self, call: Callable[[BrokerListener], None], room: Room | None = None) -> None:
        """Call the listener in a later turn, if the room is still subscribed by then."""
        if room is not None and room not in self._subscribed:
            return

        def notify() -> None:
            if room is None or room in self._subscribed:
                call(self._listener)

        asyncio.get_running_loop().call_soon(notify)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        return {"kind": "memory", "link": "up", "published": self._published, **self._state.statistics()}


def _leave(departed: Departed) -> Callable[[BrokerListener], None]:
    return lambda listener: listener.on_leave(departed.room, departed.info)
