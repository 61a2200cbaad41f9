"""
Which node of a Redis Cluster has which keys: the hash slot of a tag, and the map that a node gives.

Pure, in the worker. A map is one node's view at one moment; it is never put together from two.
"""

from __future__ import annotations

import binascii
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

SLOTS: Final = 16384

Endpoint = tuple[str, int]  # a node's host and port


def slot_of(tag: str) -> int:
    """Return the slot of every key that holds `{tag}`: CRC16 (XMODEM) modulo 16384, says the cluster specification."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def channel_slot(channel: bytes) -> int:
    """Return the slot of a channel that holds a tag: what is between the first brace and the next one that closes."""
    return binascii.crc_hqx(channel.partition(b"{")[2].partition(b"}")[0], 0) % SLOTS


def tag_within(slots: Container[int]) -> str:
    """Return some tag whose slot is one of these, of which there must be one."""
    return next(tag for number in count() if slot_of(tag := str(number)) in slots)


@dataclass(frozen=True, slots=True)
class Range:
    """Slots in a row, the last one included, and the master that has them."""

    first: int
    last: int
    master: Endpoint


def read_map(reply: Sequence[Any], asked: str) -> list[Range]:
    """
    Read the answer to CLUSTER SLOTS. `asked` is the host of the node that gave it: a node may not know its own.

    Raises:
        ValueError: it is no such answer.
    """
    found = []
    try:
        for first, last, master, *_ in reply:
            host = (master[0] or b"").decode()
            found.append(Range(int(first), int(last), (asked if host in ("", "?") else host, int(master[1]))))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError("no map of slots") from error
    return found


def read_redirection(text: str, asked: str) -> Endpoint:
    """Read where `MOVED 3999 host:port` or `ASK …` leads to; a host that is left out is the one that was asked."""
    host, _, port = text.split(" ")[2].rpartition(":")
    return host.strip("[]") or asked, int(port)
