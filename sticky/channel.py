"""
Messages between the primary and one worker, with or without a descriptor. Both ends.

A channel is a `SOCK_SEQPACKET` pair: the kernel keeps the borders of messages, passes a descriptor with the message it
belongs to, and tells the death of either process as an end of file. A message is one msgpack array whose first element
is its `Kind`. Never pickle: a worker that was broken into must not be able to break into the primary. Bytes that travel
with a connection and are too many for a packet go beside it, in a memory file.

Nothing here blocks and nothing is queued: `send` says when the channel is full, and the caller decides who waits.
"""

from __future__ import annotations

import array
import enum
import errno
import os
import socket
from typing import Any, Final, NamedTuple

import msgspec

MESSAGE_MAX: Final = 192 * 1024  # above about 212 kB the kernel refuses a packet (EMSGSIZE, net.core.wmem_default)
BATCH: Final = 64  # messages taken in one round, so that one busy peer does not keep the others waiting

_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF})
_ANCILLARY: Final = socket.CMSG_SPACE(2 * 4)  # a connection, and the bytes that travel with it
CARRIED_INLINE: Final = 64 * 1024  # of those bytes; more of them go in a memory file
CARRIED_MAX: Final = 1024 * 1024


class Kind(enum.IntEnum):
    """What a message says. P: the primary says it, W: a worker says it."""

    BOOT = 1  # P: who you are and how to serve; the first message of all
    HANDOFF = 2  # P: a connection, with its descriptor
    DRAIN = 3  # P: bring your clients elsewhere and end, within so many seconds
    EVENT = 4  # P: another worker came or went
    MESSAGE = 5  # P and W: from one application part to another
    INSPECT = 6  # P: say what you are doing
    SLOTS = 7  # P: so many slots there are, say which keys are away by that; and whether keys of yours are elsewhere
    READY = 10  # W: I can serve
    BEAT = 11  # W: my event loop turns; so many connections; statistics
    ACK = 12  # W: every connection up to the first number is mine, up to the second you may forget it
    NACK = 13  # W: this connection I cannot take
    BOOT_FAILED = 14  # W: why I cannot serve
    RETIRE = 15  # W: somebody asked me to end (TERM): replace me
    GIVE_BACK = 16  # W: a connection whose next request belongs to another, with its descriptor and what was read
    INSPECTED = 17  # W: what I am doing, in words
    ENDED = 18  # W: so many connections of each of these peers have ended
    KEYS_AWAY = 19  # W: these keys have live connections here, away from home; and whether that is all
    KEYS_ENDED = 20  # W: these keys, which are away, have no live connection here any more


class Received(NamedTuple):
    """
    One message. Whoever takes it owns `fd`. `carried` are the bytes that were sent along.

    A handoff without a descriptor came to a process that is out of them (EMFILE): the kernel has dropped it here.
    """

    kind: Kind
    fields: list[Any]
    fd: int | None
    carried: bytes = b""


class ChannelClosed(Exception):
    """The other process is gone, or has closed its end."""


class Channel:
    """One end. Holds its socket; `close` gives it up."""

    __slots__ = ("_buffer", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._buffer = bytearray(MESSAGE_MAX)

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """Make a channel, and the socket for the process at its other end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours), theirs

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        """
        Send one message. The descriptor, if any, stays the caller's too; bytes are carried beside a descriptor only.

        Returns:
            False when the channel is full; nothing was sent.

        Raises:
            ChannelClosed: nobody will ever read it.
            ValueError: the message is larger than `MESSAGE_MAX`, or what is carried than `CARRIED_MAX`.
        """
        if fd is None:
            assert not carried, "bytes travel with a connection"
            return self._send([int(kind), *fields], [])
        if len(carried) <= CARRIED_INLINE:
            return self._send([int(kind), carried, *fields], [fd])
        memory = _memory_file(carried)
        try:
            return self._send([int(kind), None, *fields], [fd, memory])
        finally:
            os.close(memory)

    def _send(self, message: list[Any], fds: list[int]) -> bool:
        data = msgspec.msgpack.encode(message)
        if len(data) > MESSAGE_MAX:
            raise ValueError(f"a message of {len(data)} bytes is larger than {MESSAGE_MAX}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([data], ancillary)
        except OSError as error:
            if error.errno in _FULL:
                return False
            if error.errno in _GONE:
                raise ChannelClosed from error
            raise
        return True

    def receive(self) -> list[Received]:
        """
        Return the messages that are there, `BATCH` at most, perhaps none.

        Raises:
            ChannelClosed: nothing is there and nothing will come.
        """
        messages: list[Received] = []
        while len(messages) < BATCH:
            try:
                size, ancillary, flags, _ = self.sock.recvmsg_into(
                    [self._buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _GONE and not messages:
                    raise ChannelClosed from error
                break
            if size == 0:
                if not messages:
                    raise ChannelClosed
                break
            fds = _descriptors(ancillary)
            assert not flags & socket.MSG_TRUNC, "both ends keep MESSAGE_MAX"
            kind, *fields = msgspec.msgpack.decode(memoryview(self._buffer)[:size])
            if flags & socket.MSG_CTRUNC:
                for fd in fds:
                    os.close(fd)
                messages.append(Received(Kind(kind), fields[1:], None))
            elif fds:
                inline, *fields = fields
                carried = _read_and_close(fds[1]) if inline is None else inline
                messages.append(Received(Kind(kind), fields, fds[0], carried))
            else:
                messages.append(Received(Kind(kind), fields, None))
        return messages

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


def _memory_file(data: bytes) -> int:
    if len(data) > CARRIED_MAX:
        raise ValueError(f"{len(data)} bytes to be carried are more than {CARRIED_MAX}")
    fd = os.memfd_create("carried", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def _read_and_close(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read(CARRIED_MAX)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> array.array[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds
