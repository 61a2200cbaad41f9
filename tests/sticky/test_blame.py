"""
Who is refused after crashes: a key that was in flight at three of them within a minute, for a minute; by a fake clock.
"""

from __future__ import annotations

import signal
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.handoff.blame import REFUSED_MAX, Blame, describe_key, is_crash, key_of
from sticky.handoff.journal import KEY_BYTES, record
from sticky.keys.affinity import UNIX_PEER, Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot

A, B, NAT = b"c192.0.2.1", b"c192.0.2.2", b"c192.0.2.99"


def test_a_key_is_refused_at_its_third_crash_within_a_minute_and_may_come_again_after_one() -> None:
    blame = Blame()
    assert blame.crashed({A: 1}, 0.0) == []
    assert blame.crashed({A: 1, B: 1}, 30.0) == []
    assert not blame.refused
    assert blame.crashed({A: 1}, 60.0) == [A]
    assert blame.refuses(A, 60.0)
    assert not blame.refuses(B, 60.0), "it was at one"
    assert blame.refuses(A, 119.9)
    assert blame.is_active(119.9)
    assert not blame.refuses(A, 120.0)
    assert not blame.is_active(121.0), "and no handoff has to be checked"


def test_crashes_that_are_more_than_a_minute_apart_do_not_count_together() -> None:
    blame = Blame()
    for now in (0.0, 31.0, 62.0, 93.0):
        assert blame.crashed({A: 1}, now) == []


def test_who_goes_on_after_the_minute_needs_three_more() -> None:
    blame = Blame()
    assert [blame.crashed({A: 1}, now) for now in (0.0, 1.0, 2.0)] == [[], [], [A]]
    assert [blame.crashed({A: 1}, now) for now in (63.0, 64.0, 65.0)] == [[], [], [A]]


def test_crashes_in_between_with_which_a_key_has_nothing_to_do_do_not_save_it() -> None:
    blame = Blame()
    for now, keys in enumerate([{A: 1}, {B: 1}, {A: 1}, {}]):
        assert blame.crashed(keys, now) == []
    assert blame.crashed({A: 1}, 5.0) == [A]


def test_one_alone_is_refused_however_many_connections_it_has() -> None:
    blame = Blame()
    assert [blame.crashed({NAT: 7}, now) for now in range(3)] == [[], [], [NAT]]


def test_of_several_only_those_with_one_connection_are_refused() -> None:
    blame = Blame()
    assert [blame.crashed({A: 1, NAT: 7}, now) for now in range(3)] == [[], [], [A]]
    assert not blame.refuses(NAT, 2.0)


def test_having_had_many_connections_at_one_of_the_three_is_enough_to_be_spared() -> None:
    blame = Blame()
    blame.crashed({A: 1, NAT: 1}, 0.0)
    blame.crashed({A: 1, NAT: 2}, 1.0)
    assert blame.crashed({A: 1, NAT: 1}, 2.0) == [A]


def test_where_all_of_several_have_many_connections_no_key_is_refused() -> None:
    blame = Blame()
    assert [blame.crashed({B: 2, NAT: 7}, now) for now in range(4)] == [[], [], [], []]


def test_who_was_there_at_two_is_suspected_for_as_long_as_a_third_would_count() -> None:
    blame = Blame()
    blame.crashed({A: 1, B: 1}, 0.0)
    assert not blame.is_active(0.0)
    blame.crashed({A: 1}, 10.0)
    assert blame.is_active(70.0)
    assert blame.suspects(A)
    assert not blame.suspects(B)
    assert not blame.is_active(70.1), "and no handoff has to be checked"
    assert not blame.suspects(A)


def test_the_table_is_bounded() -> None:
    blame = Blame()
    keys = {b"c%d" % number: 1 for number in range(REFUSED_MAX + 5)}
    for now in range(3):
        blame.crashed(keys, now)
    assert len(blame.refused) == REFUSED_MAX


@given(
    st.lists(st.tuples(st.floats(0, 50), st.dictionaries(st.sampled_from([A, B, NAT]), st.integers(1, 3))), max_size=30)
)
def test_no_key_is_refused_without_three_crashes_of_its_own(crashes: list[tuple[float, dict[bytes, int]]]) -> None:
    blame, now, at = Blame(), 0.0, dict[bytes, list[float]]()
    for step, keys in crashes:
        now += step
        for key in keys:
            at.setdefault(key, []).append(now)
        for key in blame.crashed(keys, now):
            assert key in keys
            assert now - at[key][-3] <= 60.0


# What a crash is


@pytest.mark.parametrize(
    ("code", "was_retired", "was_killed", "expected"),
    [
        (-signal.SIGSEGV, False, False, True),
        (-signal.SIGABRT, False, False, True),
        (-signal.SIGSEGV, True, False, True),  # while it drained: that was not asked for
        (1, False, False, True),
        (0, False, False, True),  # `os._exit(0)`: the primary had not retired it
        (0, True, False, False),
        (1, True, False, False),
        (-signal.SIGKILL, False, False, False),  # an operator, or the kernel, out of memory
        (-signal.SIGTERM, False, False, False),
        (-signal.SIGABRT, False, True, False),  # it hung
        (-40, False, False, True),  # a real-time signal has no name
    ],
)
def test_what_is_a_crash(code: int, was_retired: bool, was_killed: bool, expected: bool) -> None:
    assert is_crash(code, was_retired=was_retired, was_killed=was_killed) is expected


# Keys

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("client", "session", "expected"),
    [
        ("192.0.2.1", None, b"c192.0.2.1"),
        ("2001:db8:1:2:3::4", None, b"c2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", None, b"c2001:db8:1:2::/64"),
        ("192.0.2.1", "abc", b"sabc"),
        ("10.1.2.3", None, b""),  # a proxy's
        ("fd00::1", None, b""),
        (UNIX_PEER, None, b""),
        ("not an address: at all", None, b""),
    ],
)
def test_a_key_is_a_sticky_id_or_a_clients_address_and_never_a_proxys(
    client: str, session: str | None, expected: bytes
) -> None:
    for sticky in Sticky:
        assert key_of(Affinity(AffinitySettings(sticky, TRUSTED)), client, session) == expected


def test_a_long_sticky_id_is_told_from_others_that_begin_like_it() -> None:
    one, other = record(b"s" + b"x" * 500 + b"1"), record(b"s" + b"x" * 500 + b"2")
    assert one != other
    assert max(len(one), len(other)) < KEY_BYTES


def test_the_log_names_what_may_be_named() -> None:
    hashing = Hashing(b"s" * 32)
    ours = hashing.new_sticky_id(Slot(3))
    assert describe_key(b"c192.0.2.1", hashing) == "client 192.0.2.1"
    assert describe_key(b"s" + ours.encode(), hashing) == f"sticky id {ours}"
    assert describe_key(b"sthe-secret-of-an-application", hashing) == "sticky id the-secr…"
