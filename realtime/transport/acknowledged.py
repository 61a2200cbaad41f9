"""
What TCP knows of a slow reader: how much it has acknowledged, and a limit on what waits unsent in the kernel.

Runs in the worker, for the code that decides whether a slow peer is served on. It reads and sets socket options, and
never writes, closes or waits.

**Acknowledged bytes.** The process alone cannot tell whether a peer reads. The kernel takes hundreds of kilobytes
before it says that it is full, and says that there is room again when a third is free. For longer than any limit, a
peer that reads 20 kB a second looks like one that reads nothing. TCP counts what the peer has acknowledged
(`tcpi_bytes_acked` of `struct tcp_info`, linux/tcp.h, Linux 4.1).

**Unsent bytes.** Megabytes that wait in a kernel are also old before they leave. For a client that is to get the latest
state, however slowly it reads, the kernel may hold few bytes that it cannot send yet (`TCP_NOTSENT_LOWAT`, tcp(7)). A
client that reads 20 kB a second is then 7 s behind, not a minute and more.
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


def acknowledged_bytes(transport: Any) -> int:
    """
    Return a number that grows whenever the peer acknowledges bytes. Compare two results; one alone means nothing.

    Where TCP does not count, progress shows only once the process could write on: the result is then the size of the
    write buffer, as a negative number. That holds for Unix sockets, for other systems than Linux, and for a connection
    that is lost.

    Args:
        transport: an `asyncio.Transport`; uvloop's is none of its subclasses.
    """
    sock = transport.get_extra_info("socket")
    if TCP_INFO is not None and sock is not None:  # it is None once the connection is lost
        try:
            acked = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, ACKED.stop)[ACKED]
        except (OSError, ValueError):  # a Unix socket, or lost
            acked = b""
        if len(acked) == ACKED.stop - ACKED.start:  # an older kernel returns less of the structure
            return int.from_bytes(acked, sys.byteorder)
    return -int(transport.get_write_buffer_size())


def limit_unsent(transport: Any, is_limited: bool) -> None:
    """
    Limit the bytes that the kernel holds and cannot send yet to `NOTSENT_MAX`, or end that limit.

    Without support for the option, or after the connection is lost, nothing happens: the limit makes data fresher,
    and no caller depends on it.
    """
    sock = transport.get_extra_info("socket")
    if NOTSENT_LOWAT is not None and sock is not None:
        with contextlib.suppress(OSError, ValueError):  # a Unix socket, or lost
            sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, NOTSENT_MAX if is_limited else 0)
