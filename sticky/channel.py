"""
Messages between the primary and one worker, with or without a descriptor. Both ends.

A channel is a `SOCK_SEQPACKET` pair: the kernel keeps the borders of messages, passes a descriptor with the message it
belongs to, and tells the death of either process as an end of file. A message is one msgpack array whose first element
is its `Kind`; messages.py has the fields of each. Never pickle: a worker that was broken into must not be able to break
into the primary. Bytes that travel with a connection and are too many for a packet go beside it, in a memory file.

What cannot be read is a value, `Unreadable`, and never an exception: the other process may be broken, and this one goes
on. A descriptor is either in a `Received` or closed.

Nothing here blocks and nothing is queued: `send` says when the channel is full, and the caller decides who waits.
"""

from __future__ import annotations

import array
import enum
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from sticky.messages import Decode, Message

MESSAGE_MAX: Final = 192 * 1024  # above about 212 kB the kernel refuses a packet (EMSGSIZE, net.core.wmem_default)
RELAYED_MAX: Final = MESSAGE_MAX + 256  # what the primary sends on may be longer by a name
BATCH: Final = 64  # messages taken in one round, so that one busy peer does not keep the others waiting

_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF})
DESCRIPTORS_MAX: Final = 2  # beside a message: a connection, and the bytes that travel with it
_ANCILLARY: Final = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)  # of what is listened on
REASON_MAX: Final = 500  # characters of why a message cannot be read
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


CARRIERS: Final = frozenset({Kind.BOOT, Kind.HANDOFF, Kind.GIVE_BACK})
"""Kinds whose first field is what is carried, and that may have a descriptor beside them."""


class Received(NamedTuple):
    """
    One message. Whoever takes it owns `fd`. `carried` are the bytes that were sent along.

    A handoff without a descriptor came to a process that is out of them (EMFILE): the kernel has dropped it here.
    """

    message: Message
    fd: int | None = None
    carried: bytes = b""


class Unreadable(NamedTuple):
    """A packet that is no message; descriptors that came with it are closed. Nothing behind it was read."""

    reason: str


class ChannelClosed(Exception):
    """The other process is gone, or has closed its end."""


class Channel:
    """One end. Holds its socket; `close` gives it up."""

    __slots__ = ("_buffer", "_decode", "_limit", "sock")

    def __init__(self, sock: socket.socket, decode: Decode, *, limit: int = MESSAGE_MAX) -> None:
        """
        Args:
            decode: reads one message of the other end's; whatever it raises is that end's fault.
            limit: how many bytes a message may have that is sent from here.
        """
        sock.setblocking(False)
        self.sock = sock
        self._decode = decode
        self._limit = limit
        self._buffer = bytearray(RELAYED_MAX)

    @staticmethod
    def pair(decode: Decode) -> tuple[Channel, socket.socket]:
        """Make the primary's end of a channel, and the socket for the process at its other end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours, decode, limit=RELAYED_MAX), theirs

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        """
        Send one message. The descriptor, if any, stays the caller's too; bytes are carried beside a descriptor only.

        Returns:
            False when the channel is full, or no descriptor is left for a memory file; nothing was sent.

        Raises:
            ChannelClosed: nobody will ever read it.
            ValueError: the message is larger than `MESSAGE_MAX`, or what is carried than `CARRIED_MAX`.
        """
        assert fd is None or kind in CARRIERS, "no descriptor goes with this kind"
        if kind not in CARRIERS:
            return self._send([int(kind), *fields], [])
        if fd is None:
            assert not carried, "bytes travel with a connection"
            return self._send([int(kind), b"", *fields], [])
        if len(carried) <= CARRIED_INLINE:
            return self._send([int(kind), carried, *fields], [fd])
        try:
            memory = _memory_file(carried)
        except OSError:
            return False
        try:
            return self._send([int(kind), None, *fields], [fd, memory])
        finally:
            os.close(memory)

    def _send(self, message: list[Any], fds: list[int]) -> bool:
        data = msgspec.msgpack.encode(message)
        if len(data) > self._limit:
            raise ValueError(f"a message of {len(data)} bytes is larger than {self._limit}")
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

    def receive(self) -> list[Received | Unreadable]:
        """
        Return the messages that are there, `BATCH` at most, perhaps none. The caller owns the descriptors in them. An
        `Unreadable` is the last of them, and the caller gives the channel up.

        Raises:
            ChannelClosed: nothing is there and nothing will come.
        """
        messages: list[Received | Unreadable] = []
        while len(messages) < BATCH:
            try:
                size, ancillary, flags, _ = self.sock.recvmsg_into(
                    [self._buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # it ended with messages unread, which is told once; then comes what it had said itself
            except OSError as error:
                if error.errno in _GONE and not messages:
                    raise ChannelClosed from error
                break
            if size == 0 and not ancillary and self._has_ended():
                if not messages:
                    raise ChannelClosed
                break
            received = self._understand(size, _descriptors(ancillary), flags)
            messages.append(received)
            if isinstance(received, Unreadable):
                break
        return messages

    def _has_ended(self) -> bool:
        """Tell the end from an empty packet, which `recvmsg` does not."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _understand(self, size: int, fds: list[int], flags: int) -> Received | Unreadable:
        try:
            if flags & socket.MSG_TRUNC:
                raise ValueError(f"a message has at most {len(self._buffer)} bytes")
            message = self._decode(memoryview(self._buffer)[:size])
            return _take_descriptors(message, fds, any_lost=bool(flags & socket.MSG_CTRUNC))
        except Exception as error:  # noqa: BLE001 - the other end may be broken in any way
            close_all(fds)
            return Unreadable(f"{type(error).__name__}: {error}"[:REASON_MAX])

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


def _take_descriptors(message: Message, fds: list[int], *, any_lost: bool) -> Received:
    """
    Join a message and what came beside it. Those of `fds` that are left are the caller's to close.

    Raises:
        ValueError, OSError: they do not belong together.
    """
    kind = type(message).__struct_config__.tag
    if kind not in CARRIERS:
        if fds or any_lost:
            raise ValueError("there is a descriptor beside a message that has none")
        return Received(message)
    carried: bytes | None = message.carried  # type: ignore[attr-defined]
    if any_lost:
        if len(fds) >= DESCRIPTORS_MAX:
            raise ValueError(f"there are more than {DESCRIPTORS_MAX} descriptors")
        close_all(fds)
        return Received(message)
    if not fds and kind == Kind.BOOT:
        return Received(message)
    if len(fds) != (1 if carried is not None else 2):
        raise ValueError(f"there are {len(fds)} descriptors beside it")
    if carried is None:
        carried = _read_memory_file(fds[1])
        os.close(fds.pop())
    return Received(message, fds.pop(), carried)


def _read_memory_file(fd: int) -> bytes:
    """
    Raises:
        ValueError, OSError: it is none, or too large. What is no file in memory could have us wait.
    """
    fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # EINVAL but for files in memory
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size > CARRIED_MAX:
        raise ValueError(f"{about.st_size} bytes are carried")
    return os.pread(fd, about.st_size, 0)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def connection_from(fd: int) -> socket.socket:
    """
    Make a client's connection of a descriptor that came, which is closed where it is none.

    Raises:
        OSError: it is none.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        sock.close()
        raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
    return sock


def close_all(fds: Iterable[int | None]) -> None:
    """Close descriptors that nobody will take."""
    for fd in fds:
        if fd is not None:
            os.close(fd)
