"""
The departure of members: `on_leave` and `on_empty` run at least once for each, also after a crash, and never for a
client that came back in time.

Runs in the worker, as a part of the hub. It never decides which client may enter, and never writes to one.

Theory of operation
-------------------
For each member whose departure the application handles, a record lies at the broker until the handler has returned
(records.py). When the worker dies, another inherits the record, and with it the duty. So a handler can run twice, and
is never skipped.

**Grace.** In a room with `grace_s`, a member whose connection broke is *in grace*: still present, and found under the
user's name by any worker that the next connection comes to. That worker continues the membership under the connection
id that others know, so others get neither a leave nor a join. A member that does not come back in time has left. Only
users with a name can come back.

    enter ──▶ present ──connection broke──▶ in grace ──came back──▶ present
                 └────left, or no grace───┐   └────grace over─┐
                                          ▼                   ▼
                                        left: leave sent, on_leave, on_empty, record removed

**Which worker ends a grace.** The one that began it, or inherited it. It takes the grace record from the broker: the
broker gives it to one of several that try. Where another worker took it, the member came back there; after
`SECOND_LOOK_S` this worker looks whether that worker lived long enough to register it.

**Empty rooms.** Of members that leave at once, the broker tells one that none is left. A worker that cannot find out
(the broker is unreachable, or it dies) leaves an empty record, or checks the room itself when the broker is back.

**A limit.** The memberships of a killed worker are in grace as soon as another worker inherited them. A client that is
back sooner is a new member: others get its join, and after the grace the old one's leave. On one machine the gap is
milliseconds, or a second or two with thousands of members; where the primary died as well, it is the lease. In that gap
nothing tells such a membership from another tab of the same user, because clients do not send their old id. An index
written at entry would close the gap where the death is known, at the price of one more entry for each member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from realtime.broker.base import Broker, ClientInfo, ConnectionId, Departed, Room
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable
from realtime.log_lines import log
from realtime.rooms.connection_ends import ConnectionEnds
from realtime.rooms.hooks import Hooks, call
from realtime.rooms.options import Declarations, RoomOptions
from realtime.rooms.presence import Presence
from realtime.rooms.records import EMPTY, END, GRACE, Records, empty_record, grace_record, leave_record, room_of
from realtime.tasks import SideTasks

SECOND_LOOK_S: Final = 5.0  # after which a worker that took over a membership has registered it, or is dead
IN_GRACE: Final = "= member in grace"

logger = logging.getLogger("realtime.departures")


@dataclass(eq=False, slots=True)
class _Grace:
    """A member that may come back: its info, the end of the grace, and the write of the record by which it is found."""

    info: ClientInfo
    timer: asyncio.TimerHandle
    recording: asyncio.Task[None]


class Departures:
    """
    The departures that this worker handles. The owner must call `close`.

    Attributes:
        presence: of this worker's members, at the broker.
        ends: the ends of connections, with or without a room.
    """

    def __init__(self, broker: Broker, hooks: Hooks, declarations: Declarations, *, worker: str) -> None:
        """
        Args:
            broker: of all workers.
            hooks: the application's handlers.
            declarations: how rooms are kept.
            worker: the name of this worker in empty records.
        """
        self._broker = broker
        self._hooks = hooks
        self._declarations = declarations
        self._worker = worker
        self._records = Records(broker)
        self._tasks = SideTasks(logger)
        self._here: set[tuple[Room, ConnectionId]] = set()  # members of rooms with grace
        self._in_grace: dict[Room, dict[ConnectionId, _Grace]] = {}  # by the private room of their records
        self._unchecked: dict[Room, None] = {}  # rooms that may have become empty
        self.presence = Presence(broker)
        self.ends = ConnectionEnds(broker, self._records, hooks)

    # Coming

    async def enter(self, room: Room, options: RoomOptions, info: ClientInfo) -> ClientInfo:
        """
        Make a client present, where its room has presence, and record it, where a handler waits for its departure.
        Return what others see: itself, or the member that it was before its connection broke. The caller must call
        `leave` in the end.

        Raises:
            BrokerUnavailable: the client is not present, and `leave` must not follow.
        """
        lasting = _has_grace(options, info)
        before = await self._resume(room, info) if lasting else None
        shown = info if before is None else msgspec.structs.replace(info, connection_id=before)
        is_untouched = before is None  # nothing has been done at the broker
        try:
            if options.has_leave_hooks:
                await self._records.add(leave_record(room), shown)
                is_untouched = False
            if options.presence:
                await self.presence.add(
                    room, shown, announce=options.join_leave, quietly=before is not None, lasting=lasting
                )
        except BaseException as error:
            if not (is_untouched and isinstance(error, (BrokerAway, BrokerFull))):
                self._undo(room, options, shown)
            raise
        if lasting:
            self._here.add((room, ConnectionId(shown.connection_id)))
        assert shown.user == info.user, "a membership is continued by its own user"
        return shown

    async def take_over(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """
        Make a client present here that moves to this worker: others see it as before, without a leave or a join. The
        worker from which it comes has called `release`. The caller must call `leave` or `release` in the end.

        Args:
            info: what others see of it, under the connection id that they see.

        Raises:
            BrokerUnavailable: the client may or may not be present. The worker from which it comes puts that right.
        """
        if options.has_leave_hooks:
            await self._records.add(leave_record(room), info)
        lasting = _has_grace(options, info)
        if options.presence:
            await self.presence.flush(room, ConnectionId(info.connection_id))  # a removal of an earlier stay
            await self._broker.add_member(room, info, announce=options.join_leave, quietly=True, lasting=lasting)
        if lasting:
            self._here.add((room, ConnectionId(info.connection_id)))

    def release(self, room: Room, options: RoomOptions, connection_id: ConnectionId) -> None:
        """
        Let another worker take a member over, which moves there: no leave follows here. Where it does not move in the
        end, call `take_over`.
        """
        self._here.discard((room, connection_id))
        if options.presence:
            self._broker.release(room, connection_id)
        if options.has_leave_hooks:
            self._broker.release(leave_record(room), connection_id)

    async def _resume(self, room: Room, info: ClientInfo) -> ConnectionId | None:
        """Take over one of the user's memberships in grace. Return its connection id, or None where there is none."""
        record = grace_record(room, info.user)
        if underway := [grace.recording for grace in self._in_grace.get(record, {}).values()]:
            await asyncio.wait(underway)  # not awaited one by one: a client that goes must not cancel them
        for connection_id in await self._broker.members(record):
            if await self._records.take(record, connection_id) is not None:
                self._forget_grace(record, connection_id)
                return connection_id
        return None

    def _forget_grace(self, record: Room, connection_id: ConnectionId) -> _Grace | None:
        """
        End a grace here, whatever ended it. Return it, or None where it is not in grace on this worker. Its write of a
        record may still be under way; callers that remove the record await it.
        """
        assert record.startswith(GRACE), "memberships in grace stand under their grace record"
        grace = self._in_grace.get(record, {}).pop(connection_id, None)
        if grace is not None:
            grace.timer.cancel()
            if not self._in_grace[record]:
                del self._in_grace[record]
        return grace

    def _undo(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """Remove what may have come of a failed `enter`."""
        connection_id = ConnectionId(info.connection_id)
        if options.has_leave_hooks:
            self._tasks.spawn(self._records.remove(leave_record(room), connection_id))
        if options.presence:
            self._schedule_absence(room, options, info)
            self._tasks.spawn(self.presence.flush(room, connection_id))

    # Going

    def leave(self, room: Room, options: RoomOptions, info: ClientInfo, *, may_return: bool) -> None:
        """
        End a membership: at once, or, where the connection is only broken (`may_return`), after the grace of the room.
        Does not wait: handlers and the broker follow in the background.
        """
        self._here.discard((room, ConnectionId(info.connection_id)))
        if may_return and _has_grace(options, info):
            self._begin_grace(room, options, info)
            return
        self._schedule_absence(room, options, info)
        self._tasks.spawn(self._finish(room, options, info))

    def _begin_grace(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """
        Keep a member present for a while. Does nothing for one that is back here, or in grace already: a record can be
        inherited twice, and each grace has one timer.
        """
        record, connection_id = grace_record(room, info.user), ConnectionId(info.connection_id)
        if (room, connection_id) in self._here or connection_id in self._in_grace.get(record, {}):
            return
        if options.presence:
            self._broker.release(room, connection_id)
        if options.has_leave_hooks:
            self._broker.release(leave_record(room), connection_id)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(
            options.grace_s, lambda: self._tasks.spawn(self._end_grace(room, options, record, connection_id))
        )
        recording = loop.create_task(self._record_grace(room, record, info))
        self._in_grace.setdefault(record, {})[connection_id] = _Grace(info, timer, recording)

    async def _record_grace(self, room: Room, record: Room, info: ClientInfo) -> None:
        """Let the client that comes back find its membership, also on another worker."""
        try:
            await self._records.add(record, info)
            log(logger, logging.DEBUG, IN_GRACE, room=room, user=info.user, connection=info.connection_id)
        except BrokerUnavailable as error:
            log(
                logger,
                logging.DEBUG,
                "- grace without a record",  # no other worker finds the member
                room=room,
                user=info.user,
                connection=info.connection_id,
                reason=error,
            )

    async def _end_grace(self, room: Room, options: RoomOptions, record: Room, connection_id: ConnectionId) -> None:
        """
        End a grace whose time is over. Of the workers that may have this member, the one that takes its record decides;
        where another took it, this one looks again later, for that worker may have died before it registered the
        member.
        """
        grace = self._in_grace.get(record, {}).get(connection_id)
        if grace is None:
            return
        await asyncio.wait([grace.recording])
        try:
            has_left = await self._records.take(record, connection_id) is not None
        except BrokerUnavailable:
            has_left = True  # no worker can have found the record
            self._records.schedule_removal(record, connection_id)
        if self._forget_grace(record, connection_id) is None or (room, connection_id) in self._here:
            return  # it came back here
        if has_left:
            # With `mine`: a broker that lost everything has the record again from this worker, though another worker
            # took the membership over.
            self._schedule_absence(room, options, grace.info, mine=True)
            if not await self.presence.flush(room, connection_id):
                await self._finish(room, options, grace.info)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(SECOND_LOOK_S, lambda: self._tasks.spawn(self._finish_if_stale(room, options, grace.info)))

    async def _finish_if_stale(self, room: Room, options: RoomOptions, info: ClientInfo) -> None:
        """End a membership that another worker took, should that worker have died before it registered it."""
        connection_id = ConnectionId(info.connection_id)
        if (room, connection_id) in self._here or connection_id in self._in_grace.get(
            grace_record(room, info.user), {}
        ):
            return
        name, announce = (room, options.join_leave) if options.presence else (leave_record(room), False)
        try:
            left = await self._broker.remove_member(name, connection_id, announce=announce, mine=True)
        except BrokerUnavailable:
            return
        if left is not None:
            await self._finish(room, options, info, left=None if options.presence else left)

    def _schedule_absence(self, room: Room, options: RoomOptions, info: ClientInfo, *, mine: bool = False) -> None:
        """Schedule the removal from the presence. `flush` does it, now or when the broker can be reached."""
        if options.presence:
            connection_id = ConnectionId(info.connection_id)
            self.presence.schedule_removal(room, connection_id, announce=options.join_leave, mine=mine)

    async def _finish(self, room: Room, options: RoomOptions, info: ClientInfo, *, left: int | None = None) -> None:
        """
        Make a member absent that has left, run the handlers, and remove the record.

        Args:
            left: the record is removed already, and so many other members were left then.
        """
        connection_id = ConnectionId(info.connection_id)
        if options.presence:
            await self.presence.flush(room, connection_id)
        if not options.has_leave_hooks:
            return
        await call(self._hooks.leave(room, info), "on_leave", room=room, connection=info.connection_id)
        if options.has_empty_hook:
            try:
                await self._records.add(empty_record(room), ClientInfo("", self._worker))
            except BrokerUnavailable:
                self._unchecked[room] = None
        if left is None:
            left = await self._records.remove(leave_record(room), connection_id)
        if not options.has_empty_hook:
            return
        if self._records.is_postponed(leave_record(room), connection_id):
            self._unchecked[room] = None
            return
        if left == 0:  # of members that leave at once, one gets this
            await call(self._hooks.empty(room), "on_empty", room=room)
        await self._records.remove(empty_record(room), ConnectionId(self._worker))

    async def _check_if_empty(self, room: Room, record: ConnectionId) -> None:
        """Do what a dead worker, or this one while the broker was unreachable, could not do after a departure."""
        try:
            counts = await self._broker.member_counts(leave_record(room))
        except BrokerUnavailable:
            self._unchecked[room] = None
            return
        self._unchecked.pop(room, None)
        if not counts.clients:
            await call(self._hooks.empty(room), "on_empty", room=room)
        await self._records.remove(empty_record(room), record)

    # From other workers

    def departed(self, departed: Sequence[Departed]) -> None:
        """Take over the duties of a worker that is gone."""
        for each in departed:
            if not each.inherited:
                continue  # a departure that has a handler has a record
            name, room = each.room, room_of(each.room)
            if name.startswith(EMPTY):
                self._tasks.spawn(self._check_if_empty(room, ConnectionId(each.info.connection_id)))
            elif name.startswith(END):
                self.ends.inherit(each.info)
            else:
                self._inherit_member(room, name, each.info)

    def _inherit_member(self, room: Room, record: Room, info: ClientInfo) -> None:
        """
        Take over the duty for a member whose worker died: begin its grace anew, or let it leave now. The time that
        passed before the worker's death was noticed does not count.
        """
        options, connection_id = self._declarations.room_options(room), ConnectionId(info.connection_id)
        # A room that this version does not declare has no handler; and a member that came back here has no grace,
        # though a server forgot that.
        if options is None or (record.startswith(GRACE) and (room, connection_id) in self._here):
            self._tasks.spawn(self._records.remove(record, connection_id))
        elif _has_grace(options, info):
            self._begin_grace(room, options, info)
        else:
            self._schedule_absence(room, options, info)
            self._tasks.spawn(self._finish(room, options, info))

    # Ending

    async def flush(self) -> None:
        """Do what could not be done while the broker was unreachable."""
        await self.presence.flush_all()
        await self._records.flush()
        for room in list(self._unchecked):
            await self._check_if_empty(room, ConnectionId(self._worker))

    async def close(self, patience_s: float) -> None:
        """
        End every grace: another worker inherits the members in grace, or, where there is none, they have left. Give
        the handlers that run so many seconds, then cancel them.
        """
        try:
            is_alone = len(await self._broker.workers()) <= 1
        except BrokerUnavailable:
            is_alone = False
        self.ends.end_graces(is_alone=is_alone)
        for record, graces in list(self._in_grace.items()):
            for connection_id, grace in list(graces.items()):
                grace.timer.cancel()
                room = room_of(record)
                options = self._declarations.room_options(room)
                if is_alone and options is not None:
                    self._tasks.spawn(self._end_grace(room, options, record, connection_id))
        await asyncio.gather(self.ends.close(patience_s), self._tasks.close(patience_s))

    def statistics(self) -> dict[str, int]:
        """Count what waits for the broker (removals, and rooms that may be empty), and members that may come back."""
        return {
            "departures_pending": self.presence.postponed + self._records.postponed + len(self._unchecked),
            "in_grace": sum(map(len, self._in_grace.values())),
        }


def _has_grace(options: RoomOptions, info: ClientInfo) -> bool:
    """Whether a member may come back: a client without a user could not be recognised."""
    return options.grace_s > 0 and info.user != "" and (options.presence or options.has_leave_hooks)
