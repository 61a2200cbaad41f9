"""
How much of what was written to it a peer has taken.

Runs in the worker, for the code that decides whether a slow peer is served on. The process alone cannot tell: the
kernel takes hundreds of kilobytes before it says that it is full, and says that there is room again when a third is
free. A peer that takes 20 kB a second all the time then looks for longer than any limit like one that takes nothing.
TCP knows how much the peer has acknowledged (`tcpi_bytes_acked` of `struct tcp_info`, linux/tcp.h, Linux 4.1).

Megabytes that wait in a kernel are also old before they leave. For a client that is to get the latest, however slowly
it reads, the kernel holds less (`TCP_NOTSENT_LOWAT`, tcp(7)): at 20 kB a second it is 7 s behind, not a minute and
more.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any, Final

TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
NOTSENT_MAX: Final = 64 * 1024  # bytes; a quick peer takes as many and more between two turns of the loop
ACKED: Final = slice(120, 128)  # of the structure: 8 bytes, 24 words, and two rates come before


def taken(transport: Any) -> int:
    """
    Return how much the peer has taken so far: more than before where it has taken something; by itself the number
    means nothing. Where TCP does not say, that is seen only when the process could write on.

    Args:
        transport: an `asyncio.Transport`; uvloop's is none of its subclasses.
    """
    sock = transport.get_extra_info("socket")
    if TCP_INFO is not None and sock is not None:  # it is None once the connection is lost
        try:
            acked = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, ACKED.stop)[ACKED]
        except (OSError, ValueError):  # a Unix socket, or lost
            acked = b""
        if len(acked) == ACKED.stop - ACKED.start:
            return int.from_bytes(acked, sys.byteorder)
    return -int(transport.get_write_buffer_size())


def hold_little(transport: Any, wanted: bool) -> None:
    """
    Have the kernel take no more than `NOTSENT_MAX` bytes that it cannot send at once, or again as many as it takes of
    others. Not all transports can.
    """
    sock = transport.get_extra_info("socket")
    if NOTSENT_LOWAT is not None and sock is not None:
        with contextlib.suppress(OSError, ValueError):  # a Unix socket, or lost
            sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, NOTSENT_MAX if wanted else 0)
