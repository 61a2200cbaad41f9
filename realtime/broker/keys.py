"""
What the keys and channels of the Redis broker are called.

Pure, in the worker. Every name begins with the prefix of those who share it. What stands in braces decides which node
of a cluster has it: all that belongs to one room has the room's tag, and what belongs to no room has `HOME`. No name is
made up anywhere else, nor by a script. Nothing here knows what lies under a name.
"""

from __future__ import annotations

from typing import Final

from realtime.broker.base import Room

HOME: Final = "~"  # the hash tag of what belongs to no room


def tag_of(room: Room) -> str:
    """Return what a room's keys are hashed by. It holds no brace of the room's own, and is not empty."""
    return room.replace("%", "%25").replace("{", "%7B").replace("}", "%7D") or "%"


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.leases = f"{prefix}:{{{HOME}}}:leases"  # until when each worker is taken to live

    # Of a room

    def channel(self, room: Room) -> str:
        return self._of(room, "c")

    def stream(self, room: Room) -> str:
        """Name the publications that are kept."""
        return self._of(room, "s")

    def meta(self, room: Room) -> str:
        """Name the position at the stream's top."""
        return self._of(room, "o")

    def members(self, room: Room) -> str:
        return self._of(room, "m")

    def seen(self, room: Room, idempotency_key: str) -> str:
        """Name the position of what was published under an idempotency key."""
        return self._of(room, f"i:{idempotency_key}")

    def allowed(self, room: Room, who: str) -> str:
        """Name what somebody has used of a rate."""
        return self._of(room, f"l:{who}")

    def _of(self, room: Room, kind: str) -> str:
        return f"{self._prefix}:{{{tag_of(room)}}}:{kind}"

    # Of a worker

    def owned(self, worker: str) -> str:
        """Name the set of a worker's members, by which they are found when it is dead."""
        return f"{self._prefix}:{{{HOME}}}:w:{worker}"

    def probe(self, worker: str, tag: str) -> str:
        """Name the channel of a worker's probes, at the node that has this tag."""
        return f"{self._prefix}:{{{tag}}}:probe:{worker}"
