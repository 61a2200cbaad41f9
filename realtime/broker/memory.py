"""
The contract's state inside one process, and the broker that keeps it for one worker.

`MemoryState` is pure: streams, members and idempotency keys in plain dictionaries; the time is an argument, and what
has to be told to others is returned. `MemoryBroker` is the thin shell around it for a cluster of one worker, in that
worker. The local broker (local_server.py) is the other shell: the same state for all workers of a machine. Nothing is
written to a disk: what a process kept ends with it, and its streams come back under another epoch.
"""

from __future__ import annotations

import asyncio
import bisect
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from realtime.broker.base import (
    BrokerListener,
    ClientId,
    ClientInfo,
    Departed,
    History,
    MemberCounts,
    MembersPage,
    Position,
    Publication,
    Published,
    Retention,
    Room,
    WorkerId,
)
from realtime.rate import Meter, Rate

SWEEP_S: Final = 30.0  # how often what has expired is forgotten, where nobody asks for it before


@dataclass(slots=True)
class Stream:
    """The publications of one room, oldest first, and the position after the last."""

    epoch: str
    offset: int = 0
    publications: deque[Publication] = field(default_factory=deque)
    published_at: float = 0.0
    expires_at: float = 0.0  # when even the position is forgotten

    def trim(self, now: float, retention: Retention) -> None:
        """Forget what is too old or too much."""
        if now - self.published_at >= retention.ttl_s:
            self.publications.clear()
        while len(self.publications) > retention.size:
            self.publications.popleft()


@dataclass(frozen=True, slots=True)
class Member:
    """Who is present, whose it is, and what becomes of it without that worker."""

    worker: WorkerId
    info: ClientInfo
    announce: bool
    lasting: bool


class MemoryState:
    """Streams, members and idempotency keys. Times are in seconds, on any clock that never goes back."""

    def __init__(self, new_epoch: Callable[[], str] = lambda: secrets.token_urlsafe(6)) -> None:
        self._new_epoch = new_epoch
        self._streams: dict[Room, Stream] = {}
        self._done: dict[tuple[Room, str], tuple[float, Position]] = {}
        self._members: dict[Room, dict[ClientId, Member]] = {}
        self._owned: dict[WorkerId, set[tuple[Room, ClientId]]] = {}
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
        """Add a publication. Return its position, and the publication as all get it, or None for a repetition."""
        if idempotency_key is not None:
            done = self._done.get((room, idempotency_key))
            if done is not None and done[0] > now:
                return Published(done[1], duplicate=True), None
        position = Position("", 0)
        if retention.size:
            stream = self._stream(now, room, retention)
            stream.offset += 1
            position = Position(stream.epoch, stream.offset)
            publication = Publication(
                publication.data,
                stream.offset,
                stream.epoch,
                publication.info,
                publication.tags,
                publication.time_ms,
                publication.exclude,
            )
            stream.trim(now, retention)  # what had expired does not come back with the next
            stream.published_at = now
            stream.publications.append(publication)
            stream.trim(now, retention)
        if idempotency_key is not None:
            self._done[(room, idempotency_key)] = (now + idempotency_ttl_s, position)
        return Published(position), publication

    def position(self, now: float, room: Room, retention: Retention) -> Position:
        stream = self._stream(now, room, retention)
        return Position(stream.epoch, stream.offset)

    def positions(self, now: float, rooms: Sequence[Room]) -> dict[Room, Position]:
        found = {}
        for room in rooms:
            stream = self._streams.get(room)
            if stream is not None and stream.expires_at > now:
                found[room] = Position(stream.epoch, stream.offset)
        return found

    def history(
        self, now: float, room: Room, retention: Retention, since: Position | None, limit: int, reverse: bool
    ) -> History:
        stream = self._stream(now, room, retention)
        stream.trim(now, retention)
        top = Position(stream.epoch, stream.offset)
        if limit <= 0:
            return History((), top)
        kept = list(stream.publications)
        if reverse:
            kept.reverse()
        if since is not None and reverse:
            kept = [publication for publication in kept if publication.offset < since.offset]
        elif since is not None:
            kept = [publication for publication in kept if publication.offset > since.offset]
        return History(kept[:limit], top)

    def forget_history(self, room: Room) -> None:
        stream = self._streams.get(room)
        if stream is not None:
            stream.publications.clear()

    def _stream(self, now: float, room: Room, retention: Retention) -> Stream:
        stream = self._streams.get(room)
        if stream is None or stream.expires_at <= now:
            stream = self._streams[room] = Stream(self._new_epoch())
        stream.expires_at = now + max(retention.meta_ttl_s, retention.ttl_s)
        return stream

    # Members

    def add_member(self, room: Room, member: Member) -> None:
        client = ClientId(member.info.client)
        before = self._members.setdefault(room, {}).get(client)
        if before is not None:
            self._disown(before.worker, room, client)
        self._members[room][client] = member
        self._owned.setdefault(member.worker, set()).add((room, client))

    def remove_member(self, room: Room, client: ClientId, owner: WorkerId | None = None) -> ClientInfo | None:
        """Remove a member, or only where `owner` has it. Return who that was, or None where nobody was removed."""
        members = self._members.get(room, {})
        found = members.get(client)
        if found is None or (owner is not None and found.worker != owner):
            return None
        del members[client]
        if not members:
            del self._members[room]
        self._disown(found.worker, room, client)
        return found.info

    def owner(self, room: Room, client: ClientId) -> WorkerId | None:
        """Return the worker that has a member, or None where nobody is there."""
        found = self._members.get(room, {}).get(client)
        return None if found is None else found.worker

    def _disown(self, worker: WorkerId, room: Room, client: ClientId) -> None:
        owned = self._owned[worker]
        owned.discard((room, client))
        if not owned:
            del self._owned[worker]

    def members(self, room: Room) -> dict[ClientId, ClientInfo]:
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
        return self._meters.setdefault((room, who), Meter()).take(now, rate)

    # Forgetting

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        for room in [room for room, stream in self._streams.items() if stream.expires_at <= now]:
            del self._streams[room]
        for key in [key for key, (expires_at, _) in self._done.items() if expires_at <= now]:
            del self._done[key]
        for pair in [pair for pair, meter in self._meters.items() if meter.is_clear(now)]:
            del self._meters[pair]

    def statistics(self) -> dict[str, int]:
        return {
            "streams": len(self._streams),
            "kept": sum(len(stream.publications) for stream in self._streams.values()),
            "members": sum(map(len, self._members.values())),
        }


