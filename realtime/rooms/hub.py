"""
The rooms that have members on this worker.

Runs in the worker, on its event loop: between a broker, which brings what was published anywhere, and the sessions of
the local members. A room is subscribed at the broker when its first local member enters and given up after its last.
It delivers what gaps.py finds to be whole, and tells the members what is lost to them. It never drops in silence. It
never speaks a wire format, and knows of a member no more than `fanout.Subscriber` says.

**Entering** is in two steps, for the answer to the client has to leave before the first publication:

    entry = await hub.enter(…)     # subscribed, registered, stream read; what arrives meanwhile is kept for the entry
    joined = entry.commit()        # what to tell the client          ┐
    …write the answer…             #                                  ├ in one turn: no await between these
    hub.activate(entry)             # from here on it is written to    ┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from realtime.broker.base import (
    Broker,
    ClientInfo,
    ConnectionId,
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
from realtime.errors import BrokerUnavailable
from realtime.rooms.census import LARGE, Census, Censuses
from realtime.rooms.departures import Departures, Hooks, Silent
from realtime.rooms.fanout import Accepts, Change, Difference, Subscriber, Wire, total
from realtime.rooms.gaps import GapDetection
from realtime.rooms.local_room import Insufficient, Joined, LocalRoom, PendingSubscription, RoomOptions
from realtime.rooms.presence import Presence
from realtime.rooms.presence_resync import SETTLE_S, PresenceResync
from realtime.rooms.presence_view import PresenceView
from realtime.rooms.recovery import replay
from realtime.tasks import begin
from realtime.timing.rate import Rate

VERIFY_S = 8.0  # a publication that pub/sub lost, with none after it to show the hole, is found within 10 s
CLOSE_S = 5.0  # for handlers of leaving members, when a worker ends
DIGEST_S: Final = 1.0  # in a large room joins and leaves are told once in this time
NOT_KEPT: Final = Retention()

__all__ = ["Hub", "Insufficient", "Joined", "PendingSubscription", "RoomOptions"]

logger = logging.getLogger("realtime.hub")


class Hub:
    """All rooms of one worker."""

    def __init__(
        self,
        broker: Broker,
        options_of: Callable[[Room], RoomOptions | None],
        *,
        hooks: Hooks | None = None,
        difference: Difference | None = None,
        worker: WorkerId | None = None,
        on_mail: Callable[[bytes], None] = lambda message: None,
        verify_s: float = VERIFY_S,
        settle_s: float = SETTLE_S,
        large: int = LARGE,
        digest_s: float = DIGEST_S,
    ) -> None:
        """
        Args:
            broker: not started yet; the hub starts and closes it.
            options_of: how a room is kept, or None where it is not declared.
            hooks: hears of those who leave.
            difference: makes deltas, for the rooms that have them.
            worker: the name by which others send mail to this one; it gets none without.
            on_mail: told what another worker sent; from one sender in order.
            verify_s: seconds between two comparisons of all positions with the broker's.
            settle_s: seconds after which who is missing, since the link is back, has left.
            large: members of a room above which joins and leaves are told together.
            digest_s: seconds between two times when they are.
        """
        self.presence = Presence(broker)
        self.options_of = options_of
        self._broker = broker
        self._difference = difference
        self._on_mail = on_mail
        self._boxes = frozenset((_box(None), _box(worker)) if worker is not None else ())
        self._verify_s = verify_s
        self._large = large
        self._digest_s = digest_s
        self._censuses = Censuses(self.presence.members, self.presence.counts, large=large)
        self._rooms: dict[Room, LocalRoom] = {}
        self._dirty: list[LocalRoom] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._verifier: asyncio.Task[None] | None = None
        self.is_linked = True
        """Whether the broker is there."""
        self.departures = Departures(
            broker, self.presence, options_of, hooks or Silent(), worker=worker or "worker", spawn=self.spawn
        )
        self._presence_resync = PresenceResync(broker, self._change, settle_s=settle_s)
        self._gap_detection = GapDetection(broker, accept=self._accept, lose=self._lose, spawn=self.spawn)
        self._counts = dict.fromkeys(("received", "delivered", "stray", "insufficient"), 0)

    # Life

    async def start(self) -> None:
        """
        Start the broker. The caller owes `close`.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        await self._broker.start(self)
        for box in self._boxes:
            await self._broker.subscribe(box)
        self._verifier = asyncio.get_running_loop().create_task(self._verify_forever())

    async def close(self) -> None:
        """Let what runs on the side end, for a while; remove this worker's members; close the broker."""
        if self._verifier is not None:
            self._verifier.cancel()
            await asyncio.gather(self._verifier, return_exceptions=True)
        await self._presence_resync.close()
        await self.departures.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._broker.close()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work` on the side; what it raises is logged as a bug."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("! %s failed", task.get_coro(), exc_info=error)

    # What the application and the sessions ask

    def publish(
        self,
        room: Room,
        data: bytes,
        *,
        info: ClientInfo | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        exclude: str = "",
        keep: bool = True,
    ) -> Coroutine[Any, Any, Published]:
        """
        Publish a payload into a room of all workers: a JSON text, or any bytes where the room is `binary`. `exclude` is
        a client that does not get it. Without `keep` it has no offset, and nobody who is away gets it later.

        Raises:
            BrokerUnavailable: nobody was told that it happened; it may have.
            KeyError: the room is not declared.
        """
        retention = self._options(room).retention if keep else NOT_KEPT
        return self._broker.publish(
            room, data, retention=retention, info=info, tags=tags, idempotency_key=idempotency_key, exclude=exclude
        )

    @property
    def in_order(self) -> bool:
        """Whether publications that do not wait for each other are made in the order of the calls."""
        return self._broker.in_order

    async def history(
        self, room: Room, *, since: Position | None = None, limit: int = 0, reverse: bool = False
    ) -> History:
        """Return a page of the room's stream, as `Broker.history` does."""
        retention = self._options(room).retention
        return await self._broker.history(room, retention=retention, since=since, limit=limit, reverse=reverse)

    async def forget_history(self, room: Room) -> None:
        """Remove the room's publications."""
        await self._broker.forget_history(room)

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        """Return some of those present, of all workers, as `Broker.members_page` does."""
        return await self._broker.members_page(room, cursor=cursor, limit=limit)

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        """Count something that `who` does in a room, and say whether it is within a rate."""
        return await self._broker.allow(room, who, rate)

    def catch_up(self, room: Room, subscriber: Subscriber) -> None:
        """Write to a member what was kept for it while it was behind."""
        local = self._rooms.get(room)
        if local is not None:
            local.fanout.catch_up(subscriber)

    async def keep(self, room: Room, data: bytes, retention: Retention) -> None:
        """Add something to a stream that workers keep among themselves."""
        await self._broker.publish(room, data, retention=retention)

    async def kept(self, room: Room, retention: Retention, *, since: Position | None = None, limit: int = 0) -> History:
        """Return what was added to such a stream after `since`."""
        return await self._broker.history(room, retention=retention, since=since, limit=limit, begin=True)

    async def workers(self) -> Sequence[WorkerId]:
        """Return the workers of all machines."""
        return await self._broker.workers()

    def sizes(self) -> dict[Room, int]:
        """Return how many members each room has on this worker."""
        return {room: local.fanout.size for room, local in self._rooms.items() if local.fanout.size}

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        """Return everybody present, of all workers, as `census` does."""
        return (await self.census(room)).members

    async def census(self, room: Room) -> Census:
        """
        Return everybody present, of all workers, as joins and leaves that were told before have it. Whom those who
        watch here do not know yet they are told of: who asked knows, and may not hear that they leave otherwise. In a
        large room it is what was told last, or what was so a second ago: who came since is not in it yet.
        """
        local = self._rooms.get(room)
        if local is None or (presence_view := local.presence_view) is None or not presence_view.is_read:
            return await self._censuses.take(room)
        if self.is_linked and presence_view.is_large(self._large):
            return presence_view.census()
        members = await presence_view.answer(self._asked(room))
        if local.presence_view is presence_view:  # else the room was left by all, and begun anew
            for change in presence_view.show(members):
                self._change(local, change)
        return Census(members)

    async def _asked(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        return (await self._censuses.take(room, anew=True)).members

    async def member_counts(self, room: Room) -> MemberCounts:
        """Count everybody present, of all workers; of a large room as `census` has it."""
        local = self._rooms.get(room)
        presence_view = None if local is None else local.presence_view
        if (
            self.is_linked
            and presence_view is not None
            and presence_view.is_read
            and presence_view.is_large(self._large)
        ):
            return presence_view.census().counts
        return await self._censuses.counts(room)

    def _options(self, room: Room) -> RoomOptions:
        options = self.options_of(room)
        if options is None:
            raise KeyError(room)
        return options

    # Post between workers

    async def mail(self, to: WorkerId | None, message: bytes) -> None:
        """
        Bring a message to one worker of any machine, or to all, this one included; in order, from each sender. A worker
        that is gone gets nothing, and nobody is told.

        Raises:
            BrokerUnavailable: it may or may not have gone out.
        """
        await self._broker.publish(_box(to), message, retention=NOT_KEPT)

    def _open_mail(self, message: bytes) -> None:
        try:
            self._on_mail(message)
        except Exception:
            logger.exception("! a message of another worker could not be read")

    # Entering and leaving

    async def enter(
        self,
        room: Room,
        subscriber: Subscriber,
        options: RoomOptions,
        *,
        info: ClientInfo,
        since: Position | None = None,
        watches: bool = False,
        wire: Wire | None = None,
        accepts: Accepts | None = None,
    ) -> PendingSubscription:
        """
        Bring a subscriber to the door of a room. The caller owes `activate` or `cancel`.

        Args:
            options: how this subscriber is in the room: as the room is declared, or without being seen.
            info: what others see of it, where the room has presence; `PendingSubscription.info` is what they see
            indeed. since: the position after which it wants everything again.
            watches: it is told of joins and leaves.
            wire: what publications are written in; the subscriber's own unless given.
            accepts: which publications it wants; all, unless given.

        Raises:
            BrokerUnavailable: nothing is left behind.
        """
        local = self._rooms.get(room)
        if local is None:
            local = self._rooms[room] = self._make_room(room, options)
        entry = PendingSubscription(local, subscriber, since=since, watches=watches, wire=wire, accepts=accepts)
        local.entries.add(entry)  # before the first await: from here on the room is not empty
        try:
            await self._open(local, entry)
            reads = options.recover and (entry.top is None or since is not None)
            if options.presence or options.has_leave_hooks:
                reading = self._read_meanwhile(entry) if reads else None
                entry.info = await self.departures.enter(room, options, info)
                if reading is not None:
                    await reading
            elif reads:
                await self._read(entry)
        except BaseException:
            self.cancel(entry)
            raise
        return entry

    def _make_room(self, room: Room, options: RoomOptions) -> LocalRoom:
        """Make a room as it is declared. `options` may be of one member only, such as of one whom nobody shall see."""
        kept = self.options_of(room) or options
        return LocalRoom(room, kept, self._difference if kept.delta else None)

    async def _open(self, local: LocalRoom, entry: PendingSubscription) -> None:
        """Subscribe at the broker for the first member, who learns with the room where the stream stands."""
        async with local.lock:
            if not local.opened:
                await self._broker.subscribe(local.name)
                if local.options.recover:
                    top = await self._broker.position(local.name, retention=local.options.retention)
                    entry.top = top
                    self._gap_detection.begin(local, top)
                local.opened = True
            if entry.watches and local.presence_view is None:
                local.presence_view = PresenceView()
                try:
                    local.presence_view.begin(await local.presence_view.answer(self._broker.members(local.name)))
                except BaseException:
                    local.presence_view = None
                    raise

    def _read_meanwhile(self, entry: PendingSubscription) -> asyncio.Task[None]:
        """Read for an entry on the side. Whoever fails in between need not wait for it."""
        reading = begin(self._read(entry))
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return reading

    async def _read(self, entry: PendingSubscription) -> None:
        local, retention = entry.local, entry.local.options.retention
        if entry.since is None:
            entry.top = await self._broker.position(local.name, retention=retention)
            return
        page = await self._broker.history(
            local.name, retention=retention, since=entry.since, limit=retention.size, begin=True
        )
        entry.top = page.top
        entry.read = replay(entry.since, page)

    def activate(self, entry: PendingSubscription, *, base: bytes | None = None) -> None:
        """
        Make the entry a member, in the turn in which it was settled and the client was answered. `base`: the payload of
        the last publication that the client has, where it gets differences and comes from elsewhere.
        """
        local = entry.local
        assert entry in local.entries, "activate comes once, and not after cancel"
        local.entries.discard(entry)
        if local.changes:
            self._deliver(local)  # they are among the entry's own
        delivered = local.offset - len(local.pending)
        seen = entry.top.offset if entry.top is not None and entry.top.offset > delivered else 0
        local.fanout.add(
            entry.subscriber, watches=entry.watches, seen=seen, wire=entry.wire, accepts=entry.accepts, base=base
        )
        if entry.events:
            entry.subscriber.transport.write(entry.subscriber.wire.changes(local.name, entry.events))

    def whereabouts(self, room: Room, subscriber: Subscriber) -> tuple[Position | None, bytes | None]:
        """
        Return up to where a member has everything, None in a room without positions; and the payload that the next
        difference to it would be based on. What was to leave at the end of the turn has been written to it then.
        """
        local = self._rooms[room]
        self._deliver(local)
        local.fanout.catch_up(subscriber)
        seen, base = local.fanout.whereabouts(subscriber)
        position = Position(local.epoch, max(local.offset, seen)) if local.options.recover else None
        return position, base

    def cancel(self, entry: PendingSubscription) -> None:
        """Undo `enter`: the subscriber is no member and is seen by nobody. Harmless when done already."""
        local = entry.local
        if entry not in local.entries:
            return
        local.entries.discard(entry)
        self._leave_behind(local, entry.info, away=False)

    def leave(self, room: Room, subscriber: Subscriber, *, info: ClientInfo | None, away: bool = False) -> bool:
        """
        End a membership. Nothing of this room is written to the subscriber from now on; the rest follows on the side.

        Args:
            info: what others see of it (`PendingSubscription.info`), or None where it was never registered.
            away: only its connection is broken, and it may come back.

        Returns:
            Whether it was a member.
        """
        local = self._rooms.get(room)
        if local is None or not local.fanout.remove(subscriber):
            return False
        self._leave_behind(local, info, away=away)
        return True

    def withdraw(self, room: Room, info: ClientInfo) -> None:
        """Make absent who is no member any more because the hub itself put it out. It may come again at once."""
        self.departures.leave(room, self._options(room), info, away=True)

    def _leave_behind(self, local: LocalRoom, info: ClientInfo | None, *, away: bool) -> None:
        if info is not None:
            self.departures.leave(local.name, local.options, info, away=away)
        self.spawn(self._close_if_empty(local))

    async def _close_if_empty(self, local: LocalRoom) -> None:
        async with local.lock:
            if not local.is_empty or self._rooms.get(local.name) is not local:
                return
            local.opened = False
            try:
                await self._broker.unsubscribe(local.name)
            except BrokerUnavailable:
                logger.debug("= room %s: given up while the broker is away", local.name)
            finally:
                if local.is_empty:
                    del self._rooms[local.name]
                else:  # somebody came in meanwhile and waits for the lock: it opens the room again, and reads it anew
                    local.in_sync = not local.options.recover
                    local.pending.clear()
                    local.changes.clear()
                    local.held.clear()
                    local.presence_view = None

    # What the broker tells

    def on_publication(self, room: Room, publication: Publication) -> None:
        local = self._rooms.get(room)
        if local is None:
            if room in self._boxes:
                self._open_mail(publication.data)
            else:
                self._counts["stray"] += 1
            return
        self._counts["received"] += 1
        self._gap_detection.take(local, publication)

    def _accept(self, local: LocalRoom, publication: Publication) -> None:
        if local.changes:
            self._deliver(local)  # what came before goes before
        self._mark(local)
        local.pending.append(publication)
        if publication.offset:
            for entry in local.entries:
                entry.arrived.append(publication)

    def _mark(self, local: LocalRoom) -> None:
        """See to it that this room is looked at when the turn ends."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        if not local.pending and not local.changes:
            self._dirty.append(local)

    def _flush(self) -> None:
        """Deliver everything that this turn brought: one buffer per room and wire, one write per member."""
        dirty, self._dirty = self._dirty, []
        for local in dirty:
            try:
                self._deliver(local)
            except Exception:  # a bug, and of one room: its members are told that they may miss something
                logger.exception("! room %s: what came could not be delivered", local.name)
                local.changes.clear()
                self._lose(local, local.position)

    def _deliver(self, local: LocalRoom) -> None:
        if local.pending:
            pending, local.pending = local.pending, []
            self._counts["delivered"] += local.fanout.deliver(pending)
            if local.fanout.overrun:
                self._put_out(local)
        if local.changes:
            changes, local.changes = local.changes, []
            local.fanout.announce(changes)

    def _put_out(self, local: LocalRoom) -> None:
        """Tell those for whom too much waited that they may have missed something."""
        overrun, local.fanout.overrun = local.fanout.overrun, []
        self._counts["insufficient"] += len(overrun)
        for subscriber in overrun:
            logger.warning("x %s: too many keys of room %s wait for it", subscriber.connection_id, local.name)
            subscriber.insufficient(local.name)
        self.spawn(self._close_if_empty(local))

    def _lose(self, local: LocalRoom, top: Position) -> None:
        """Tell every member that publications are lost to it, and begin again at the stream's top."""
        self._counts["insufficient"] += local.fanout.size
        logger.warning("! room %s: publications after %d are lost, members are told", local.name, local.offset)
        self._deliver(local)
        for entry in local.entries:
            entry.spoiled = True
        for subscriber in local.fanout.clear():
            subscriber.insufficient(local.name)
        self._gap_detection.begin(local, top)
        self.spawn(self._close_if_empty(local))

    def on_join(self, room: Room, info: ClientInfo) -> None:
        self._hear(room, (True, info))

    def on_leave(self, room: Room, info: ClientInfo) -> None:
        self._hear(room, (False, info))

    def _hear(self, room: Room, change: Change) -> None:
        local = self._rooms.get(room)
        if local is None:
            return
        if local.presence_view is not None:
            local.presence_view.hear(change)
        self._change(local, change)

    def _change(self, local: LocalRoom, change: Change) -> None:
        """Tell watchers of a join or a leave, unless they know: now, or in a large room with all others of a second."""
        presence_view = local.presence_view
        if presence_view is not None and presence_view.is_read and presence_view.is_large(self._large):
            if presence_view.hold(change):
                asyncio.get_running_loop().call_later(self._digest_s, self._digest, local, presence_view)
            return
        if presence_view is not None and not presence_view.take(change) and presence_view.is_read:
            return
        self._announce(local, change)

    def _digest(self, local: LocalRoom, presence_view: PresenceView) -> None:
        """Tell the difference that came of what was held."""
        if local.presence_view is not presence_view:
            return  # the room was left by all
        for change in presence_view.digest():
            self._announce(local, change)

    def _announce(self, local: LocalRoom, change: Change) -> None:
        for entry in local.entries:
            if entry.watches:
                entry.events.append(change)
        if local.presence_view is None:
            return  # nobody watches yet
        if local.pending:
            self._deliver(local)
        self._mark(local)
        local.changes.append(change)

    def on_departed(self, departed: Sequence[Departed]) -> None:
        self.departures.departed(departed)

    def on_link_lost(self) -> None:
        self.is_linked = False
        logger.warning("! the link to the broker is lost: commands that need it fail, members stay")
        self._gap_detection.doubt(self._rooms.values())

    def on_link_restored(self) -> None:
        self.is_linked = True
        logger.warning("= the link to the broker is back: %d rooms are compared", len(self._rooms))
        self.spawn(self._pay_all())
        self.spawn(self._gap_detection.verify(self._rooms.values()))
        self._presence_resync.doubt(self._rooms.values())

    def on_gap(self, rooms: Sequence[Room]) -> None:
        doubtful = [local for room in rooms if (local := self._rooms.get(room)) is not None]
        self.spawn(self._gap_detection.verify(self._gap_detection.doubt(doubtful)))
        self._presence_resync.doubt(doubtful)

    async def reap(self, worker: WorkerId) -> None:
        """Have the broker remove the members of a worker that is dead."""
        try:
            await self._broker.reap(worker)
        except BrokerUnavailable as error:
            logger.warning("! members of %s stay until its lease ends: %s", worker, error)

    async def _verify_forever(self) -> None:
        while True:
            await asyncio.sleep(self._verify_s)
            await self._pay_all()
            await self._gap_detection.verify(self._rooms.values())

    async def _pay_all(self) -> None:
        await self.presence.pay_all()
        await self.departures.pay_all()

    # For people

    @property
    def is_served(self) -> bool:
        """Whether the broker is there and takes writes: what fails while it does not has been told once, for all."""
        return self.is_linked and not self._broker.statistics().get("refuses")

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot: rooms, memberships, what was received and delivered, and the broker's own."""
        return {
            "rooms": len(self._rooms),
            "memberships": total(local.fanout for local in self._rooms.values()),
            "out_of_sync": sum(not local.in_sync for local in self._rooms.values()),
            "departures_owed": self.presence.owed + self.departures.owed,
            "away": self.departures.away,
            **self._counts,
            "holes": self._gap_detection.holes,
            "filled": self._gap_detection.filled,
            "broker": dict(self._broker.statistics()),
        }


def _box(worker: WorkerId | None) -> Room:
    """Return the room in which a worker finds its mail, or all do; no client's room has such a name."""
    return Room(f"\0{worker or '*'}")
