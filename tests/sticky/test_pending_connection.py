"""A pending connection as the acceptor and an upgrade have it: what it is before anything of it was seen."""

from __future__ import annotations

import socket

import pytest

from sticky.accept.pending_connection import PendingConnection


@pytest.mark.parametrize("expects_proxy", [True, False])
def test_it_begins_uncounted_unseen_and_without_a_time(expects_proxy: bool) -> None:
    ours, client = socket.socketpair()
    with ours, client:
        pending = PendingConnection(ours, "192.0.2.9", 4711, expects_proxy=expects_proxy)
        assert (pending.network, pending.seen, pending.timer) == (None, 0, None), "an adopted one begins anew"
        assert pending.expects_proxy is expects_proxy


def test_two_of_them_are_never_equal_for_each_stands_for_a_descriptor() -> None:
    ours, client = socket.socketpair()
    with ours, client:
        one, other = (PendingConnection(ours, "192.0.2.9", 4711, expects_proxy=False) for _ in range(2))
        assert one != other
        assert len({one, other}) == 2, "the eviction queue holds them by identity"


def test_a_flood_of_them_has_no_dictionary_each() -> None:
    ours, client = socket.socketpair()
    with ours, client:
        pending = PendingConnection(ours, "192.0.2.9", 4711, expects_proxy=False)
        assert not hasattr(pending, "__dict__")
        with pytest.raises(AttributeError):
            pending.routed_to = 3  # type: ignore[attr-defined]  # a misspelt field is found
