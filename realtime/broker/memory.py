"""
The contract's state inside one process, and the broker that keeps it for one worker.

`MemoryState` is pure: streams and idempotency keys (kept.py) and members in plain dictionaries; the time is an
argument, and what has to be told to others is returned. `MemoryBroker` is the thin shell around it for a cluster of
one worker, in that worker. The local broker (local_server.py) is the other shell: the same state for all workers of a
machine. Nothing is written to a disk: what a process kept ends with it, and its streams come back under another epoch.
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
    MemberCounts,
    MembersPage,
    Position,
    Publication,
    Published,
    PublishRequest,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.kept import Budget, Full, Streams, size_of
from realtime.errors import BrokerFull
from realtime.timing.rate import Meter, Rate

SWEEP_S: Final = 5.0  # how often what has expired is forgotten, where nobody asks for it before
SWEEP_MAX_S: Final = 30.0  # and where that takes long, with a million rooms
SWEEP_SHARE: Final = 100  # of the time, one part


@dataclass(frozen=True, slots=True)
class Member:
    """Who is present, whose it is, and what becomes of it without that worker."""

    worker: WorkerId
    info: ClientInfo
    announce: bool
    lasting: bool


class MemoryState:
    """
    Streams, members and idempotency keys, and how many bytes they are. Times are in seconds, on any clock that never
    goes back. What workers keep among themselves is counted and never refused: it belongs to connections, which are
    bounded, and to those who leave.
    """

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes that may be kept; what would be more raises `Full`, and changes nothing."""
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
        Add a publication. Return its position, and the publication as all get it, or None for a repetition.

        Raises:
            Full: there is no room for it.
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
        See that a client that is not there yet can be kept.

        Raises:
            Full: it cannot.
        """
        if not room.startswith(PRIVATE) and info.connection_id not in self._members.get(room, ()):
            self.streams.admit(now, _cost_of_member(room, info))

    def add_member(self, room: Room, member: Member) -> None:
        client = ConnectionId(member.info.connection_id)
        before = self._members.setdefault(room, {}).get(client)
        if before is not None:
            self.budget.held -= _cost_of_member(room, before.info)
            self._disown(before.worker, room, client)
        self.budget.held += _cost_of_member(room, member.info)
        self._members[room][client] = member
        self._owned.setdefault(member.worker, set()).add((room, client))

    def remove_member(self, room: Room, client: ConnectionId, owner: WorkerId | None = None) -> ClientInfo | None:
        """Remove a member, or only where `owner` has it. Return who that was, or None where nobody was removed."""
        members = self._members.get(room, {})
        found = members.get(client)
        if found is None or (owner is not None and found.worker != owner):
            return None
        del members[client]
        self.budget.held -= _cost_of_member(room, found.info)
        if not members:
            del self._members[room]
        self._disown(found.worker, room, client)
        return found.info

    def owner(self, room: Room, client: ConnectionId) -> WorkerId | None:
        """Return the worker that has a member, or None where nobody is there."""
        found = self._members.get(room, {}).get(client)
        return None if found is None else found.worker

    def _disown(self, worker: WorkerId, room: Room, client: ConnectionId) -> None:
        owned = self._owned[worker]
        owned.discard((room, client))
        if not owned:
            del self._owned[worker]

    def members(self, room: Room) -> dict[ConnectionId, ClientInfo]:
        return {client: member.info for client, member in self._members.get(room, {}).items()}

    def count(self, room: Room) -> int:
        return len(self._members.get(room, ()))

    def member_counts(self, room: Room) -> MemberCounts:
        members = self._members.get(room, {})
        return MemberCounts(len(members), len({member.info.user for member in members.values()}))

    def members_page(self, room: Room, cursor: str, limit: int) -> MembersPage:
        names = sorted(self._members.get(room, ()))
        begin = bisect.bisect_right(names, cursor)
        page = names[begin : begin + max(limit, 1)]
        more = page[-1] if begin + len(page) < len(names) else ""
        return MembersPage({client: self._members[room][client].info for client in page}, more)

    def reap(self, worker: WorkerId, heir: WorkerId | None) -> list[Departed]:
        """
        Remove every member of a worker; lasting ones go to its heir, and stay where there is none. Return each that was
        removed or has gone to the heir.
        """
        departed = []
        for room, client in sorted(self._owned.get(worker, ())):
            member = self._members[room][client]
            if not member.lasting:
                self.remove_member(room, client)
                departed.append(Departed(room, member.info, member.announce))
            elif heir is not None:
                self.add_member(room, replace(member, worker=heir))
                departed.append(Departed(room, member.info, member.announce, inherited=True))
        return departed

    def has_members(self, worker: WorkerId) -> bool:
        """Say whether anybody is left of a worker's."""
        return worker in self._owned

    # Rates

    def allow(self, now: float, room: Room, who: str, rate: Rate) -> bool:
        """
        Take one of a rate, and say whether it allowed that.

        Raises:
            Full: there is no room to count it.
        """
        meter = self._meters.get((room, who))
        if meter is None:
            cost = _cost_of_meter(room, who)
            self.streams.admit(now, cost)
            meter = self._meters[(room, who)] = Meter()
            self.budget.held += cost
        return meter.take(now, rate)

    # Forgetting

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        self.streams.sweep(now)
        for pair in [pair for pair, meter in self._meters.items() if meter.is_clear(now)]:
            del self._meters[pair]
            self.budget.held -= _cost_of_meter(*pair)

    def sweep_in_time(self, now: float) -> float:
        """Forget what has expired. Return after how many seconds it is to be done again."""
        begun = time.perf_counter()
        self.sweep(now)
        return min(max(SWEEP_S, SWEEP_SHARE * (time.perf_counter() - begun)), SWEEP_MAX_S)

    def statistics(self) -> dict[str, int]:
        return {
            **self.streams.statistics(),
            "members": sum(map(len, self._members.values())),
            "bytes": self.budget.held,
            "refused": self.budget.refused,
        }


