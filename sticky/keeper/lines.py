"""
Messages between the keeper and a primary: a line of text in each packet, with at most one descriptor beside it.

Used at both ends of a `SOCK_SEQPACKET` pair. A line is a word and its arguments, separated by spaces:

| line                  | from    | means                                                                           |
|-----------------------|---------|---------------------------------------------------------------------------------|
| PUT name + descriptor | primary | keep this descriptor, in place of what has the name                             |
| SET name text         | primary | keep this text                                                                  |
| DROP name             | primary | close the descriptor and forget the text that have this name                    |
| READY                 | primary | the server serves                                                               |
| ALIVE                 | primary | the loop turns; sent every second                                               |
| NOTIFY text           | primary | pass this on to the service manager (sd_notify(3))                              |
| BECOME uid gid groups | primary | every address is bound: change to this user, for good                           |
| STOPPING              | primary | the server stops: a primary that is started from here on has to stop as well    |
| UPGRADE               | primary | start a successor with the code of today, as on USR2                            |
| PREPARED              | primary | a successor has loaded its code, and waits for START                            |
| UNFIT text            | primary | a successor cannot take over, and ends: why                                     |
| RELEASED              | primary | it has stopped accepting and reading, has left everything, and ends             |
| STOPPED status        | primary | the server has stopped, and ends with this status                               |
| KEPT name + descriptor| keeper  | a descriptor that an earlier primary has put                                    |
| FACT name text        | keeper  | a text that an earlier primary has set                                          |
| PREPARE               | keeper  | the first line for a successor: load your code, report PREPARED, wait for START |
| RELEASE               | keeper  | a successor is prepared: leave everything, report RELEASED, and end             |
| UPGRADE-FAILED text   | keeper  | the successor does not take over: why                                           |
| START mode            | keeper  | the deposit is complete; `mode` is a `Mode`                                     |
| SIGNAL name           | keeper  | the server got this signal                                                      |
| REAPED pid status     | keeper  | a child of an earlier primary has ended, with this wait status                  |

The keeper reads nothing of what it keeps. It imports little, so this module does as well: no msgpack, no typing.
Descriptors are received with `recvmsg`, for `socket.recv_fds` ignores its flags. Nothing here ever waits.
"""

from __future__ import annotations

import array
import errno
import os
import socket

LINE_MAX = 64 * 1024  # bytes; no line of ours comes near it
KEEPER_FD = "STICKY_KEEPER_FD"
"""The environment variable that names a primary's end of the pair."""
DIRECTORY = "STICKY_CONTROL_DIRECTORY"
"""The environment variable that names the control directory for a primary."""

NO_PRIMARY = ("-", "-")
"""Among the arguments of the keeper, in place of process id and link: no first primary was forked."""

KEEPER_SOCKET = "keeper.sock"
"""In the control directory: where a primary that has lost its keeper finds the next one."""
PRIMARY_LOCK = "primary.lock"
"""In the control directory: locked (flock(2)) by the primary as long as it lives."""

FIRST, AGAIN = "first", "again"
"""The modes of a start: nothing is kept yet; or an earlier primary is gone, and its deposit is taken over."""

_ANCILLARY = socket.CMSG_SPACE(4 * array.array("i").itemsize)
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


class LinkClosed(Exception):
    """The other process is gone, or closed its end."""


def send(sock: socket.socket, line: str, fd: int | None = None) -> bool:
    """
    Send a line. The caller keeps its copy of `fd`.

    Returns:
        False when the pair is full. Nothing was sent then: try again when it has room, or a little later.

    Raises:
        LinkClosed: the other end is closed.
    """
    assert line, "an empty packet looks like the end of the pair"
    ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (fd,)))]
    try:
        sock.sendmsg([line.encode()], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        if error.errno in _FULL:
            return False
        raise LinkClosed from error
    return True


def receive(sock: socket.socket, flags: int = socket.MSG_DONTWAIT) -> tuple[str, int | None] | None:
    """
    Return the next line and the descriptor beside it, which the caller owns; None when none has arrived.

    A packet that is no line becomes the line "?", which means nothing. Its descriptors are closed.

    Raises:
        LinkClosed: no line is left, and none will come.
    """
    try:
        data, ancillary, seen, _ = sock.recvmsg(LINE_MAX, _ANCILLARY, flags | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError as error:
        raise LinkClosed from error
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        _close(fds)
        raise LinkClosed
    if len(fds) > 1 or seen & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(fds)
        return "?", None
    return data.decode("utf-8", "replace"), fds[0] if fds else None


def _close(fds: array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
