"""Messages to users whose connections move: kept until the connection has arrived, then sent on, then forgotten."""

from __future__ import annotations

from realtime.cluster.in_transit import LINGER_S, InTransit
from realtime.cluster.messages import DisconnectUser, SubscribeUser, UnsubscribeUser

ENTER = SubscribeUser("ann", "chat")
TO_A = SubscribeUser("ann", "chat", "a")


def test_what_comes_on_the_way_is_sent_on_at_the_arrival() -> None:
    transit = InTransit()
    transit.leaves("ann", "a")
    assert transit.note(ENTER, 1.0) == []
    assert transit.note(SubscribeUser("bob", "chat"), 1.0) == []
    assert transit.arrived("ann", "a", "w-2", 2.0) == [TO_A], "to this connection, and to no other of the user"


def test_what_comes_late_is_sent_on_at_once_and_for_a_while() -> None:
    transit = InTransit()
    transit.leaves("ann", "a")
    transit.arrived("ann", "a", "w-2", 2.0)
    assert transit.note(ENTER, 2.0 + LINGER_S - 0.1) == [("w-2", TO_A)]
    assert transit.note(ENTER, 2.0 + LINGER_S) == []
    assert transit._passages == {}, "nothing is left"


def test_what_came_for_a_connection_that_stays_is_done_here() -> None:
    transit = InTransit()
    transit.leaves("ann", "a")
    transit.note(ENTER, 1.0)
    assert transit.returned("ann", "a") == [TO_A]
    assert transit.note(ENTER, 1.0) == []


def test_what_means_another_connection_is_not_kept() -> None:
    transit = InTransit()
    transit.leaves("ann", "a")
    transit.note(UnsubscribeUser("ann", "chat", "b"), 1.0)
    transit.note(UnsubscribeUser("ann", "chat", stream_id="s"), 1.0)
    transit.note(DisconnectUser("ann", keep=("a",)), 1.0)
    assert transit.arrived("ann", "a", "w-2", 2.0) == []


def test_a_connection_that_comes_back_and_leaves_again_is_not_forgotten_with_its_first_passage() -> None:
    transit = InTransit()
    transit.leaves("ann", "a")
    transit.arrived("ann", "a", "w-2", 1.0)
    transit.leaves("ann", "a")
    assert transit.note(ENTER, 1.0 + LINGER_S) == []
    assert transit.arrived("ann", "a", "w-3", 2.0 + LINGER_S) == [TO_A]
