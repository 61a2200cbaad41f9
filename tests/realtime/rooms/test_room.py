"""
A room's machine: what each event does in each state, as a table; and whole lives of a room, drawn at random, against a
model that keeps every publication in a list.

No broker, no clock and no event loop: events go in, outputs come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.broker.base import ClientInfo, ConnectionId, History, Position, RawPublication, Room
from realtime.rooms.fanout import Subscriber
from realtime.rooms.options import RoomOptions
from realtime.rooms.outputs import (
    TRANSITIONS,
    UNSUBSCRIBE,
    Lost,
    Output,
    ReportGap,
    RequestStream,
    RoomEvent,
    RoomState,
    WakeAt,
)
from realtime.rooms.pending import Insufficient, PendingState, PendingSubscription
from realtime.rooms.recovery import Replay, replay
from realtime.rooms.room import RoomMachine

ROOM = Room("room")
EPOCH, ANOTHER = "e", "another"
KEPT = RoomOptions(history=100)
ANN, BEN = ClientInfo("ann", "a"), ClientInfo("ben", "b")


def publication(offset: int, epoch: str = EPOCH) -> RawPublication:
    return RawPublication(b"%d" % offset, offset, epoch if offset else "")


def page(*offsets: int, top: int, epoch: str = EPOCH) -> History:
    return History([publication(offset, epoch) for offset in offsets], Position(epoch, top))


def subscription(*, watches: bool = False) -> PendingSubscription:
    return PendingSubscription(ROOM, cast(Subscriber, None), watches=watches)


def request_of(outputs: Sequence[Output]) -> RequestStream:
    (found,) = [each for each in outputs if isinstance(each, RequestStream)]
    return found


def delivered(machine: RoomMachine) -> list[int]:
    """Return the offsets that members get now."""
    return [each.offset for publications, _ in machine.flush() for each in publications]


def announced(machine: RoomMachine) -> list[tuple[bool, str]]:
    return [(is_join, info.connection_id) for _, changes in machine.flush() for is_join, info in changes]


def words(outputs: Sequence[Output]) -> str:
    """Say outputs in the words of the table."""
    said = []
    for output in outputs:
        if isinstance(output, RequestStream):
            said.append(f"request after {output.since.offset}")
        elif isinstance(output, Lost):
            said.append(f"lost after {output.after}, {output.members} members")
        elif isinstance(output, ReportGap):
            said.append(f"gap {output.after}..{output.found}")
        elif isinstance(output, WakeAt):
            said.append(f"wake at {output.due_s:g}")
        else:
            said.append(output.value)
    return "; ".join(said)


# The table


def closed() -> tuple[RoomMachine, None]:
    """One subscription is on its way in; nothing is known yet."""
    machine = RoomMachine(ROOM, KEPT)
    machine.enter(subscription())
    return machine, None


def in_sync() -> tuple[RoomMachine, None]:
    """One member, and everything up to offset 5."""
    machine, entering = RoomMachine(ROOM, KEPT), subscription()
    machine.enter(entering)
    assert machine.opened(Position(EPOCH, 5)) == ()
    machine.activate(entering)
    return machine, None


def out_of_sync() -> tuple[RoomMachine, None]:
    """As in sync, and the link was lost."""
    machine, _ = in_sync()
    assert machine.distrusted(1.0) == ()
    return machine, None


def reading() -> tuple[RoomMachine, RequestStream]:
    """As in sync, and offset 8 arrived: 6 and 7 are missing."""
    machine, _ = in_sync()
    return machine, request_of(machine.publication(publication(8)))


STATES = {
    RoomState.CLOSED: closed,
    RoomState.IN_SYNC: in_sync,
    RoomState.OUT_OF_SYNC: out_of_sync,
    RoomState.READING: reading,
}
Act = Callable[[RoomMachine, Any], Sequence[Output] | None]
ACTS: dict[str, Act] = {
    "the next publication": lambda room, _: room.publication(publication(6)),
    "one after a gap": lambda room, _: room.publication(publication(9)),
    "a double": lambda room, _: room.publication(publication(5)),
    "one of another epoch": lambda room, _: room.publication(publication(6, ANOTHER)),
    "one that is not kept": lambda room, _: room.publication(publication(0)),
    "the link is lost": lambda room, _: room.distrusted(2.0),
    "the top is the position": lambda room, _: room.compared(Position(EPOCH, 5), 2.0),
    "the top is newer": lambda room, _: room.compared(Position(EPOCH, 7), 2.0),
    "the top is older": lambda room, _: room.compared(Position(EPOCH, 4), 2.0),
    "the top is of another epoch": lambda room, _: room.compared(Position(ANOTHER, 5), 2.0),
    "there is no stream": lambda room, _: room.compared(None, 2.0),
    "the page has it all": lambda room, request: room.stream_read(request, page(6, 7, 8, top=8)),
    "the page lacks one": lambda room, request: room.stream_read(request, page(7, 8, top=8)),
    "the page is older": lambda room, request: room.stream_read(request, page(6, top=6)),
    "the stream began anew": lambda room, request: room.stream_read(request, page(1, top=1, epoch=ANOTHER)),
    "the stream is unreadable": lambda room, request: room.stream_unreadable(request),
    "a late page": lambda room, _: room.stream_read(RequestStream(Position(EPOCH, 5), 0), page(6, top=6)),
    "the member leaves": lambda room, _: room.left(),
}
TABLE = [
    (RoomState.CLOSED, "the next publication", "buffer", RoomState.CLOSED, []),
    (RoomState.CLOSED, "one that is not kept", "buffer", RoomState.CLOSED, []),
    (RoomState.CLOSED, "the link is lost", "", RoomState.CLOSED, []),
    (RoomState.CLOSED, "the top is newer", "", RoomState.CLOSED, []),
    (RoomState.CLOSED, "a late page", "", RoomState.CLOSED, []),
    (RoomState.IN_SYNC, "the next publication", "deliver", RoomState.IN_SYNC, [6]),
    (RoomState.IN_SYNC, "one after a gap", "gap 5..9; buffer; request after 5", RoomState.READING, []),
    (RoomState.IN_SYNC, "a double", "", RoomState.IN_SYNC, []),
    (RoomState.IN_SYNC, "one of another epoch", "gap 5..6; buffer; request after 5", RoomState.READING, []),
    (RoomState.IN_SYNC, "one that is not kept", "deliver", RoomState.IN_SYNC, [0]),
    (RoomState.IN_SYNC, "the link is lost", "", RoomState.OUT_OF_SYNC, []),
    (RoomState.IN_SYNC, "the top is the position", "", RoomState.IN_SYNC, []),
    (RoomState.IN_SYNC, "the top is newer", "request after 5", RoomState.READING, []),
    (RoomState.IN_SYNC, "the top is older", "", RoomState.IN_SYNC, []),
    (RoomState.IN_SYNC, "the top is of another epoch", "request after 5", RoomState.READING, []),
    (RoomState.IN_SYNC, "there is no stream", "request after 5", RoomState.READING, []),
    (RoomState.IN_SYNC, "a late page", "", RoomState.IN_SYNC, []),
    (RoomState.IN_SYNC, "the member leaves", "unsubscribe", RoomState.IN_SYNC, []),
    (RoomState.OUT_OF_SYNC, "the next publication", "buffer", RoomState.OUT_OF_SYNC, []),
    (RoomState.OUT_OF_SYNC, "a double", "buffer", RoomState.OUT_OF_SYNC, []),
    (RoomState.OUT_OF_SYNC, "the link is lost", "", RoomState.OUT_OF_SYNC, []),
    (RoomState.OUT_OF_SYNC, "the top is the position", "", RoomState.IN_SYNC, []),
    (RoomState.OUT_OF_SYNC, "the top is newer", "request after 5", RoomState.READING, []),
    (RoomState.OUT_OF_SYNC, "the top is older", "request after 5", RoomState.READING, []),
    (RoomState.OUT_OF_SYNC, "the top is of another epoch", "request after 5", RoomState.READING, []),
    (RoomState.OUT_OF_SYNC, "there is no stream", "request after 5", RoomState.READING, []),
    (RoomState.OUT_OF_SYNC, "a late page", "", RoomState.OUT_OF_SYNC, []),
    (RoomState.OUT_OF_SYNC, "the member leaves", "unsubscribe", RoomState.OUT_OF_SYNC, []),
    (RoomState.READING, "the next publication", "buffer", RoomState.READING, []),
    (RoomState.READING, "one that is not kept", "buffer", RoomState.READING, []),
    (RoomState.READING, "the link is lost", "", RoomState.OUT_OF_SYNC, []),
    (RoomState.READING, "the top is the position", "", RoomState.READING, []),
    (RoomState.READING, "the top is newer", "", RoomState.READING, []),
    (RoomState.READING, "the page has it all", "deliver", RoomState.IN_SYNC, [6, 7, 8]),
    (RoomState.READING, "the page lacks one", "lost after 5, 1 members; unsubscribe", RoomState.IN_SYNC, []),
    (RoomState.READING, "the page is older", "lost after 5, 1 members; unsubscribe", RoomState.IN_SYNC, []),
    (RoomState.READING, "the stream began anew", "lost after 5, 1 members; unsubscribe", RoomState.IN_SYNC, []),
    (RoomState.READING, "the stream is unreadable", "", RoomState.OUT_OF_SYNC, []),
    (RoomState.READING, "a late page", "", RoomState.READING, []),
    (RoomState.READING, "the member leaves", "unsubscribe", RoomState.READING, []),
]


@pytest.mark.parametrize(("state", "event", "outputs", "after", "offsets"), TABLE)
def test_what_each_event_does_in_each_state(
    state: RoomState, event: str, outputs: str, after: RoomState, offsets: list[int]
) -> None:
    machine, request = STATES[state]()
    assert machine.state is state
    assert words(ACTS[event](machine, request) or ()) == outputs
    assert machine.state is after
    assert delivered(machine) == offsets


def test_every_state_can_be_left_and_every_event_leads_somewhere() -> None:
    assert {state for state, _ in TRANSITIONS} == set(RoomState)
    assert {event for _, event in TRANSITIONS} == set(RoomEvent)
    assert all(
        (state, event) in TRANSITIONS for state in RoomState for event in (RoomEvent.CLOSED, RoomEvent.DISTRUST)
    ), "a link can be lost, and a room be closed, at any time"


def test_an_event_that_the_table_does_not_have_names_the_state_and_the_event() -> None:
    machine, _ = in_sync()
    with pytest.raises(AssertionError, match="room room: 'opened' while in sync"):
        machine.opened(Position(EPOCH, 5))


# What the table does not say


def test_what_arrives_before_the_position_is_known_is_delivered_where_it_comes_after_it() -> None:
    machine, _ = closed()
    for offset in (5, 6, 0, 7):
        machine.publication(publication(offset))
    assert words(machine.opened(Position(EPOCH, 5))) == "deliver"
    assert delivered(machine) == [6, 0, 7]


def test_what_is_buffered_can_show_another_gap() -> None:
    machine, request = reading()
    machine.publication(publication(10))
    assert words(machine.stream_read(request, page(6, 7, 8, top=8))) == "deliver; request after 8"
    assert machine.state is RoomState.READING
    assert delivered(machine) == [6, 7, 8]


def test_a_publication_that_is_not_kept_is_delivered_after_the_gap_and_is_no_gap_itself() -> None:
    machine, request = reading()
    machine.publication(publication(0))
    assert words(machine.stream_read(request, page(6, 7, 8, top=8))) == "deliver"
    assert delivered(machine) == [6, 7, 8, 0]
    machine.distrusted(1.0)
    machine.publication(publication(0))
    assert words(machine.compared(Position(EPOCH, 8), 2.0)) == "deliver"
    assert delivered(machine) == [0]


def test_a_page_that_was_requested_before_the_link_was_lost_does_not_count() -> None:
    machine, request = reading()
    machine.distrusted(1.0)
    assert not machine.is_requested(request)
    assert machine.stream_read(request, page(6, 7, 8, top=8)) == ()
    assert machine.state is RoomState.OUT_OF_SYNC
    again = request_of(machine.compared(Position(EPOCH, 9), 2.0))
    assert words(machine.stream_read(again, page(6, 7, 8, 9, top=9))) == "deliver"
    assert delivered(machine) == [6, 7, 8, 9]


def test_what_was_accepted_before_a_loss_is_written_before_it() -> None:
    machine, _ = in_sync()
    machine.publication(publication(6))
    request = request_of(machine.publication(publication(9)))
    lost, *_ = machine.stream_read(request, page(9, top=9))
    assert isinstance(lost, Lost)
    assert [[each.offset for each in publications] for publications, _ in lost.before] == [[6]]
    assert (lost.after, machine.position) == (6, Position(EPOCH, 9))


def test_a_burst_is_one_delivery() -> None:
    machine, _ = in_sync()
    assert [words(machine.publication(publication(offset))) for offset in (6, 7, 8)] == ["deliver", "", ""]
    assert delivered(machine) == [6, 7, 8]
    assert words(machine.publication(publication(9))) == "deliver"


def test_how_long_a_room_is_out_of_sync_is_known() -> None:
    machine, _ = out_of_sync()
    assert machine.out_of_sync_since_s == 1.0
    machine.compared(Position(EPOCH, 5), 2.0)
    assert machine.out_of_sync_since_s is None


def test_a_room_without_history_delivers_what_arrives_and_is_never_out_of_sync() -> None:
    machine = RoomMachine(ROOM, RoomOptions())
    entering = subscription()
    machine.enter(entering)
    assert machine.publication(publication(0)) == ()
    machine.opened(None)
    machine.activate(entering)
    assert machine.distrusted(1.0) == ()
    assert machine.compared(Position(EPOCH, 5), 1.0) == ()
    assert words(machine.publication(publication(0))) == "deliver"
    assert machine.is_in_sync


def test_a_pending_subscription_gets_what_is_accepted_and_is_lost_with_the_members() -> None:
    machine, request = reading()
    entering = subscription()
    machine.enter(entering)
    machine.positioned(entering, Position(EPOCH, 8), Replay(recovered=False))
    machine.stream_read(request, page(6, 7, 8, top=8))
    machine.publication(publication(9))
    assert [each.offset for each in entering.arrived] == [6, 7, 8, 9]
    joined = entering.commit()
    assert joined.position == Position(EPOCH, 9)
    assert machine.activate(entering) == ((), 9, []), "9 is in the outbox, and in the answer"
    late = subscription()
    machine.enter(late)
    request = request_of(machine.publication(publication(11)))
    assert words(machine.stream_read(request, page(11, top=11))) == "lost after 9, 2 members", "and one is on its way"
    assert late.state is PendingState.LOST
    with pytest.raises(Insufficient):
        late.commit()
    assert words(machine.cancel(late)) == "unsubscribe"


def test_a_room_that_is_closed_forgets_what_it_had_and_begins_anew() -> None:
    machine, _ = reading()
    machine.left()
    machine.closed()
    assert machine.state is RoomState.CLOSED
    entering = subscription()
    machine.enter(entering)
    assert machine.opened(Position(EPOCH, 20)) == ()
    machine.activate(entering)
    assert delivered(machine) == []
    assert words(machine.publication(publication(21))) == "deliver"


@pytest.mark.parametrize(
    ("state", "after", "offsets"),
    [
        (RoomState.IN_SYNC, RoomState.IN_SYNC, []),
        (RoomState.OUT_OF_SYNC, RoomState.OUT_OF_SYNC, []),
        (RoomState.READING, RoomState.IN_SYNC, [3]),
    ],
)
def test_a_subscription_that_finds_another_epoch_shows_that_the_members_lost_theirs(
    state: RoomState, after: RoomState, offsets: list[int]
) -> None:
    machine, _ = STATES[state]()
    newcomer, other = subscription(), subscription()
    machine.enter(newcomer)
    machine.enter(other)
    if state is RoomState.READING:
        machine.publication(publication(3, ANOTHER))
    lost, *_ = machine.positioned(newcomer, Position(ANOTHER, 2), Replay(recovered=False))
    assert words([lost]) == "lost after 5, 1 members"
    assert (machine.state, machine.position.epoch) == (after, ANOTHER)
    assert newcomer.commit().position == Position(ANOTHER, 2 + len(offsets))
    assert other.state is PendingState.LOST
    machine.activate(newcomer)
    assert delivered(machine) == offsets


# Joins and leaves


def watched(large: int = 10) -> RoomMachine:
    """Return a room with one watcher that knows of Ann."""
    machine, watcher = RoomMachine(ROOM, KEPT, large=large, digest_s=1.0), subscription(watches=True)
    machine.enter(watcher)
    machine.opened(Position(EPOCH, 5))
    machine.begin_view().load({ConnectionId("a"): ANN})
    machine.activate(watcher)
    return machine


@pytest.mark.parametrize(
    ("change", "outputs", "told"),
    [
        ((True, BEN), "deliver", [(True, "b")]),
        ((False, ANN), "deliver", [(False, "a")]),
        ((True, ANN), "", []),
        ((False, BEN), "", []),
    ],
)
def test_a_change_that_is_news_is_announced(
    change: tuple[bool, ClientInfo], outputs: str, told: list[tuple[bool, str]]
) -> None:
    machine = watched()
    assert words(machine.presence(change, 1.0)) == outputs
    assert announced(machine) == told


def test_publications_and_changes_leave_in_the_order_in_which_they_arrived() -> None:
    machine = watched()
    machine.publication(publication(6))
    machine.presence((True, BEN), 1.0)
    machine.publication(publication(7))
    machine.presence((False, BEN), 1.0)
    batches = [([each.offset for each in publications], len(changes)) for publications, changes in machine.flush()]
    assert batches == [([6], 1), ([7], 1)]


def test_a_large_room_announces_the_difference_at_the_due_time_and_at_no_other() -> None:
    machine = watched(large=0)
    assert words(machine.presence((True, BEN), 10.0)) == "wake at 11"
    assert words(machine.presence((False, ANN), 10.5)) == ""
    assert words(machine.presence((True, ANN), 10.6)) == ""
    assert machine.wake(10.7) == ()
    assert words(machine.wake(11.0)) == "deliver"
    assert announced(machine) == [(True, "b")], "Ann left and came back meanwhile"
    assert machine.wake(11.0) == ()


def test_changes_that_a_pending_subscription_has_are_flushed_before_it_is_a_member() -> None:
    machine, newcomer = watched(), subscription(watches=True)
    machine.enter(newcomer)
    machine.presence((True, BEN), 1.0)
    before, _, changes = machine.activate(newcomer)
    assert [each for _, changes_before in before for each in changes_before] == changes == [(True, BEN)]
    assert not any(changes for _, changes in machine.flush())


# Whole lives


KEEPS = 6  # publications in the stream
WALK = RoomOptions(history=KEEPS)


@dataclass
class Stream:
    """The naive model: every publication ever made, in a list."""

    epoch: str = "e0"
    made: list[RawPublication] = field(default_factory=list)

    @property
    def top(self) -> Position:
        return Position(self.epoch, len(self.made))

    def add(self) -> RawPublication:
        made = RawPublication(b"", len(self.made) + 1, self.epoch)
        self.made.append(made)
        return made

    def read(self, since: Position) -> History:
        return History([each for each in self.made[-KEEPS:] if each.offset > since.offset], self.top)


@dataclass
class Member:
    """A client: where it began, and which offsets it has got since."""

    start: Position
    seen: int
    got: list[int] = field(default_factory=list)


class Walk:
    """A machine with a shell around it that answers late, out of order, or not at all."""

    def __init__(self) -> None:
        self.machine = RoomMachine(ROOM, WALK)
        self.streams = [Stream()]
        self.is_linked = True
        self.members: list[Member] = []
        self.left: list[Member] = []
        self.entering: list[PendingSubscription] = []
        self.reads: list[tuple[RequestStream, History]] = []  # pages on their way
        self.compares: list[Position] = []  # tops on their way
        self.unsubscribes = False

    @property
    def stream(self) -> Stream:
        return self.streams[-1]

    def perform(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, RequestStream):
                if self.is_linked:
                    self.reads.append((output, self.stream.read(output.since)))
                else:
                    self.machine.stream_unreadable(output)
            elif isinstance(output, Lost):
                assert output.members == len(self.members)
                self.deliver(output.before)
                self.left += self.members
                self.members.clear()
            elif output is UNSUBSCRIBE:
                self.unsubscribes = True

    def deliver(self, batches: Sequence[Any]) -> None:
        for publications, _ in batches:
            for each in publications:
                for member in self.members:
                    if each.offset > member.seen:
                        assert each.epoch == member.start.epoch, "a member never crosses epochs"
                        member.got.append(each.offset)

    # What happens

    def publish(self, number: int) -> None:
        made = self.stream.add()
        if self.is_linked and number % 4:
            self.perform(self.machine.publication(made))

    def repeat(self, number: int) -> None:
        if self.stream.made:
            self.perform(self.machine.publication(self.stream.made[-1 - number % len(self.stream.made)]))

    def lose_stream(self, _: int) -> None:
        if self.stream.made:
            self.streams.append(Stream(f"e{len(self.streams)}"))

    def switch_link(self, _: int) -> None:
        self.is_linked = not self.is_linked
        if self.is_linked:
            self.compares.append(self.stream.top)
        else:
            self.reads.clear()  # each fails, or is ignored
            self.compares.clear()
            self.perform(self.machine.distrusted(0.0))

    def report_gap(self, _: int) -> None:
        if self.is_linked:
            self.perform(self.machine.distrusted(0.0))
            self.compares.append(self.stream.top)

    def ask_top(self, _: int) -> None:
        if self.is_linked:
            self.compares.append(self.stream.top)

    def answer_top(self, number: int) -> None:
        if self.compares:
            self.perform(self.machine.compared(self.compares.pop(number % len(self.compares)), 0.0))

    def answer_read(self, number: int) -> None:
        if self.reads:
            request, found = self.reads.pop(number % len(self.reads))
            if number % 5 == 0:
                self.machine.stream_unreadable(request)
            else:
                self.perform(self.machine.stream_read(request, found))

    def enter(self, number: int) -> None:
        if not self.is_linked:
            return
        entering = subscription()
        self.machine.enter(entering)
        if not self.machine.is_open:
            self.perform(self.machine.opened(self.stream.top))
        missed = Replay(recovered=False)
        if number % 2 and self.left:
            last = self.left[-1]
            entering.since = Position(last.start.epoch, last.got[-1] if last.got else last.start.offset)
            missed = replay(entering.since, self.stream.read(entering.since))
        self.perform(self.machine.positioned(entering, self.stream.top, missed))
        self.entering.append(entering)

    def activate(self, number: int) -> None:
        if not self.entering:
            return
        entering = self.entering.pop(number % len(self.entering))
        try:
            joined = entering.commit()
        except Insufficient:
            self.perform(self.machine.cancel(entering))
            return
        assert joined.position is not None
        before, seen, _ = self.machine.activate(entering)
        self.deliver(before)
        start = entering.since if joined.recovered else joined.position
        assert start is not None
        got = [each.offset for each in joined.publications]
        self.members.append(Member(Position(joined.position.epoch, start.offset), seen, got))

    def cancel(self, number: int) -> None:
        if self.entering:
            self.perform(self.machine.cancel(self.entering.pop(number % len(self.entering))))

    def leave(self, number: int) -> None:
        if self.members:
            self.left.append(self.members.pop(number % len(self.members)))
            self.perform(self.machine.left())

    def close(self, _: int) -> None:
        if self.unsubscribes and self.machine.is_empty:
            self.unsubscribes = False
            self.machine.closed()

    def flush(self, _: int) -> None:
        self.deliver(self.machine.flush())

    def settle(self) -> None:
        """Have the link back, every answer given, and everything delivered."""
        if not self.is_linked:
            self.switch_link(0)
        for _ in range(len(self.compares) + len(self.reads) + 3):
            self.ask_top(0)
            while self.compares:
                self.answer_top(0)
            while self.reads:
                self.answer_read(1)
        self.flush(0)


ACTIONS = (
    "publish", "publish", "publish", "publish", "repeat", "lose_stream", "switch_link", "report_gap", "ask_top",
    "answer_top", "answer_top", "answer_read", "answer_read", "enter", "enter", "activate", "activate", "cancel",
    "leave", "close", "flush", "flush",
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=120))
def test_whatever_happens_each_member_has_everything_in_order_or_is_notified(steps: list[tuple[str, int]]) -> None:
    walk = Walk()
    for action, number in steps:
        getattr(walk, action)(number)
    walk.settle()
    streams = {stream.epoch: stream for stream in walk.streams}
    for member in walk.left + walk.members:
        made = [each.offset for each in streams[member.start.epoch].made]
        expected = made[member.start.offset :]
        assert member.got == expected[: len(member.got)], "each once, in order, without a gap"
    for member in walk.members:
        assert member.start.epoch == walk.stream.epoch, "another epoch is a loss"
        assert member.start.offset + len(member.got) == walk.stream.top.offset, "and all of it"
    assert walk.machine.members == len(walk.members)
    if walk.members:
        assert walk.machine.is_in_sync
        assert walk.machine.position == walk.stream.top
