"""The sessions of a worker: found by user, by connection id and by stream id, as long as they are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime.session.registry import LocalSession, Registry


class Fake:
    """A session that notes what reaches it."""

    def __init__(
        self, user: str, connection_id: str, stream_id: str = "", *, is_admitted: bool = True, is_present: bool = True
    ) -> None:
        self.connection = SimpleNamespace(user=user, id=connection_id)
        self.stream_id = stream_id
        self.is_admitted = is_admitted
        self.is_present = is_present
        self.got: list[Any] = []

    def receive(self, message: bytes | str) -> None:
        self.got.append(message)

    def end(self, code: int, reason: str) -> None:
        self.got.append((code, reason))


def registry(*sessions: Fake) -> Registry:
    made = Registry()
    for each in sessions:
        made.add(cast(LocalSession, each))
    return made


ANN, ANN_TOO, BOB = ("ann", "c1", "s1"), ("ann", "c2", ""), ("bob", "c3", "s3")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("ann",), {"c1", "c2"}),
        (("ann", "c2"), {"c2"}),
        (("ann", "", "s1"), {"c1"}),
        (("ann", "c2", "s1"), set()),
        (("ann", "c3"), set()),
        (("ann", "", "s3"), set()),
        (("nobody",), set()),
        (("", "c1"), set()),
    ],
)
def test_sessions_are_found_by_user_and_by_the_ids_that_are_given(asked: Any, found: set[str]) -> None:
    here = registry(Fake(*ANN), Fake(*ANN_TOO), Fake(*BOB), Fake("ann", "c4", is_admitted=False))
    assert {each.connection.id for each in here.find(*asked)} == found


def test_a_user_is_disconnected_who_is_here_or_about_to_be_and_none_that_is_to_stay() -> None:
    one, other = Fake(*ANN), Fake(*ANN_TOO)
    about, refused = Fake("ann", "c4", is_admitted=False), Fake("ann", "c5", is_admitted=False, is_present=False)
    here = registry(one, other, about, refused, Fake(*BOB))
    here.disconnect("ann", "", 3503, "force disconnect", keep=["c2"])
    assert [each.got for each in (one, other, about, refused)] == [[(3503, "force disconnect")], [], one.got, []]


def test_requests_beside_a_stream_reach_it_once_it_is_added_and_until_it_ends() -> None:
    one = Fake(*ANN)
    here = registry(one)
    assert not here.receive("s1", b"too early")
    here.add_stream(cast(LocalSession, one))
    assert here.receive("s1", b"x")
    assert not here.receive("", b"x")
    here.discard(cast(LocalSession, one))
    assert not here.receive("s1", b"late")
    assert one.got == [b"x"]
    assert len(here) == 0


def test_a_session_that_another_one_has_replaced_takes_nothing_with_it() -> None:
    old, new = Fake(*ANN), Fake(*ANN)
    here = registry(old)
    here.discard(cast(LocalSession, old))
    for each in (here.add, here.add_stream):
        each(cast(LocalSession, new))
    here.discard(cast(LocalSession, old))
    assert (new in here, old in here) == (True, False)
    assert here.receive("s1", b"x")
    assert here.counts() == (1, 1)
    assert here.statistics() == {"sessions": 1, "clients": 1, "overruns": {}}
