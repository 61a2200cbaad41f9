"""
The local broker as a process: the lock of its path, and the liveness socket that shows the end of primary and keeper.

Runs in the local broker's process. Two brokers on one path would split each room without a sign, hence the lock. It
knows nothing of rooms.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from typing import Final

LOCK_S: Final = 75.0  # for the broker before this one to end: longer than orphaned workers keep it (--orphan-grace)
LOCK_RETRY_S: Final = 0.05


def take_lock(path: str) -> int | None:
    """
    Take the lock of a socket's path, so that two brokers never serve the same rooms. It lasts as long as this process.

    Returns:
        None when another broker holds it for longer than an ending one needs.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(fd)
                return None
            time.sleep(LOCK_RETRY_S)
        else:
            return fd


def watch_liveness(loop: asyncio.AbstractEventLoop, fd: int, orphaned: asyncio.Event) -> None:
    """Have `orphaned` set when the liveness socket ends: primary and keeper are gone. The descriptor is owned here."""
    os.set_blocking(fd, False)
    loop.add_reader(fd, _on_liveness, loop, fd, orphaned)


def _on_liveness(loop: asyncio.AbstractEventLoop, fd: int, orphaned: asyncio.Event) -> None:
    """Note the end of the liveness socket."""
    try:
        data = os.read(fd, 64)
    except BlockingIOError:
        return
    except ConnectionResetError:  # the other end was closed before the line feed was read
        data = b""
    if not data:
        loop.remove_reader(fd)
        os.close(fd)
        orphaned.set()
