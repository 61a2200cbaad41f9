"""
What a process reports to a primary that it has not been started by: it has outlived its keeper and its primary.

Used in workers and sidecar processes, which send it, and in the primary, which reads it. It is the first packet on a
connection to the socket `ORPHAN_SOCKET` of the control directory. A primary that adopts the process uses the connection
from then on: as a worker's channel, or as a sidecar's liveness socket. It never waits, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

ORPHAN_SOCKET: Final = "orphans.sock"
"""In the control directory: where a primary that starts waits for the processes of an earlier one."""

VERSION: Final = 1  # of the report and of all that follows on the connection
PACKET_MAX: Final = 64 * 1024


class OrphanReport(msgspec.Struct, array_like=True, frozen=True):
    """
    One report.

    Attributes:
        version: a primary that does not know it ends the process.
        name: a worker's id, or a sidecar's name as one word.
        terms: a digest of the settings that it was started with.
        node, secret: of the earlier primary; empty from a sidecar.
    """

    version: int
    name: str
    terms: str
    node: str = ""
    secret: bytes = b""


def terms_of(parts: Sequence[Any]) -> str:
    """Return a digest of plain data. Processes with the same terms can serve beside each other."""
    return blake2b(msgspec.msgpack.encode(parts), digest_size=16).hexdigest()
