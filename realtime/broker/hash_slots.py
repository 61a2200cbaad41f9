"""
Which node of a Redis Cluster has which keys: the hash slot of a tag, and the map that a node gives.

Pure, in the worker. A map is one node's view; it is never put together from two.
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


@dataclass(frozen=True, slots=True)
class Map:
    """Who has which slots, and every master that is well, those without slots included."""

    ranges: list[Range]
    masters: frozenset[Endpoint]


def read_map(slots: Sequence[Any], nodes: bytes, asked: str) -> Map:
    """
    Read the answers to CLUSTER SLOTS and, asked after it, CLUSTER NODES. `asked` is the host of the node that gave
    them: a node may not know its own. A master without slots is in CLUSTER NODES alone, which gives addresses first:
    it is reached by its host name where the others are, for that may be what its certificate holds.

    Raises:
        ValueError: these are no such answers.
    """
    try:
        names: dict[str, Endpoint] = {}
        wells: list[tuple[str, str, int, str]] = []
        ranges = []
        for first, last, (host, port, name, *_), *_ in slots:
            endpoint = (_host((host or b"").decode(), asked), int(port))
            names[name.decode()] = endpoint
            ranges.append(Range(int(first), int(last), endpoint))
        for line in nodes.decode().splitlines():
            name, address, flags, *_ = line.split(" ")
            words = flags.split(",")
            if "master" in words and not _UNWELL.intersection(words):
                where, _, more = address.partition("@")  # ip:port@bus,host name,more
                host, _, port = where.rpartition(":")
                wells.append((name, host, int(port), [*more.split(","), ""][1]))
        by_name = any(named and names.get(name, ("", 0))[0] == named for name, _, _, named in wells)
        masters = {
            names.get(name) or (_host((by_name and named) or host, asked), port) for name, host, port, named in wells
        }
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError("no map of slots") from error
    return Map(ranges, frozenset(masters))


def _host(text: str, asked: str) -> str:
    return asked if text in ("", "?") else text


_UNWELL: Final = frozenset(("fail", "fail?", "handshake", "noaddr"))


def read_redirection(text: str, asked: str) -> Endpoint:
    """Read where `MOVED 3999 host:port` or `ASK …` leads to; a host that is left out is the one that was asked."""
    host, _, port = text.split(" ")[2].rpartition(":")
    return _host(host.strip("[]"), asked), int(port)