def _cost_of_member(room: Room, info: ClientInfo) -> int:
    """Return about how many bytes a member takes: itself, and where it stands in its room and at its worker."""
    strings = size_of(info.user) + size_of(info.connection_id) + size_of(info.conn_info) + size_of(info.chan_info)
    return 500 + size_of(room) + strings


def _cost_of_meter(room: Room, who: str) -> int:
    return 300 + size_of(room) + size_of(who)


class MemoryBroker:
    """The broker of a worker that is alone. What it tells its listener comes in a later turn of the loop, in order."""

    in_order = True

    def __init__(
        self, worker: WorkerId, *, limit: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limit`: bytes that may be kept."""
        self._worker = worker
        self._clock = clock
        self._state = MemoryState(limit)
        self._subscribed: set[Room] = set()
        self._listener: BrokerListener | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._published = 0

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        self._sweep()

    def _sweep(self) -> None:
        pause_s = self._state.sweep_in_time(self._clock())
        self._sweeper = asyncio.get_running_loop().call_later(pause_s, self._sweep)

    async def close(self) -> None:
        self._reap(self._worker, None)
        self._listener = None
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def subscribe(self, room: Room) -> None:
        self._subscribed.add(room)

    async def unsubscribe(self, room: Room) -> None:
        self._subscribed.discard(room)
        self._state.streams.unwatched(room)

    async def publish(self, request: PublishRequest) -> Published:
        room = request.room
        with self._refusing():
            published, told = self._state.publish(
                self._clock(),
                room,
                request.publication(int(time.time() * 1000)),
                request.retention,
                request.idempotency_key,
                request.idempotency_ttl_s,
            )
        if told is not None:
            self._published += 1
            self._tell(lambda listener: listener.on_publication(room, told), room)
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
        is_new = self._state.owner(room, ConnectionId(info.connection_id)) is None
        if not quietly:
            with self._refusing():
                self._state.admit_member(self._clock(), room, info)
        self._state.add_member(room, Member(self._worker, info, announce, lasting))
        if announce and (is_new or not quietly):
            self._tell(lambda listener: listener.on_join(room, info), room)

    def release(self, room: Room, client: ConnectionId) -> None:
        """There is no other worker."""

    async def remove_member(
        self, room: Room, client: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        info = self._state.remove_member(room, client, self._worker if mine else None)
        if info is not None and announce:
            self._tell(lambda listener: listener.on_leave(room, info), room)
        return None if info is None else self._state.count(room)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        return self._state.members(room)

    async def member_counts(self, room: Room) -> MemberCounts:
        return self._state.member_counts(room)

    async def workers(self) -> Sequence[WorkerId]:
        return [self._worker]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        return self._state.members_page(room, cursor, limit)

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        with self._refusing():
            return self._state.allow(self._clock(), room, who, rate)

    async def reap(self, worker: WorkerId) -> None:
        self._reap(worker, self._worker)

    def _reap(self, worker: WorkerId, heir: WorkerId | None) -> None:
        reaped = self._state.reap(worker, heir)
        for departed in reaped:
            if departed.announce and not departed.inherited:
                self._tell(_leave(departed), departed.room)
        if reaped and worker != self._worker:
            self._tell(lambda listener: listener.on_departed(reaped))

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Say it as the contract does where there is no room for what is to be kept."""
        try:
            yield
        except Full:
            raise BrokerFull("memory:", self._state.budget.limit or 0) from None

    def _tell(self, say: Callable[[BrokerListener], None], room: Room | None = None) -> None:
        """Tell the listener in a later turn, if the room is still subscribed by then."""
        if room is not None and room not in self._subscribed:
            return

        def tell() -> None:
            if self._listener is not None and (room is None or room in self._subscribed):
                say(self._listener)

        asyncio.get_running_loop().call_soon(tell)

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        return {"kind": "memory", "link": "up", "published": self._published, **self._state.statistics()}


def _leave(departed: Departed) -> Callable[[BrokerListener], None]:
    return lambda listener: listener.on_leave(departed.room, departed.info)
