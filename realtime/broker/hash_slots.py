"""
Hash slots of a Redis Cluster: the hash slot of a tag, and the map of hash slots to nodes.

Pure, in the worker. A map is the view of one node; two views are never merged. A hash slot has nothing to do with the
slot of a worker.
"""

from __future__ import annotations

import binascii
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

HASH_SLOTS: Final = 16384

Endpoint = tuple[str, int]  # a node's host and port


def hash_slot_of(tag: str) -> int:
    """Return the hash slot of every key that holds `{tag}`: CRC16 (XMODEM) modulo 16384 (cluster specification)."""
    return binascii.crc_hqx(tag.encode(), 0) % HASH_SLOTS


def hash_slot_of_channel(channel: bytes) -> int:
    """Return the hash slot of a channel. Its tag is between the first opening brace and the next closing one."""
    return binascii.crc_hqx(channel.partition(b"{")[2].partition(b"}")[0], 0) % HASH_SLOTS


def tag_in_hash_slots(slots: Container[int]) -> str:
    """Return a tag whose hash slot is one of these. There must be at least one."""
    return next(tag for number in count() if hash_slot_of(tag := str(number)) in slots)


@dataclass(frozen=True, slots=True)
class HashSlotRange:
    """Consecutive hash slots, `last` included, and the master that has them."""

    first: int
    last: int
    master: Endpoint


@dataclass(frozen=True, slots=True)
class HashSlotMap:
    """The master of every hash slot, and all healthy masters. A healthy master may have no hash slots."""

    ranges: list[HashSlotRange]
    masters: frozenset[Endpoint]


def read_map(slots: Sequence[Any], nodes: bytes, asked: str) -> HashSlotMap:
    """
    Read the replies to CLUSTER SLOTS and, requested after it, CLUSTER NODES.

    `asked` is the host of the node that replied, which may not know its own host. A master without hash slots is in
    CLUSTER NODES alone, which gives IP addresses first. Such a master is reached by its host name if the others are,
    because certificates may hold host names only.

    Raises:
        ValueError: these are not such replies.
    """
    try:
        names: dict[str, Endpoint] = {}
        healthy: list[tuple[str, str, int, str]] = []
        ranges = []
        for first, last, (host, port, name, *_), *_ in slots:
            endpoint = (_host((host or b"").decode(), asked), int(port))
            names[name.decode()] = endpoint
            ranges.append(HashSlotRange(int(first), int(last), endpoint))
        for line in nodes.decode().splitlines():
            name, address, flags, *_ = line.split(" ")
            words = flags.split(",")
            if "master" in words and not _UNHEALTHY.intersection(words):
                where, _, more = address.partition("@")  # ip:port@bus,host name,more
                host, _, port = where.rpartition(":")
                healthy.append((name, host, int(port), [*more.split(","), ""][1]))
        by_name = any(named and names.get(name, ("", 0))[0] == named for name, _, _, named in healthy)
        masters = {
            names.get(name) or (_host((by_name and named) or host, asked), port) for name, host, port, named in healthy
        }
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError("no map of hash slots") from error
    return HashSlotMap(ranges, frozenset(masters))


def _host(text: str, asked: str) -> str:
    return asked if text in ("", "?") else text


_UNHEALTHY: Final = frozenset(("fail", "fail?", "handshake", "noaddr"))


def read_redirection(text: str, asked: str) -> Endpoint:
    """Return the target of `MOVED 3999 host:port` or `ASK …`. A missing host means the node that replied."""
    host, _, port = text.split(" ")[2].rpartition(":")
    return _host(host.strip("[]"), asked), int(port)
