"""
Names of the keys and channels of the Redis broker.

Pure, in the worker. Every name begins with the prefix of the installation. The hash tag in braces decides which node of
a cluster has the key. All keys of a room have the room's tag; keys that belong to no room have the tag `HOME`. No other
module and no script builds a name. This module does not know what is stored under a name.
"""

from __future__ import annotations

from typing import Final

from realtime.broker.base import Room

HOME: Final = "~"  # the hash tag of keys that belong to no room


def tag_of(room: Room) -> str:
    """Return the hash tag of a room's keys. It is never empty, and braces of the room's name are encoded."""
    return room.replace("%", "%25").replace("{", "%7B").replace("}", "%7D") or "%"


class RedisKeys:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.leases = f"{prefix}:{{{HOME}}}:leases"  # the end of each worker's lease
        self.formats = f"{prefix}:{{{HOME}}}:formats"  # what each worker speaks (formats.py)

    # Of a room

    def channel(self, room: Room) -> str:
        return self._of(room, "c")

    def stream(self, room: Room) -> str:
        """Return the key of the stored publications."""
        return self._of(room, "s")

    def meta(self, room: Room) -> str:
        """Return the key of the position at the stream's top."""
        return self._of(room, "o")

    def members(self, room: Room) -> str:
        return self._of(room, "m")

    def idempotency(self, room: Room, idempotency_key: str) -> str:
        """Return the key of the position of a publication with an idempotency key."""
        return self._of(room, f"i:{idempotency_key}")

    def rate(self, room: Room, subject: str) -> str:
        """Return the key of what a subject has used of a rate."""
        return self._of(room, f"l:{subject}")

    def _of(self, room: Room, kind: str) -> str:
        return f"{self._prefix}:{{{tag_of(room)}}}:{kind}"

    # Of a worker

    def owned(self, worker: str) -> str:
        """Return the key of the set of a worker's members, by which they are found when the worker is dead."""
        return f"{self._prefix}:{{{HOME}}}:w:{worker}"

    def probe(self, worker: str, tag: str) -> str:
        """Return the channel of a worker's probes, at the node that has this tag."""
        return f"{self._prefix}:{{{tag}}}:probe:{worker}"
