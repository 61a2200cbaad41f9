"""
The broker of a cluster of one worker: the contract around a `MemoryState`.

Runs in that worker. It never refuses a call for lack of a link, because there is none.

Theory of operation
===================

**Calls** change the state at once and never wait, so each call is atomic.

**Notifications** run in a later turn of the event loop, in the order of the calls. The hub may call the broker while it
handles a notification, and must not be called again before it returned. A room that is unsubscribed by then is skipped.

**When the process dies**, the state is gone (memory_state.py), and every caller with it. No caller is left with a call
whose result is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from realtime.broker.base import (
    BrokerListener,
    ClientInfo,
    ConnectionId,
    Departed,
    History,
    IgnoredEvents,
    MemberCounts,
    MembersPage,
    Position,
    Published,
    PublishRequest,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.memory_state import MemoryState, StoredMember
from realtime.broker.streams import Full
from realtime.errors import BrokerFull
from realtime.timing.rate import Rate


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
        assert self._sweeper is None, "a broker is started once"
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
        """Unsubscribe. The last one ends a stream that was never used."""
        self._subscribed.discard(room)
        self._state.streams.unwatched(room)

    async def publish(self, request: PublishRequest) -> Published:
        """
        Publish. The listener gets the publication in a later turn, as with a broker in another process: code that
        expects it before this returns would fail there.
        """
        room = request.room
        with self._refusing():
            published, sent = self._state.publish(
                self._clock(),
                room,
                request.publication(int(time.time() * 1000)),
                request.retention,
                request.idempotency_key,
                request.idempotency_ttl_s,
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
        create: bool = False,
    ) -> History:
        return self._state.history(self._clock(), room, retention, since, limit, reverse, create)

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
        self._state.add_member(room, StoredMember(self._worker, info, announce, lasting))
        if announce and (is_new or not quietly):
            self._notify(lambda listener: listener.on_join(room, info), room)

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        """Do nothing: there is no other worker that could take the member over."""

    async def remove_member(
        self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        """Remove a member, and return how many are left."""
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
