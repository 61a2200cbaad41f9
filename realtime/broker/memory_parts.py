"""
The parts in which the state of a broker in memory moves to another process: plain data, some hundred rooms in each.

Pure. Used by the local broker's process that ends and by its successor (local_handover.py). Both are processes of one
machine, whose monotonic clock is the same, so times need no conversion. A part never depends on a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from msgspec import Struct

from realtime.broker.base import ClientInfo, RawPublication, Room

PART_ROOMS: Final = 500  # a part takes some milliseconds on either side
PART_ENTRIES: Final = 5_000  # of what is smaller than a room's stream

T = TypeVar("T")


class BeginPart(Struct, tag="begin", array_like=True, frozen=True):
    """What the epochs of rooms are made of: they go on."""

    run_id: bytes
    generations: list[int]


class StreamRecord(Struct, array_like=True, frozen=True):
    """One room's stream."""

    room: str
    epoch: str
    offset: int
    published_at: float
    ttl_s: float
    expires_at: float
    publications: list[RawPublication]


class StreamsPart(Struct, tag="streams", array_like=True, frozen=True):
    """Some streams."""

    streams: list[StreamRecord]


class KeysPart(Struct, tag="keys", array_like=True, frozen=True):
    """Some idempotency keys: room, key, when it expires, and the position of its publication."""

    keys: list[tuple[str, str, float, str, int]]


class MembersPart(Struct, tag="members", array_like=True, frozen=True):
    """Some members: room, owner, the client, and as in `StoredMember`."""

    members: list[tuple[str, str, ClientInfo, bool, bool]]


class MetersPart(Struct, tag="meters", array_like=True, frozen=True):
    """Some rate meters: room, subject, and when they are paid off."""

    meters: list[tuple[Room, str, float]]


Part = BeginPart | StreamsPart | KeysPart | MembersPart | MetersPart


def in_parts(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give all entries in lists of at most `size`."""
    each = iter(entries)
    while part := list(islice(each, size)):
        yield part