class MemoryBroker:
    """The broker of a worker that is alone. What it tells its listener comes in a later turn of the loop, in order."""

    in_order = True

    def __init__(self, worker: WorkerId, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self._state = MemoryState()
        self._subscribed: set[Room] = set()
        self._listener: BrokerListener | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._published = 0

    async def start(self, listener: BrokerListener) -> None:
        self._listener = listener
        self._sweep()

    def _sweep(self) -> None:
        self._state.sweep(self._clock())
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def close(self) -> None:
        self._reap(self._worker, None)
        self._listener = None
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def subscribe(self, room: Room) -> None:
        self._subscribed.add(room)

    async def unsubscribe(self, room: Room) -> None:
        self._subscribed.discard(room)

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
        published, told = self._state.publish(
            self._clock(), room, publication, retention, idempotency_key, idempotency_ttl_s
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
    ) -> History:
        return self._state.history(self._clock(), room, retention, since, limit, reverse)

    async def forget_history(self, room: Room) -> None:
        self._state.forget_history(room)

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        is_new = self._state.owner(room, ClientId(info.client)) is None
        self._state.add_member(room, Member(self._worker, info, announce, lasting))
        if announce and (is_new or not quietly):
            self._tell(lambda listener: listener.on_join(room, info), room)

    def loosen(self, room: Room, client: ClientId) -> None:
        """There is no other worker."""

    async def remove_member(self, room: Room, client: ClientId, *, announce: bool, mine: bool = False) -> int | None:
        info = self._state.remove_member(room, client, self._worker if mine else None)
        if info is not None and announce:
            self._tell(lambda listener: listener.on_leave(room, info), room)
        return None if info is None else self._state.count(room)

    async def members(self, room: Room) -> Mapping[ClientId, ClientInfo]:
        return self._state.members(room)

    async def member_counts(self, room: Room) -> MemberCounts:
        return self._state.member_counts(room)

    async def workers(self) -> Sequence[WorkerId]:
        return [self._worker]

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        return self._state.members_page(room, cursor, limit)

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
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
