"""The ledger: what each client has is compared with a slow and obvious count."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from realtime.loadtest.ledger import Account, Ledger


def taken(*numbers: int) -> Account:
    account = Account(0)
    for number in numbers:
        account.take(number)
    return account


def ledger_of(published: int, *deliveries: list[int]) -> Ledger:
    ledger = Ledger(1)
    for _ in range(published):
        ledger.publish(0)
    for numbers in deliveries:
        account = ledger.open(0)
        for number in numbers:
            account.take(number)
    return ledger


def test_everything_once_and_in_order_is_clean() -> None:
    balance = ledger_of(3, [0, 1, 2], [0, 1, 2]).balance()
    assert balance.is_clean
    assert (balance.expected, balance.delivered, balance.published) == (6, 6, 3)


def test_a_gap_is_lost_until_it_is_filled_and_then_reordered() -> None:
    account = taken(0, 3)
    assert account.missing(4) == [(1, 3)]
    assert account.take(2)
    assert (account.reordered, account.missing(4)) == (1, [(1, 2)])
    assert account.take(1)
    assert (account.reordered, account.doubled, account.missing(4)) == (2, 0, [])


def test_a_second_delivery_is_doubled_and_not_counted_as_one() -> None:
    account = taken(0, 1)
    assert not account.take(1)
    assert (account.got, account.doubled) == (2, 1)
    assert not ledger_of(2, [0, 1, 1]).balance().is_clean


def test_what_comes_first_may_be_missing_and_what_comes_last() -> None:
    balance = ledger_of(5, [2, 3], []).balance()
    assert (balance.lost, balance.delivered, balance.expected) == (8, 2, 10)


def test_what_the_server_refused_is_due_to_nobody_but_is_no_clean_run() -> None:
    ledger = ledger_of(3, [0, 2], [0])
    ledger.refuse(0, 1)
    balance = ledger.balance()
    assert (balance.published, balance.refused, balance.lost) == (2, 1, 1)
    assert not ledger_of(1, [0]).balance().refused
    ledger.accounts[1].take(2)
    assert ledger.balance().lost == 0
    assert not ledger.balance().is_clean


def test_rooms_have_numbers_of_their_own() -> None:
    ledger = Ledger(2)
    assert [ledger.publish(0), ledger.publish(1), ledger.publish(1)] == [0, 0, 1]
    one, other = ledger.open(0), ledger.open(1)
    one.take(0)
    other.take(0)
    assert (ledger.lacks(one), ledger.lacks(other)) == (0, 1)


def test_a_strange_delivery_is_no_clean_run() -> None:
    ledger = ledger_of(1, [0])
    ledger.strange += 1
    assert not ledger.balance().is_clean


@given(st.lists(st.integers(0, 30), max_size=80), st.sets(st.integers(0, 30), max_size=5))
def test_any_order_of_deliveries_adds_up(numbers: list[int], refused: set[int]) -> None:
    ledger = ledger_of(31, numbers)
    for each in refused:
        ledger.refuse(0, each)
    balance = ledger.balance()
    seen = Counter(numbers)
    assert balance.delivered == len(seen)
    assert balance.doubled == len(numbers) - len(seen)
    assert balance.lost == len(set(range(31)) - set(seen) - refused)
    late = {each for at, each in enumerate(numbers) if each not in numbers[:at] and any(n > each for n in numbers[:at])}
    assert balance.reordered == len(late)
