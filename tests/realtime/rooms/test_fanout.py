"""
The members of one room: who is written to, with which bytes, how often, and in which order.

Members here are recorders at the seams that `fanout.py` names (`Subscriber`, `Writer`, `Wire`). What a slow member
costs is seen with real sockets in tests/realtime/protocol/test_connecting.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import given
from hypothesis import strategies as st

from realtime.broker.base import ClientInfo, RawPublication, Room
from realtime.protocol.centrifuge.encoder import difference
from realtime.rooms.fanout import KEYS_MAX, Change, Fanout, total

ROOM = Room("room")
ANA = ClientInfo("ana", "c1")


@dataclass(eq=False)
class Words:
    """An encoder whose output can be read, and that counts how often it encodes."""

    name: str = ""
    encoded: int = 0
    is_delta: bool = False

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        self.encoded += 1
        return b"%b%d " % (self.name.encode(), publication.offset)

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        return b"~%b " % delta if delta is not None else self.publication(room, publication)

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        return b"".join(b"%b%b " % (b"+" if joined else b"-", info.connection_id.encode()) for joined, info in changes)


@dataclass(eq=False)
class Transport:
    written: list[bytes] = field(default_factory=list)
    congested_since: float | None = None

    def is_congested_since(self) -> float | None:
        return self.congested_since

    def write(self, data: bytes) -> None:
        self.written.append(data)


@dataclass(eq=False)
class Member:
    encoder: Words
    connection_id: str = ""
    transport: Transport = field(default_factory=Transport)

    def insufficient(self, room: Room) -> None:
        raise AssertionError("a fan-out tells nobody that")

    @property
    def heard(self) -> str:
        return b"".join(self.transport.written).decode().strip()


def publications(*offsets: int) -> list[RawPublication]:
    return [RawPublication(b"x", offset) for offset in offsets]


def test_a_burst_is_encoded_once_and_costs_each_member_one_write() -> None:
    encoder = Words()
    fanout, members = Fanout(ROOM), [Member(encoder) for _ in range(50)]
    for member in members:
        fanout.add(member, watches=False)
    assert fanout.deliver(publications(*range(1, 17))) == 16 * 50
    assert encoder.encoded == 16
    first = members[0].transport.written
    assert [len(member.transport.written) for member in members] == [1] * 50
    assert all(member.transport.written[0] is first[0] for member in members), "the very same bytes"
    assert first[0] == b"".join(b"%d " % n for n in range(1, 17))


def test_each_wire_has_its_own_bytes() -> None:
    one, other = Words("a"), Words("b")
    fanout, members = Fanout(ROOM), [Member(one), Member(other), Member(one)]
    for member in members:
        fanout.add(member, watches=False)
    fanout.deliver(publications(1, 2))
    assert [member.heard for member in members] == ["a1 a2", "b1 b2", "a1 a2"]
    assert (one.encoded, other.encoded) == (2, 2)


def test_who_left_is_written_nothing_more_and_can_come_again() -> None:
    fanout, encoder = Fanout(ROOM), Words()
    stays, goes = Member(encoder), Member(encoder)
    for member in (stays, goes):
        fanout.add(member, watches=True)
    fanout.deliver(publications(1))
    assert fanout.remove(goes) is True
    assert fanout.remove(goes) is False
    fanout.deliver(publications(2))
    fanout.announce([(True, ANA)])
    fanout.add(goes, watches=False)
    fanout.deliver(publications(3))
    fanout.announce([(False, ANA)])
    assert stays.heard == "1 2 +c1 3 -c1"
    assert goes.heard == "1 3"
    assert fanout.size == 2


def test_joins_and_leaves_go_to_those_who_watch() -> None:
    fanout, encoder = Fanout(ROOM), Words()
    watches, does_not, late = Member(encoder), Member(encoder), Member(encoder)
    fanout.add(watches, watches=True)
    fanout.add(does_not, watches=False)
    fanout.add(late, watches=True, seen=9)
    fanout.announce([(True, ANA), (False, ANA)])
    assert [member.heard for member in (watches, does_not, late)] == ["+c1 -c1", "", "+c1 -c1"]


@pytest.mark.parametrize(
    ("seen", "turns", "heard"),
    [
        (0, [[1, 2], [3]], "1 2 3"),
        (2, [[1, 2], [3]], "3"),
        (2, [[1, 2, 3], [4]], "3 4"),
        (2, [[1], [2], [3]], "3"),
        (5, [[1, 2], [3, 4]], ""),
        (3, [[4, 5]], "4 5"),
        (2, [[0], [1, 0], [3, 0]], "0 0 3 0"),
    ],
)
def test_a_member_that_came_in_between_gets_what_it_has_not_seen(seen: int, turns: list[list[int]], heard: str) -> None:
    fanout, encoder = Fanout(ROOM), Words()
    member, other = Member(encoder), Member(encoder)
    fanout.add(other, watches=False)
    fanout.add(member, watches=False, seen=seen)
    counts = [fanout.deliver(publications(*offsets)) for offsets in turns]
    assert member.heard == heard
    assert other.heard == " ".join(str(offset) for offsets in turns for offset in offsets)
    assert sum(counts) == len(heard.split()) + len(other.heard.split())
    assert fanout.size == 2
    assert fanout.remove(member), "in whichever way it was kept"
    assert fanout.size == 1


def test_a_late_member_gets_what_all_get_as_soon_as_the_room_has_caught_up() -> None:
    fanout, encoder = Fanout(ROOM), Words()
    late = Member(encoder)
    fanout.add(late, watches=False, seen=2)
    fanout.deliver(publications(1, 2))
    fanout.deliver(publications(3, 4, 5))
    assert late.transport.written == [b"3 4 5 "], "in one write"


def test_clearing_returns_everybody_and_leaves_nobody() -> None:
    fanout, encoder = Fanout(ROOM), Words()
    members = [Member(encoder), Member(Words()), Member(encoder)]
    fanout.add(members[0], watches=True)
    fanout.add(members[1], watches=False)
    fanout.add(members[2], watches=True, seen=9)
    assert set(fanout) == set(members)
    assert total([fanout, Fanout(ROOM)]) == 3
    assert set(fanout.clear()) == set(members)
    assert (list(fanout), fanout.size, fanout.clear()) == ([], 0, [])
    fanout.announce([(True, ANA)])
    assert fanout.deliver(publications(1)) == 0
    assert all(member.heard == "" for member in members)


def keyed(offset: int, key: str) -> RawPublication:
    return RawPublication(b"x", offset, tags={"k": key})


def test_in_a_room_that_conflates_a_slow_member_gets_the_latest_of_each_key_once_it_can() -> None:
    fanout, encoder = Fanout(ROOM, conflate="k"), Words()
    slow, quick = Member(encoder), Member(encoder)
    for member in (slow, quick):
        fanout.add(member, watches=False)
    fanout.deliver([keyed(1, "a")])
    slow.transport.congested_since = 1.0
    fanout.deliver([keyed(2, "a"), keyed(3, "b")])
    fanout.deliver([keyed(4, "a")])
    assert (slow.heard, quick.heard) == ("1", "1 2 3 4")
    assert fanout.size == 2
    slow.transport.congested_since = None
    fanout.catch_up(slow)
    fanout.catch_up(quick)
    fanout.deliver([keyed(5, "b")])
    assert (slow.heard, quick.heard) == ("1 3 4 5", "1 2 3 4 5")


def test_who_publishes_and_is_behind_itself_gets_what_others_say_and_not_its_own() -> None:
    fanout, encoder = Fanout(ROOM, conflate="k"), Words()
    slow, quick, also_slow = Member(encoder, "me"), Member(encoder, "q"), Member(encoder, "s")
    for member in (slow, quick, also_slow):
        fanout.add(member, watches=False)
    slow.transport.congested_since = also_slow.transport.congested_since = 1.0
    fanout.deliver([keyed(1, "a")])
    mine = RawPublication(b"x", 2, tags={"k": "b"}, exclude="me")
    assert fanout.deliver([mine]) == 1, "to who is quick, at once"
    fanout.deliver([keyed(3, "c")])
    for member in (slow, also_slow):
        member.transport.congested_since = None
        fanout.catch_up(member)
    assert (slow.heard, quick.heard, also_slow.heard) == ("1 3", "1 2 3", "1 2 3")


def test_what_is_kept_for_a_slow_member_is_bounded_by_the_keys() -> None:
    fanout, slow = Fanout(ROOM, conflate=""), Member(Words())
    slow.transport.congested_since = 1.0
    fanout.add(slow, watches=False)
    for offset in range(1, 1001):
        fanout.deliver(publications(offset))
    fanout.catch_up(slow)
    assert slow.heard == "1000"


def test_for_whom_too_many_keys_wait_is_a_member_no_more_and_is_to_be_told() -> None:
    fanout, encoder = Fanout(ROOM, conflate="k"), Words()
    slow, quick = Member(encoder), Member(encoder)
    slow.transport.congested_since = 1.0
    for member in (slow, quick):
        fanout.add(member, watches=True)
    for number in range(1, KEYS_MAX + 1):
        fanout.deliver([keyed(number, f"key {number}")])
    assert (fanout.overrun, fanout.size) == ([], 2)
    fanout.deliver([keyed(KEYS_MAX + 1, "one more")])
    assert (fanout.overrun, list(fanout), fanout.size) == ([slow], [quick], 1)
    fanout.catch_up(slow)
    assert slow.heard == ""


def test_a_slow_member_of_a_room_that_conflates_can_leave_and_be_put_out() -> None:
    fanout, encoder = Fanout(ROOM, conflate="k"), Words()
    one, other = Member(encoder), Member(encoder)
    for member in (one, other):
        member.transport.congested_since = 1.0
        fanout.add(member, watches=True)
    fanout.deliver([keyed(1, "a")])
    assert fanout.remove(one) is True
    assert list(fanout.clear()) == [other]
    fanout.catch_up(one)
    fanout.catch_up(other)
    assert (one.heard, other.heard, fanout.size) == ("", "", 0)


def test_who_is_slow_and_chose_by_tags_gets_the_latest_of_what_it_chose() -> None:
    fanout, slow = Fanout(ROOM, conflate=""), Member(Words())
    slow.transport.congested_since = 1.0
    fanout.add(slow, watches=False, seen=1, accepts=lambda publication: publication.tags == {"k": "a"})
    fanout.deliver([keyed(1, "a"), keyed(2, "a"), keyed(3, "b")])
    fanout.catch_up(slow)
    assert slow.heard == "2"


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(6, 11), st.lists(st.just(None), min_size=1, max_size=4))))
def test_whoever_comes_and_goes_each_gets_every_publication_of_its_time_in_order(acts: list[object]) -> None:
    fanout, wires = Fanout(ROOM), [Words(), Words()]
    members = [Member(wires[n % 2]) for n in range(6)]
    wanted: list[list[str]] = [[] for _ in members]
    inside: set[int] = set()
    offset = 0
    for act in acts:
        if isinstance(act, list):
            offsets = range(offset + 1, offset + 1 + len(act))
            offset += len(act)
            assert fanout.deliver(publications(*offsets)) == len(inside) * len(act)
            for number in inside:
                wanted[number] += map(str, offsets)
        elif act < 6 and act not in inside:
            inside.add(act)
            fanout.add(members[act], watches=False)
        elif act >= 6:
            assert fanout.remove(members[act - 6]) is (act - 6 in inside)
            inside.discard(act - 6)
        assert fanout.size == len(inside)
    assert [member.heard.split() for member in members] == wanted


# Differences


class Differences(Words):
    """An encoder that writes a payload itself, or a marked difference to the one before, each behind its length."""

    def __init__(self) -> None:
        super().__init__(is_delta=True)

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        return self.delta(room, publication, None)

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        said = b"=" + publication.data if delta is None else b"~" + delta
        return len(said).to_bytes(4) + said


class Follower(Member):
    """A member that puts differences together, as an SDK does: each to what it got before."""

    base = b""

    def got(self) -> list[bytes]:
        """Return what it has got since it was last asked."""
        written, found = b"".join(self.transport.written), []
        self.transport.written.clear()
        while written:
            size = 4 + int.from_bytes(written[:4])
            said, written = written[4:size], written[size:]
            self.base = apply_delta(self.base, said[1:]) if said[:1] == b"~" else said[1:]
            found.append(self.base)
        return found


def numbered(number: int, offset: int, exclude: str) -> RawPublication:
    """Return one that is long enough for a difference to be shorter."""
    return RawPublication(
        b"the same in each of them, whatever else may be different: %d" % number, offset, exclude=exclude
    )


kinds = st.tuples(st.booleans(), st.sampled_from(["", "", "0", "1", "2"]))  # whether it is kept; who does not get it
comes = st.tuples(st.integers(0, 2), st.integers(0, 4))  # who, and how many of the turn it has seen already
turns = st.lists(st.tuples(st.lists(comes | st.integers(0, 2), max_size=3), st.lists(kinds, min_size=1, max_size=4)))


@given(turns)
def test_a_difference_is_always_to_what_the_member_got_last(turns: list[Any]) -> None:
    fanout, encoder = Fanout(ROOM, difference), Differences()
    members = [Follower(encoder, connection_id=str(n)) for n in range(3)]
    inside: set[int] = set()
    number = offset = 0
    for moves, burst in turns:
        publications = []
        for kept, exclude in burst:
            number, offset = number + 1, offset + kept
            publications.append(numbered(number, offset if kept else 0, exclude))
        wanted = {member: list(publications) for member in inside}
        for move in moves:
            if isinstance(move, int):
                inside.discard(move)
                wanted.pop(move, None)
                fanout.remove(members[move])
            elif move[0] not in inside:
                who, count = move
                inside.add(who)
                seen = [each for each in publications if each.offset][:count]
                fanout.add(members[who], watches=False, seen=seen[-1].offset if seen else 0)
                members[who].base = seen[-1].data if seen else b""
                wanted[who] = [each for each in publications if each not in seen]
        fanout.deliver(publications)
        for who, theirs in wanted.items():
            assert members[who].got() == [each.data for each in theirs if each.exclude != str(who)]
