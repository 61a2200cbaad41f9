"""The ledger of the main scenario finds what a client missed, got twice, or got out of order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.scenario_ledger import Ledger

WHOLE = [(1, 0), (2, 1), (3, 2)]
PUBLISHED: dict[str, Any] = {"hall": {"sent": 3, "acknowledged": [0, 1, 2]}}


def judged(*got: list[tuple[int, int]], published: dict[str, Any] = PUBLISHED, epoch: str = "a") -> list[str]:
    ledger = Ledger()
    ledger.add("first", "hall", WHOLE, "a")
    for number, each in enumerate(got, 2):
        ledger.add(f"client {number}", "hall", each, epoch)
    return ledger.judge(published)


def test_what_all_have_got_once_and_in_order_is_whole() -> None:
    assert judged(WHOLE, WHOLE) == []


@pytest.mark.parametrize(
    ("got", "wrong"),
    [
        (WHOLE[:2], "client 2 in hall: 1 lost"),
        ([*WHOLE, WHOLE[2]], "client 2 in hall: 1 doubled"),
        ([(1, 0), (3, 2), (2, 1)], "client 2 in hall: 2 reordered"),
        ([*WHOLE, (4, 7)], "client 2 in hall: 1 fabricated"),
    ],
)
def test_what_one_client_did_not_get_so_is_found(got: list[tuple[int, int]], wrong: str) -> None:
    assert wrong in judged(got)


def test_a_publication_without_an_answer_is_found() -> None:
    assert judged(published={"hall": {"sent": 4, "acknowledged": [0, 1, 2]}}) == ["hall: 4 published, 3 answered"]


def test_two_epochs_of_one_room_are_found() -> None:
    assert judged(WHOLE, epoch="b") == ["hall: epochs ['a', 'b']"]
