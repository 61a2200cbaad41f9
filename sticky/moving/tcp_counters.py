"""
How many bytes were written to a connection and read from it, by whichever process.

Pure but for system calls on one descriptor; used in workers. Two counters of the kernel's TCP are exact, whoever holds
the socket (`struct tcp_info` of linux/tcp.h; tcp(7)):

    written  = tcpi_bytes_acked + what is not acknowledged yet (SIOCOUTQ)
    consumed = tcpi_bytes_received - what is not read yet (SIOCINQ)

A worker notes both before it offers a connection to another worker. When that one dies without an answer, equal
counters prove that it neither wrote nor read, so the first worker may go on with the connection. Nothing else proves
it: the end of a channel is not the death of a process, and a dead process may have written before.

`tcpi_bytes_sent` is of no use here: it counts retransmissions as well.
"""

from __future__ import annotations

import array
import fcntl
import socket
import sys
import termios
from typing import Final, NamedTuple

_INFO_BYTES: Final = 136
_ACKED: Final = slice(120, 128)
_RECEIVED: Final = slice(128, 136)
_ROUNDS: Final = 8  # data may arrive between two system calls: then both are read again


class Touches(NamedTuple):
    """The bytes written to a connection, and those read from it, since it began."""

    written: int
    consumed: int


def touches(sock: socket.socket) -> Touches | None:
    """
    Return the counters of a connection. None where the kernel has none (a Unix socket, a lost connection), or where
    they did not stand still: then the caller has to assume that the connection was touched.
    """
    try:
        before = _tcp_info(sock)
        for _ in range(_ROUNDS):
            unsent, unread = _queued(sock, termios.TIOCOUTQ), _queued(sock, termios.FIONREAD)
            after = _tcp_info(sock)
            if after == before:
                return Touches(before[0] + unsent, before[1] - unread)
            before = after
    except OSError:
        pass
    return None


def _tcp_info(sock: socket.socket) -> tuple[int, int]:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _INFO_BYTES:
        raise OSError("the kernel is older than Linux 4.1")
    return int.from_bytes(info[_ACKED], sys.byteorder), int.from_bytes(info[_RECEIVED], sys.byteorder)


def _queued(sock: socket.socket, request: int) -> int:
    found = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), request, found)
    return found[0]
