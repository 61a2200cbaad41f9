"""
The beginning of a primary's link to its keeper: its socket, what the keeper has kept, and the lock of the primary.

Runs in the primary, before its loop: so these functions wait. keeper_link.py is the link from then on.

**Why there is a lock beside the keeper.** A keeper that was killed may have left its primary alive. The next keeper
must not start a second primary then: two of them would accept on the same listeners and give one slot two workers. The
kernel drops the lock with the last descriptor of the primary that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import time
from typing import Final

from sticky.errors import SettingsError
from sticky.keeper.lines import DIRECTORY, KEEPER_FD, PRIMARY_LOCK, LinkClosed, receive
from sticky.supervision.deposit import Kept

PREPARE: Final = "PREPARE"
START_S: Final = 30.0  # for the keeper's first lines
LOCK_S: Final = 5.0  # for the lock of a primary that has just died
LOCK_RETRY_S: Final = 0.02


def socket_from_environment() -> tuple[socket.socket, str] | None:
    """
    Return the socket that the keeper has made for this process, and the control directory; None without a keeper.

    Raises:
        SettingsError: the variable names no socket.
    """
    text, directory = os.environ.pop(KEEPER_FD, ""), os.environ.pop(DIRECTORY, "")
    if not text.isdecimal():
        return None
    try:
        sock = socket.socket(fileno=int(text))
    except OSError as error:
        raise SettingsError("keeper", f"the link to the keeper cannot be used: {error!r}") from error
    sock.set_inheritable(False)
    return sock, directory


def receive_deposit(sock: socket.socket, kept: Kept, wait_s: float | None) -> str:
    """
    Wait for the deposit, and add it to `kept`.

    Returns:
        The mode of the start; or `PREPARE` for a successor, before anything was kept.

    Raises:
        SettingsError: the keeper is gone, or sends nothing for `wait_s`.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    try:
        while poll.poll(None if wait_s is None else wait_s * 1000):
            received = receive(sock)
            if received is None:
                continue
            line, fd = received
            word, _, rest = line.partition(" ")
            if word in (PREPARE, "START"):
                return rest or word
            name, _, text = rest.partition(" ")
            if fd is not None:
                kept.fds[name] = fd
            elif word == "FACT":
                kept.texts[name] = text
    except (OSError, LinkClosed) as error:
        raise SettingsError("keeper", f"the link to the keeper cannot be used: {error!r}") from error
    raise SettingsError("keeper", "the keeper has sent nothing")


def lock(directory: str) -> int:
    """
    Be the primary of a control directory. Another keeper then starts none beside this one.

    Returns:
        The descriptor that holds the lock.

    Raises:
        SettingsError: another primary lives.
    """
    path = os.path.join(directory, PRIMARY_LOCK)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                os.close(fd)
                raise SettingsError("keeper", f"another primary holds {path}") from error
            time.sleep(LOCK_RETRY_S)  # the one before this one is just dying, or a child of it is being started
        else:
            return fd
