"""The live keys of one worker: which are counted, which are away, and which ends are reported."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sticky.keys.away import home_of
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.keys.live_keys import REPORT_KEYS, LiveKeys

HASHING = Hashing(b"a secret of some length")
A, B = Key(b"4aaaa"), Key(b"4bbbb")


def live(ends: list[str] | None = None) -> LiveKeys:
    return LiveKeys(HASHING, Slot(0), lambda: ends.append("ended") if ends is not None else None)


def test_a_key_at_home_is_never_reported() -> None:
    ends: list[str] = []
    keys = live(ends)
    keys.enter(A)
    keys.leave(A)
    assert (ends, keys.has_ended, keys.take_ended()) == ([], False, [])


def test_a_key_that_is_away_is_reported_when_its_last_connection_has_ended() -> None:
    ends: list[str] = []
    keys = live(ends)
    keys.enter(A, away=True)
    keys.enter(A)
    keys.leave(A)
    assert keys.is_away(A)
    assert not ends
    keys.leave(A)
    assert not keys.is_away(A)
    assert ends == ["ended"]
    assert keys.take_ended() == [A]
    assert not keys.has_ended


def test_the_callback_comes_once_for_all_ends_that_wait() -> None:
    ends: list[str] = []
    keys = live(ends)
    for key in (A, B):
        keys.enter(key, away=True)
        keys.leave(key)
    assert ends == ["ended"]
    assert keys.take_ended() == [A, B]


def test_a_key_that_comes_back_before_its_end_is_reported_has_not_ended() -> None:
    keys = live()
    keys.enter(A, away=True)
    keys.leave(A)
    keys.enter(A)
    assert not keys.has_ended
    assert keys.is_away(A), "the primary still has it as away"


def test_what_could_not_be_reported_is_reported_first_the_next_time() -> None:
    keys = live()
    for key in (A, B):
        keys.enter(key, away=True)
        keys.leave(key)
    taken = keys.take_ended()
    keys.enter(B)
    keys.put_back(taken)
    assert keys.take_ended() == [A], "B has a connection again"


def test_a_key_that_stays_while_its_worker_drains_is_reported_when_its_last_connection_has_ended() -> None:
    ends: list[str] = []
    keys = live(ends)
    keys.enter(A)
    keys.enter(A)
    assert keys.stay([A, B]) == [A], "B has no connection"
    assert keys.staying == [A]
    keys.leave(A)
    assert (keys.staying, ends) == ([A], [])
    keys.leave(A)
    assert (keys.staying, keys.take_ended()) == ([], [A])


def test_a_report_is_bounded() -> None:
    keys = live()
    for number in range(REPORT_KEYS + 1):
        key = Key(b"4%d" % number)
        keys.enter(key, away=True)
        keys.leave(key)
    assert len(keys.take_ended()) == REPORT_KEYS
    assert len(keys.take_ended()) == 1


def test_no_key_is_not_counted() -> None:
    keys = live()
    keys.enter(None, away=True)
    keys.leave(None)
    assert not keys.has_ended
    assert not keys.is_away(None)


def test_the_end_of_the_last_connection_ends_every_key() -> None:
    keys = live()
    keys.enter(A, away=True)
    keys.enter(A)
    keys.enter(B)
    keys.leave_all()
    assert keys.take_ended() == [A]
    assert keys.find_away(8) == []


@given(st.lists(st.binary(max_size=5).map(lambda rest: Key(b"4" + rest)), max_size=20), st.integers(1, 9))
def test_keys_whose_home_is_elsewhere_are_found_and_are_away_from_then_on(found: list[Key], slots: int) -> None:
    keys = live()
    for key in found:
        keys.enter(key)
    elsewhere = {key for key in found if home_of(HASHING, key, slots) != 0}
    assert set(keys.find_away(slots)) == elsewhere
    assert all(keys.is_away(key) for key in elsewhere)


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(["enter", "away", "leave", "take"])), max_size=40))
def test_a_key_is_reported_exactly_when_it_was_away_and_has_no_connection(deeds: list[tuple[Key, str]]) -> None:
    keys, counts = live(), Counter[Key]()
    away: set[Key] = set()
    reported: set[Key] = set()
    for key, deed in deeds:
        if deed in ("enter", "away"):
            keys.enter(key, away=deed == "away")
            counts[key] += 1
            if deed == "away" or key in reported:
                away.add(key)
            reported.discard(key)
        elif deed == "leave" and counts[key]:
            keys.leave(key)
            counts[key] -= 1
            if not counts[key] and key in away:
                away.discard(key)
                reported.add(key)
        elif deed == "take":
            assert set(keys.take_ended()) == reported
            reported.clear()
    assert {key for key in (A, B) if keys.is_away(key)} == away
    assert set(keys.take_ended()) == reported
