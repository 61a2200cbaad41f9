"""
A stream at Redis: what its entries hold, how long its position lives, and the epoch of a new one.

Pure, used by the broker (redis.py). It sends no command.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from realtime.broker.base import RawPublication, Retention
from realtime.broker.payload import CANNOT_READ, read_payload
from realtime.broker.unreadable import Unreadable


def read_entries(
    entries: Iterable[tuple[bytes, Sequence[bytes]]], epoch: str, unreadable: Unreadable
) -> list[RawPublication]:
    """Read the entries of a stream. One that cannot be read is left out, and its offset shows that one is missing."""
    found = []
    for id, fields in entries:
        try:
            found.append(read_payload(fields[1], epoch, int(id.partition(b"-")[0])))
        except CANNOT_READ as error:
            unreadable.note("publication in a history", error)
    return found


def meta_ms(retention: Retention) -> int:
    """Return the lifetime of a position. It must not end before its publications, which would lose their epoch."""
    return int(max(retention.meta_ttl_s, retention.ttl_s) * 1000)


def new_epoch() -> str:
    """Return the epoch that a new stream would get."""
    return secrets.token_hex(4)  # without a colon, which divides the parts of a message
