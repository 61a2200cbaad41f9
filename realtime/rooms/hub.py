"""
`Hub`: the registry of the rooms that have members on this worker, and the shell around their machines.

Runs in the worker, on its event loop, between the broker and the sessions of the local members. It never speaks a wire
format, and knows of a member no more than `fanout.Subscriber` says. Members are written to by their transports, not by
their sessions. A caller that publishes, or wants only what the broker knows, uses `hub.broker` directly.

Theory of operation
-------------------
A room is subscribed at the broker when its first local member enters, and unsubscribed after its last has left. What
the broker brings goes to the room's machine (room.py), which decides. The hub performs the outputs, each by one part:

    DELIVER        delivery.py         members are written to at the end of this turn of the event loop
    RequestStream  stream_resync.py    the stream is read
    Lost           delivery.py         all members are removed and notified
    UNSUBSCRIBE    registry.py         the room is closed, unless a subscription entered meanwhile
    WakeAt         a timer             joins and leaves that a large room deferred

Departures, presence at the broker, and the repair of presence after a fault have a part each, with tasks of its own.

**Entering** is in two steps, because the answer to the client has to leave before the first publication:

    pending = await hub.enter(…)   # subscribed, registered, stream read; what arrives meanwhile is kept for it
    joined = pending.commit()      # what the answer says             ┐
    …write the answer…             #                                  ├ in one turn: no await between these
    hub.activate(pending)          # from here on it is written to    ┘

**The lock of a room** is held while the subscription at the broker begins or ends, and while the presence view is read.
A subscriber is noted before the first await, so a room that is being closed sees it, and is opened again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from realtime.broker.base import Broker, ClientInfo, Departed, Position, RawPublication, Room, WorkerId
from realtime.log_lines import log
from realtime.rooms.census import LARGE
from realtime.rooms.delivery import Delivery, LocalRoom
from realtime.rooms.departures import Departures
from realtime.rooms.entering import Entering
from realtime.rooms.fanout import Accepts, Difference, Encoder, Subscriber
from realtime.rooms.hooks import Hooks, NoHooks
from realtime.rooms.options import Declarations, RoomOptions
from realtime.rooms.outputs import DELIVER, ONLY_DELIVER, UNSUBSCRIBE, Lost, Output, ReportGap, RequestStream, WakeAt
from realtime.rooms.pending import PendingSubscription
from realtime.rooms.presence_reader import PresenceReader
from realtime.rooms.presence_resync import SETTLE_S
from realtime.rooms.private_rooms import PrivateRooms
from realtime.rooms.registry import RoomRegistry
from realtime.rooms.room import DIGEST_S
from realtime.rooms.stream_reads import StreamReads
from realtime.rooms.upkeep import Upkeep
from realtime.tasks import SideTasks

COMPARE_S: Final = 8.0  # so a publication that was lost, with none after it to show the gap, is found within 10 s
LINK_LOST: Final = "broker link lost"  # commands that need the broker fail, members stay
LINK_RESTORED: Final = "broker link restored"  # every room is compared with its stream
CLOSE_S: Final = 5.0  # for the handlers of departures, when a worker ends

logger = logging.getLogger("realtime.hub")


class Hub:
    """
    All rooms of one worker. Implements `BrokerListener` for the broker, and `Shell` for its own parts.

    Attributes:
        broker: what all workers share; started and closed by the hub.
        declarations: how rooms are kept.
        members: the members of rooms, for clients and programs that request them.
        departures: what follows when members leave and connections end.
        delivery: what members are written, and what each has got.
        private: rooms in which workers send to each other.
        registry: the rooms with members here.
        is_linked: whether the broker can be reached.
    """

    def __init__(
        self,
        broker: Broker,
        declarations: Declarations,
        *,
        hooks: Hooks | None = None,
        difference: Difference | None = None,
        worker: WorkerId | None = None,
        compare_s: float = COMPARE_S,
        settle_s: float = SETTLE_S,
        large: int = LARGE,
        digest_s: float = DIGEST_S,
    ) -> None:
        """
        Args:
            broker: not started yet.
            declarations: how rooms are kept.
            hooks: the application's handlers for departures.
            difference: makes deltas, for the rooms that have them.
            worker: the name of this worker in its records.
            compare_s: seconds between two comparisons of all positions with the broker's.
            settle_s: seconds after which a member that is missing, since the link is back, has left.
            large: above so many members a room's joins and leaves are deferred.
            digest_s: for so many seconds.
        """
        self.broker = broker
        self.declarations = declarations
        self.is_linked = True
        self.registry = RoomRegistry(broker, declarations, difference, large=large, digest_s=digest_s)
        self._rooms = self.registry.rooms
        self._tasks = SideTasks(logger)
        self._counts = dict.fromkeys(("received", "gaps"), 0)
        self.delivery = Delivery(self)
        self.departures = Departures(broker, hooks or NoHooks(), declarations, worker=worker or "worker")
        self._entering = Entering(broker, self.departures, StreamReads(broker, self._tasks), self)
        self._upkeep = Upkeep(broker, self._rooms, self.departures, self, compare_s=compare_s, settle_s=settle_s)
        self.members = PresenceReader(broker, self._rooms, self, large=large)
        self.private = PrivateRooms(broker)

    async def start(self) -> None:
        """
        Start the broker. The caller must call `close`.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        await self.broker.start(self)
        self._upkeep.start()

    async def close(self) -> None:
        """Give handlers that run some time to end, remove this worker's members, and close the broker."""
        await self._upkeep.close()
        await asyncio.gather(self.departures.close(CLOSE_S), self._tasks.close(CLOSE_S))
        await self.broker.close()

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
        encoder: Encoder | None = None,
        accepts: Accepts | None = None,
    ) -> PendingSubscription:
        """
        Prepare a subscriber's membership of a room. The caller must call `activate` or `cancel`.

        Args:
            options: how this subscriber is in the room: as the room is declared, or `unseen`.
            info: what others are to see of it, where the room has presence; `info` of the result is what they do see.
            since: the position after which it wants everything again.
            watches: it gets joins and leaves.
            encoder: what publications are written in; the subscriber's own unless given.
            accepts: which publications it gets; all unless given.

        Raises:
            BrokerUnavailable: nothing is left behind.
        """
        local = self.registry.obtain(room, options)
        pending = PendingSubscription(room, subscriber, since=since, watches=watches, encoder=encoder, accepts=accepts)
        local.machine.enter(pending)  # before the first await: from here on the room is not empty
        try:
            await self._entering.prepare(local, pending, options, info)
        except BaseException:
            self.cancel(pending)
            raise
        return pending

    def activate(self, pending: PendingSubscription, *, base: bytes | None = None) -> None:
        """Make a subscriber a member, in the turn in which `commit` was called; `base` as in `Fanout.add`."""
        assert pending.room in self._rooms, "a room with a pending subscription is not forgotten"
        local = self._rooms[pending.room]
        self.delivery.admit(local, pending, local.machine.activate(pending), base=base)

    def cancel(self, pending: PendingSubscription) -> None:
        """Undo `enter`: the subscriber is no member, and is seen no more. Harmless after `activate` or `cancel`."""
        if not pending.is_undecided:
            return
        assert pending.room in self._rooms, "a room with a pending subscription is not forgotten"
        local = self._rooms[pending.room]
        outputs = local.machine.cancel(pending)
        if pending.info is not None:
            self.departures.leave(local.name, local.machine.options, pending.info, may_return=False)
        self.perform(local, outputs)

    def leave(self, room: Room, subscriber: Subscriber, *, info: ClientInfo | None, may_return: bool = False) -> bool:
        """
        End a membership. Nothing of this room is written to the subscriber from now on; the rest follows in the
        background.

        Args:
            info: what others see of it (`PendingSubscription.info`), or None where it was never registered.
            may_return: only its connection is broken, and it may come back.

        Returns: whether it was a member.
        """
        local = self._rooms.get(room)
        if local is None or not local.fanout.remove(subscriber):
            return False
        if info is not None:
            self.departures.leave(room, local.machine.options, info, may_return=may_return)
        self.perform(local, local.machine.left())
        return True

    def catch_up(self, room: Room, subscriber: Subscriber) -> None:
        """Write to a member what waited for it while its peer read too slowly."""
        local = self._rooms.get(room)
        if local is not None:
            local.fanout.catch_up(subscriber)

    def perform(self, local: LocalRoom, outputs: Sequence[Output]) -> None:
        """Do what a machine's outputs ask for, now or in the background."""
        for output in outputs:
            if output is DELIVER:
                self.delivery.schedule(local)
            elif output is UNSUBSCRIBE:
                self._tasks.spawn(self.registry.close_if_empty(local))
            elif isinstance(output, RequestStream):
                self._upkeep.streams.read(local, output)
            elif isinstance(output, Lost):
                self.delivery.remove_all(local, output)
            elif isinstance(output, ReportGap):
                self._counts["gaps"] += 1
                log(logger, logging.INFO, "= gap found", room=local.name, after=output.after, offset=output.found)
            elif isinstance(output, WakeAt):
                asyncio.get_running_loop().call_at(output.due_s, self._wake, local, output)

    def _wake(self, local: LocalRoom, output: WakeAt) -> None:
        self.perform(local, local.machine.wake(output.due_s))

    # What the broker brings: `BrokerListener`

    def on_publication(self, room: Room, publication: RawPublication) -> None:
        """Take a publication of the broker. This is the hottest path of the worker: one look-up, one call, no task."""
        local = self._rooms.get(room)
        if local is None:
            self.private.receive(room, publication)
            return
        self._counts["received"] += 1
        outputs = local.machine.publication(publication)
        if outputs is ONLY_DELIVER:
            self.delivery.schedule(local)
        elif outputs:
            self.perform(local, outputs)

    def on_join(self, room: Room, info: ClientInfo) -> None:
        self._on_change(room, (True, info))

    def on_leave(self, room: Room, info: ClientInfo) -> None:
        self._on_change(room, (False, info))

    def _on_change(self, room: Room, change: tuple[bool, ClientInfo]) -> None:
        """Pass a join or a leave to the room's machine, with the time: large rooms defer it."""
        local = self._rooms.get(room)
        if local is not None:
            self.perform(local, local.machine.presence(change, asyncio.get_running_loop().time()))

    def on_departed(self, departed: Sequence[Departed]) -> None:
        self.departures.departed(departed)

    def on_link_lost(self) -> None:
        """Take the news that the broker cannot be reached. Rooms that have positions buffer from now on."""
        self.is_linked = False
        log(logger, logging.WARNING, LINK_LOST, rooms=len(self._rooms))
        self._upkeep.distrust(self._rooms.values())

    def on_link_restored(self) -> None:
        """Take the news that it can be reached again. What arrived meanwhile is unknown, so every room is compared."""
        self.is_linked = True
        log(logger, logging.WARNING, LINK_RESTORED, rooms=len(self._rooms))
        self._upkeep.link_restored()

    def on_gap(self, rooms: Sequence[Room]) -> None:
        """Take the news that publications of some rooms may be missing, though the link was never lost."""
        local_rooms = [local for room in rooms if (local := self._rooms.get(room)) is not None]
        self._upkeep.distrust(local_rooms)
        self._upkeep.resync(local_rooms)

    @property
    def is_served(self) -> bool:
        """Whether the broker is there and takes writes. While it does not, one log line has said so for all clients."""
        return self.is_linked and not self.broker.statistics().get("refuses")

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot: rooms, memberships, what was received and delivered, the broker's own."""
        return {
            **self.registry.statistics(),
            **self.delivery.statistics(),
            **self.departures.statistics(),
            **self._counts,
            "unrouted": self.private.unrouted,
            "broker": dict(self.broker.statistics()),
        }
