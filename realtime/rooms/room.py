"""
`RoomMachine`: everything that is decided about one room on one worker.

Runs in the worker, in the one task that is running: it has one writer. Pure: events go in, outputs come out. It
has no broker, no clock, no task and no transport. It never drops a publication in silence: it delivers it, buffers
it, or reports that it is lost. What each output asks for is done by the hub (hub.py) and its helpers.

Theory of operation
-------------------
The stream of a room has positions: an epoch, and an offset that grows by one with each publication. The machine keeps
the position up to which it accepted everything. One of four states says what it knows:

    CLOSED        the broker's subscription is not in force, or the position is not known yet
    IN_SYNC       every publication up to the position was accepted, and the next one is expected
    OUT_OF_SYNC   something may be missing; what arrives is buffered until the position was compared
    READING       as OUT_OF_SYNC, and the stream is being read from the position on

`TRANSITIONS` (outputs.py) is the whole table. A publication that follows the position is accepted. One that leaves a
gap is buffered, and the stream is requested. When the page comes it proves that nothing is missing, and is accepted in
order before the buffered ones. Or it proves nothing: then all members are removed with a notification (`Lost`), and
each subscribes again from its own position. After a fault of the link the position is compared with the broker's top
first, because most rooms miss nothing, and one command compares hundreds of rooms. A room without recovery has no
positions: it is in sync whenever it is open.

**The outbox.** What is accepted is not delivered at once, but at the end of the turn of the event loop, so that a burst
costs each member one write. The outbox is a list of batches, each with publications and then joins and leaves: so both
leave in the order in which they arrived.

**Pending subscriptions** get a copy of what is accepted and announced until they are activated (pending.py). At
`activate`, joins and leaves of the outbox are flushed first, because the subscription has them already; publications
may stay, because the fan-out skips those up to `seen`. **Joins and leaves** are compared with the presence view, in
which large rooms defer them (presence_view.py).

**Time** is an argument, in seconds of the loop's clock, where something depends on it: the due time of a digest, and
how long a room was out of sync. Nothing about a publication depends on time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from realtime.broker.base import History, Position, RawPublication, Room
from realtime.rooms.census import LARGE
from realtime.rooms.fanout import Change
from realtime.rooms.options import RoomOptions
from realtime.rooms.outputs import (
    BUFFER,
    IN_SYNC,
    NOTHING,
    ONLY_BUFFER,
    ONLY_DELIVER,
    ONLY_UNSUBSCRIBE,
    TRANSITIONS,
    Activation,
    Batch,
    Lost,
    Output,
    ReportGap,
    RequestStream,
    RoomEvent,
    RoomState,
    WakeAt,
)
from realtime.rooms.pending import PendingState, PendingSubscription
from realtime.rooms.presence_view import PresenceView
from realtime.rooms.recovery import Replay, replay

BUFFER_MAX: Final = 10_000  # publications of one room out of sync; what is above it is read from the stream again
DIGEST_S: Final = 1.0  # for which they are deferred: once a second is live for a list that no one reads in a second


class RoomMachine:
    """
    One room on one worker.

    Attributes:
        name: of the room.
        options: how the room is kept.
        state: what is known about the stream; only `_move` sets it.
        epoch, offset: the position up to which everything was accepted.
        members: how many members get what is delivered.
        pending: subscriptions that are neither activated nor cancelled.
        presence_view: of the watchers here; None before the first watcher.
        filled: publications that were read from the stream because they had not arrived.
        out_of_sync_since_s: when the room went out of sync; None while it is not, or where the time is unknown.
    """

    __slots__ = (
        "_batches", "_buffered", "_changes", "_digest_due_s", "_digest_s", "_is_scheduled", "_large",
        "_publications", "_request", "epoch", "filled", "members", "name", "offset", "options",
        "out_of_sync_since_s", "pending", "presence_view", "recovers", "state",
    )  # fmt: skip

    def __init__(self, name: Room, options: RoomOptions, *, large: int = LARGE, digest_s: float = DIGEST_S) -> None:
        """
        Args:
            name: of the room.
            options: how the room is kept.
            large: above so many members joins and leaves are deferred.
            digest_s: for so many seconds.
        """
        self.name = name
        self.options = options
        self.recovers: Final = options.recover
        self.state = RoomState.CLOSED
        self.epoch = ""
        self.offset = 0
        self.members = 0
        self.pending: set[PendingSubscription] = set()
        self.presence_view: PresenceView | None = None
        self.filled = 0
        self.out_of_sync_since_s: float | None = None
        self._large = large
        self._digest_s = digest_s
        self._digest_due_s: float | None = None
        self._request: RequestStream | None = None  # the one that may be answered; set exactly while READING
        self._buffered: list[RawPublication] = []  # arrived out of sync, or before the position was known
        # The outbox: batches that are complete, then the one that is being filled.
        self._batches: list[Batch] = []
        self._publications: list[RawPublication] = []
        self._changes: list[Change] = []
        self._is_scheduled = False  # DELIVER is out, and `flush` has not come yet

    @property
    def position(self) -> Position:
        """The position up to which everything was accepted."""
        return Position(self.epoch, self.offset)

    @property
    def is_open(self) -> bool:
        """Whether the broker's subscription is in force and, where there are positions, the position is known."""
        return self.state is not RoomState.CLOSED

    @property
    def is_in_sync(self) -> bool:
        """Whether nothing is missing, as far as is known."""
        return self.state is IN_SYNC

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a member nor a pending subscription."""
        return not self.members and not self.pending

    def _move(self, event: RoomEvent, now_s: float | None = None) -> None:
        """Take the transition of the table. The event is illegal where the table has none."""
        after = TRANSITIONS.get((self.state, event))
        assert after is not None, f"room {self.name}: {event.value!r} while {self.state.value}"
        self.state = after
        is_whole = after is IN_SYNC or after is RoomState.CLOSED
        self.out_of_sync_since_s = None if is_whole else now_s if now_s is not None else self.out_of_sync_since_s
        if after is not RoomState.READING:
            self._request = None

    # Opening and closing

    def opened(self, top: Position | None) -> tuple[Output, ...]:
        """
        Begin: the broker's subscription is in force.

        Args:
            top: the stream's top, read after that; None in a room without recovery.
        """
        assert (top is not None) is self.recovers, "a room that recovers has a position, and no other has"
        self._move(RoomEvent.OPENED)
        if top is None:
            return NOTHING
        self.epoch, self.offset = top.epoch, top.offset
        return self._resume()

    def closed(self) -> None:
        """End: the subscription is given up, or about to be. `opened` may follow for subscriptions that came since."""
        assert not self.members, "a room with members is not closed"
        self._move(RoomEvent.CLOSED)
        self.drop_view()
        self._buffered.clear()
        self._take_batches()

    # Publications

    def publication(self, publication: RawPublication) -> tuple[Output, ...]:
        """Take a publication from the broker: accept it, ignore a double, or buffer what has to wait."""
        if self.state is not IN_SYNC:
            return self._buffer(publication)
        offset = publication.offset
        if offset and self.recovers:
            if offset != self.offset + 1 or publication.epoch != self.epoch:
                return self._out_of_order(publication)
            self.offset = offset
        # As `_accept`, in place: a call here would cost a tenth of what a publication costs in a room of two.
        if self._changes or self.pending:
            return self._accept(publication)
        self._publications.append(publication)
        if self._is_scheduled:
            return NOTHING
        self._is_scheduled = True
        return ONLY_DELIVER

    def _accept(self, publication: RawPublication) -> tuple[Output, ...]:
        """Put a publication into the outbox. What came before leaves before."""
        if self._changes:
            self._end_batch()
        self._publications.append(publication)
        if self.pending and publication.offset:
            for each in self.pending:
                each.arrived.append(publication)
        return self._schedule()

    def _buffer(self, publication: RawPublication) -> tuple[Output, ...]:
        """Keep what arrives out of sync. A closed room without positions has no member to get it."""
        if not self.recovers:
            return NOTHING
        if len(self._buffered) < BUFFER_MAX:
            self._buffered.append(publication)
        return ONLY_BUFFER

    def _out_of_order(self, publication: RawPublication) -> tuple[Output, ...]:
        """Ignore a double, and request the stream where there is a gap."""
        if publication.epoch == self.epoch and publication.offset <= self.offset:
            return NOTHING
        self._buffered.append(publication)
        return (ReportGap(self.offset, publication.offset), BUFFER, self._request_stream())

    # Gaps

    def distrusted(self, now_s: float) -> tuple[Output, ...]:
        """
        Take the news that something may be missing: the link was lost, or the broker reports a gap. The caller must
        compare the position (`compared`) once the link is there.
        """
        if self.recovers:
            self._move(RoomEvent.DISTRUST, now_s)
        return NOTHING

    def compared(self, top: Position | None, now_s: float) -> tuple[Output, ...]:
        """
        Compare the position with the broker's top; None where the broker has no stream. A top that is merely older
        than the position proves nothing, and no gap either.
        """
        if not self.recovers or self.state is RoomState.CLOSED or self.state is RoomState.READING:
            return NOTHING  # the page that is being read decides
        if top == self.position:
            if self.state is IN_SYNC:
                return NOTHING
            self._move(RoomEvent.CONFIRMED)
            return self._resume()
        if self.state is IN_SYNC and top is not None and top.epoch == self.epoch and top.offset <= self.offset:
            return NOTHING
        return (self._request_stream(now_s),)

    def _request_stream(self, now_s: float | None = None) -> RequestStream:
        self._move(RoomEvent.GAP, now_s)
        self._request = RequestStream(self.position, len(self._buffered))
        return self._request

    def is_requested(self, request: RequestStream) -> bool:
        """Whether an answer to this request still counts."""
        return request is self._request

    def stream_unreadable(self, request: RequestStream) -> None:
        """Take the news that a request has no answer. The next comparison tries again."""
        if request is self._request:
            self._move(RoomEvent.UNREADABLE)

    def stream_read(self, request: RequestStream, page: History) -> tuple[Output, ...]:
        """Take the answer to a request: accept what was missing, or report that it is lost."""
        if request is not self._request:
            return NOTHING  # the room was closed or distrusted since: the position is compared again
        assert request.since == self.position, "nothing is accepted while the stream is read"
        missed = replay(request.since, page)
        early, late = self._buffered[: request.buffered], self._buffered[request.buffered :]
        # What had arrived before the page was read is in the page. If it is not, the stream went back in time.
        went_back = any(each.epoch == page.top.epoch and each.offset > page.top.offset for each in early)
        # A publication that is not kept has no offset, and is in no page.
        self._buffered = [each for each in early if not each.offset] + late
        if went_back or not missed.recovered:
            return self._lose(page.top)
        self._move(RoomEvent.FILLED)
        outputs = NOTHING
        for publication in missed.publications:
            assert publication.offset == self.offset + 1, "the page was proved to be without a gap"
            self.offset = publication.offset
            outputs += self._accept(publication)
        self.filled += len(missed.publications)
        return outputs + self._resume()

    def _resume(self) -> tuple[Output, ...]:
        """Go on at the position. What is buffered comes next, and may show another gap."""
        buffered, self._buffered = self._buffered, []
        outputs = NOTHING
        for index, publication in enumerate(buffered):
            if not publication.offset:
                outputs += self._accept(publication)
            elif publication.epoch == self.epoch and publication.offset == self.offset + 1:
                self.offset = publication.offset
                outputs += self._accept(publication)
            elif publication.epoch != self.epoch or publication.offset > self.offset:
                self._buffered = buffered[index:]
                return (*outputs, self._request_stream())
        return outputs

    def _lose(self, top: Position) -> tuple[Output, ...]:
        """Remove every member, and begin again at the stream's top."""
        self._move(RoomEvent.LOST)
        lost = self._remove_members()
        self.epoch, self.offset = top.epoch, top.offset
        return (lost, *self._resume(), *self._if_empty())

    def positioned(self, pending: PendingSubscription, top: Position, missed: Replay) -> tuple[Output, ...]:
        """
        Note where the stream stands for a pending subscription that read it.

        Where it stands in another epoch, the broker has lost the stream that the members follow, though nothing has
        shown it yet: the members are removed, and the room goes on where this subscription does.
        """
        pending.top, pending.missed = top, missed
        if pending.state is not PendingState.PENDING or top.epoch == self.epoch:
            return NOTHING
        self._move(RoomEvent.RESTARTED)
        lost = self._remove_members()
        pending.state = PendingState.PENDING
        pending.arrived.clear()
        self._buffered = [each for each in self._buffered if each.epoch != self.epoch]
        self.epoch, self.offset = top.epoch, top.offset
        return (lost, *(self._resume() if self.is_in_sync else NOTHING))

    def delivery_failed(self) -> tuple[Output, ...]:
        """Remove every member after a fault of ours: it is not known which member got what."""
        self._take_batches()
        return (self._remove_members(), *self._if_empty())

    def _remove_members(self) -> Lost:
        lost = Lost(self.offset, self.members, self._take_batches())
        self.members = 0
        for each in self.pending:
            each.state = PendingState.LOST
        return lost

    # Members

    def enter(self, pending: PendingSubscription) -> None:
        """Note a subscription before anything is awaited for it: from here on the room is not empty."""
        assert pending.state is PendingState.PENDING, "a subscription enters once"
        self.pending.add(pending)

    def activate(self, pending: PendingSubscription) -> Activation:
        """Make a pending subscription a member, in the turn in which `commit` was called."""
        assert pending in self.pending, "activate comes once, and not after cancel"
        assert pending.state is PendingState.PENDING, "commit has raised, and cancel must follow"
        assert self.is_open, "enter opens the room"
        assert pending.top is None or pending.top.epoch == self.epoch, "`positioned` and `_remove_members` see to that"
        self.pending.discard(pending)
        pending.state = PendingState.ACTIVE
        before = self._take_batches() if self._changes or self._batches else ()
        self.members += 1
        delivered = self.offset - len(self._publications)
        seen = pending.top.offset if pending.top is not None and pending.top.offset > delivered else 0
        return Activation(before, seen, pending.changes)

    def cancel(self, pending: PendingSubscription) -> tuple[Output, ...]:
        """Forget a pending subscription. The caller makes it absent, where it was registered."""
        assert pending in self.pending, "cancel comes once, and not after activate"
        self.pending.discard(pending)
        pending.state = PendingState.CANCELLED
        return self._if_empty()

    def left(self, count: int = 1) -> tuple[Output, ...]:
        """Note that members are gone; nothing is delivered to them any more."""
        self.members -= count
        assert self.members >= 0, "only members leave"
        return self._if_empty()

    def _if_empty(self) -> tuple[Output, ...]:
        return ONLY_UNSUBSCRIBE if self.is_empty else NOTHING

    # Joins and leaves

    def presence(self, change: Change, now_s: float) -> tuple[Output, ...]:
        """Take a join or a leave from the broker."""
        if self.presence_view is not None:
            self.presence_view.receive(change)
        return self.change(change, now_s)

    def change(self, change: Change, now_s: float) -> tuple[Output, ...]:
        """Announce a join or a leave, unless the watchers know it: now, or in a large room with the next digest."""
        view = self.presence_view
        if view is not None and view.is_loaded and view.is_large(self._large):
            if view.defer(change):
                self._digest_due_s = now_s + self._digest_s
                return (WakeAt(self._digest_due_s),)
            return NOTHING
        if view is not None and not view.apply(change) and view.is_loaded:
            return NOTHING
        return self._announce(change)

    def wake(self, due_s: float | None = None) -> tuple[Output, ...]:
        """Announce what was deferred until this time; None: until now. Harmless for a time that counts no more."""
        if due_s not in (self._digest_due_s, None) or self.presence_view is None:
            return NOTHING
        self._digest_due_s = None
        outputs = NOTHING
        for change in self.presence_view.digest():
            outputs += self._announce(change)
        return outputs

    def _announce(self, change: Change) -> tuple[Output, ...]:
        for each in self.pending:
            if each.watches:
                each.changes.append(change)
        if self.presence_view is None:
            return NOTHING  # there is no watcher yet
        self._changes.append(change)
        return self._schedule()

    def begin_view(self) -> PresenceView:
        """Begin the view of the first watcher. The caller must load it, or call `drop_view`."""
        assert self.presence_view is None, "all watchers share one view"
        self.presence_view = PresenceView()
        return self.presence_view

    def drop_view(self) -> None:
        """Forget the view, and what was deferred."""
        self.presence_view = self._digest_due_s = None

    # The outbox

    def flush(self) -> Sequence[Batch]:
        """Return what members are to get now, in order, and empty the outbox."""
        self._is_scheduled = False
        if self._changes or self._batches:
            return self._take_batches()
        publications, self._publications = self._publications, []
        return ((publications, ()),)

    def _schedule(self) -> tuple[Output, ...]:
        if self._is_scheduled:
            return NOTHING
        self._is_scheduled = True
        return ONLY_DELIVER

    def _end_batch(self) -> None:
        self._batches.append((self._publications, self._changes))
        self._publications, self._changes = [], []

    def _take_batches(self) -> Sequence[Batch]:
        if self._publications or self._changes:
            self._end_batch()
        batches, self._batches = self._batches, []
        return batches
