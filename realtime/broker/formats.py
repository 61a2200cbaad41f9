"""
The version of everything that nodes share through the broker, and the rule for changing it.

Pure, in the worker. During a rolling deploy, the nodes of one cluster run two releases. Both must understand what the
other stores and sends. This module has the number of that shared format, and decides whether two releases understand
each other. It reads and writes nothing: peers.py does, with Redis, and local.py with the local broker.

What is shared
==============

- **In Redis**: the names of keys and channels (keys.py), what is stored under them, and what the scripts in lua/ expect
  of each other: streams and positions, members and owned sets, leases, idempotency keys, rates, the claims of
  `@app.every`.
- **On channels**: publications (payload.py), joins and leaves, probes.
- **In private rooms**: messages of the cluster bus (cluster/messages.py) and revocations (auth/revocation.py).

The files of one machine have no number here. Its key cache (auth/key_cache.py) is read as far as it can be, and is
otherwise fetched again. The local broker's protocol has a number of its own, `LOCAL`.

The rule
========

1. **An addition keeps the number.** That is a field at the end of a structure with a default, another kind of message,
   or another key. Nodes without it ignore it. For a kind of message that they do not know, they log one line.
2. **Any other change is a new format**: `FORMAT` grows by 1. Such a release still reads the format before, and writes
   what a node of the format before reads. `OLDEST` says so: it is at most `FORMAT - 1`.
3. **The release after that** may write the new format alone, with `OLDEST` equal to `FORMAT`. So each release works
   beside the one before it, and no release has to work beside all.
4. **Two releases understand each other** if neither is older than what the other still speaks (`understand`).
5. **A node that would not be understood does not start.** It compares itself with each worker that has a lease, and
   with the newest format that was ever stored under this prefix. A node that runs already only logs what it sees.
6. **An announcement itself never changes**: decimal FORMAT, a space, OLDEST, a space, the release. More words may
   follow. A worker without an announcement is of a release before this rule: `BEFORE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import realtime

FORMAT: Final = 1
OLDEST: Final = 1
UNKNOWN: Final = 2**31  # the format of an announcement that cannot be read: rule 6 is broken, so nothing else holds


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one release speaks: its own format, and the oldest that it still reads and writes."""

    format: int
    oldest: int
    release: str

    def __str__(self) -> str:
        if self.format == UNKNOWN:
            return f"an unknown release ({self.release})"
        speaks = f"format {self.format}" if self.oldest == self.format else f"formats {self.oldest} to {self.format}"
        return f"release {self.release} ({speaks})"


REDIS: Final = Spoken(FORMAT, OLDEST, realtime.__version__)
"""What this release speaks with other nodes."""

LOCAL: Final = Spoken(2, 2, realtime.__version__)
"""What this release speaks with the local broker: 1 is 0.1, whose `history` has one argument less."""

BEFORE: Final = Spoken(1, 1, "0.1")
"""What a release speaks that announces nothing."""


def understand(one: Spoken, other: Spoken) -> bool:
    """Return whether two releases understand each other."""
    return one.oldest <= other.format and other.oldest <= one.format


def newest(one: Spoken, other: Spoken) -> Spoken:
    """Return the one with the newer format. Of two equal ones, the one that still reads less: it has to be met."""
    return max(one, other, key=lambda each: (each.format, each.oldest))


def pack(spoken: Spoken) -> bytes:
    """Return an announcement (rule 6)."""
    assert " " not in spoken.release, "a release is one word of the announcement"
    return f"{spoken.format} {spoken.oldest} {spoken.release}".encode()


def unpack(announcement: bytes | None) -> Spoken:
    """Read an announcement. None is a worker without one; what is none at all counts as understood by no release."""
    if announcement is None:
        return BEFORE
    words = announcement.decode(errors="replace").split()
    if len(words) < 3 or not (words[0].isdecimal() and words[1].isdecimal()):
        return Spoken(UNKNOWN, UNKNOWN, f"it announces {announcement[:40]!r}")
    return Spoken(int(words[0]), int(words[1]), words[2])
