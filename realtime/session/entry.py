"""
A subscription that is about to begin, and what the client gets to know of it.

Pure, in the worker: it awaits nothing, and keeps nothing. membership.py makes entries, and requests.py answers a
connect with those that the server gave. What the answer says comes from `PendingSubscription.commit` alone.
"""

from __future__ import annotations

from typing import NamedTuple

from realtime import codes
from realtime.broker.base import Position
from realtime.errors import ClientError
from realtime.rooms.options import RoomOptions
from realtime.rooms.pending import Joined, PendingSubscription
from realtime.session.base import Subscribed
from realtime.session.state import Subscription
from realtime.session.tags import BadFilter, FilterNode, compile_filter


class Entry(NamedTuple):
    """A subscription that is about to begin."""

    subscription: Subscription
    options: RoomOptions
    pending: PendingSubscription


def subscribed(entry: Entry, joined: Joined, data: bytes | None = None) -> Subscribed:
    """Return what a client gets to know of a subscription that was committed."""
    subscription, since, position = entry.subscription, entry.pending.since, joined.position
    assert since is not None or not joined.recovered, "nothing is recovered that was not asked for"
    recoverable = entry.options.recover
    if position is None:
        return Subscribed(
            subscription.room, recoverable, subscription.delta, data=data, expire_at_s=subscription.expire_at_s
        )
    if since is not None and joined.recovered:
        position = Position(position.epoch, since.offset)
    return Subscribed(
        subscription.room,
        recoverable,
        subscription.delta,
        position,
        was_recovering=since is not None,
        recovered=joined.recovered,
        publications=joined.publications,
        data=data,
        expire_at_s=subscription.expire_at_s,
    )


def check_filter(filter: FilterNode | None, options: RoomOptions, *, delta: bool) -> None:
    """
    See that a room takes a filter.

    Raises:
        ClientError: it takes none, it means nothing, or the client wants differences as well: a filtered member lacks
            the message that these are based on.
    """
    if filter is None:
        return
    if not options.filters or delta:
        raise codes.BAD_REQUEST.error()
    try:
        compile_filter(filter)
    except BadFilter as error:
        raise ClientError(codes.BAD_REQUEST.code, f"{codes.BAD_REQUEST.message}: {error}") from None
