"""
A channel: messages between the primary and one worker, with or without a descriptor.

Used at both ends, in the primary and in a worker. A channel is a `SOCK_SEQPACKET` pair. The kernel keeps the borders of
messages and passes a descriptor with its message. It reports the death of either process as end of file.

A message is one msgpack array, and its first element is its `Kind`. messages.py has the fields of each kind. It is
never pickle: a worker that an attacker controls must not be able to attack the primary. Carried bytes, those that
travel with a connection, go in the message. Where they are too many for a packet, they go beside it in a memory file.

A packet that cannot be read becomes an `Unreadable` value, never an exception. The other process may be broken, and
this process goes on. Each received descriptor is either in a `Received` or closed.

A channel never blocks and has no queue. `send` returns False when the channel is full, and its caller decides what
waits. It does not know the fields of a message, nor what a message means.
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
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

CHANNEL_FD: Final = "STICKY_CHANNEL_FD"
MESSAGE_MAX: Final = 192 * 1024  # the kernel refuses a packet above about 212 kB (EMSGSIZE, net.core.wmem_default)
RELAYED_MAX: Final = MESSAGE_MAX + 256  # the primary relays a message with its sender's name, which may be longer
BATCH: Final = 64  # messages received in one round, so that one busy peer does not delay the others

_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF})
DESCRIPTORS_MAX: Final = 2  # beside a message: a connection, and a memory file with its carried bytes
_ANCILLARY: Final = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)  # the families that the primary listens on
REASON_MAX: Final = 500  # characters of the reason why a message cannot be read
CARRIED_INLINE: Final = 64 * 1024  # more carried bytes than that go in a memory file
CARRIED_MAX: Final = 1024 * 1024


class Kind(enum.IntEnum):
    """The kind of a message. P: the primary sends it. W: a worker sends it."""

    BOOT = 1  # P: the worker's identity and settings; the first message of all
    HANDOFF = 2  # P: a connection, with its descriptor
    DRAIN = 3  # P: move the clients elsewhere and end, within so many seconds
    EVENT = 4  # P: another worker came or went, a key is refused, or whether new clients should come
    MESSAGE = 5  # P and W: from one application part to another
    INSPECT = 6  # P: report what this process is doing
    SLOTS = 7  # P: the number of slots; report the keys that are away; whether keys of this slot are elsewhere
    PEER = 8  # P: a channel to another worker, on which connections move
    READY = 10  # W: connections may come
    BEAT = 11  # W: the event loop turns; the number of connections; statistics
    ACK = 12  # W: adopted all connections up to the first number; the primary may forget all up to the second
    NACK = 13  # W: this connection could not be adopted
    BOOT_FAILED = 14  # W: why the worker cannot serve
    RETIRE = 15  # W: the worker got SIGTERM and asks to be replaced
    GIVE_BACK = 16  # W: a connection whose next request belongs to another slot, with its descriptor and bytes
    INSPECTED = 17  # W: what the process is doing, as text
    ENDED = 18  # W: the number of connections that ended, by peer address
    KEYS_AWAY = 19  # W: keys with live connections here, away from home; whether that is all
    KEYS_ENDED = 20  # W: keys that were away and have no live connection here any more
    KEYS_STAY = 21  # W: keys with hosted connections here, while this worker drains beside its successor
    IDENTIFY = 40  # P: a new primary asks what an earlier one has handed over
    IDENTITY = 41  # W: the answer: numbers of handoffs and connections, and whether it drains
    HELD = 42  # W: a part of the answer: the number of connections by peer address


CARRIERS: Final = frozenset({Kind.BOOT, Kind.HANDOFF, Kind.GIVE_BACK, Kind.PEER})
"""Kinds whose first field is the carried bytes, and that may have a descriptor beside them."""


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message. Each subclass has its `Kind` as its tag."""


class Carrier(Message, frozen=True):
    """A message with a descriptor beside it. `carried` is None where the bytes are in a memory file."""

    carried: bytes | None


Decode = Callable[[memoryview], Message]
"""Reads one packet. Whatever it raises is the sender's fault."""


class Received(NamedTuple):
    """
    One received message. The code that handles it owns `fd` and has to close it. `carried` are the bytes sent along.

    A handoff without a descriptor reached a process that is out of descriptors (EMFILE). The kernel closed it here.
    """

    message: Message
    fd: int | None = None
    carried: bytes = b""


class Unreadable(NamedTuple):
    """A packet that is no message. Its descriptors are closed, and nothing behind it was read."""

    reason: str


class ChannelClosed(Exception):
    """The other process is gone, or closed its end."""


class Channel:
    """One end of a channel. It owns its socket until `close`."""

    __slots__ = ("_buffer", "_decode", "_limit", "sock")

    def __init__(self, sock: socket.socket, decode: Decode, *, limit: int = MESSAGE_MAX) -> None:
        """
        Args:
            decode: reads one packet of the other end.
            limit: the largest number of bytes of a message that this end sends.
        """
        sock.setblocking(False)
        self.sock = sock
        self._decode = decode
        self._limit = limit
        self._buffer = bytearray(RELAYED_MAX)

    @staticmethod
    def pair(decode: Decode) -> tuple[Channel, socket.socket]:
        """Make the primary's end of a channel, and the socket for the worker's end. The caller owns both."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours, decode, limit=RELAYED_MAX), theirs

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        """
        Send one message. The caller keeps its copy of `fd`. Bytes are carried only beside a descriptor.

        Returns:
            False when the channel is full, or no descriptor is left for a memory file. Then nothing was sent.

        Raises:
            ChannelClosed: the other end is closed, so the message would never be read.
            ValueError: the message is larger than `MESSAGE_MAX`, or `carried` than `CARRIED_MAX`.
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
        assert len(fds) <= DESCRIPTORS_MAX, "the receiver has no room for more descriptors, and would lose them"
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
        Return the messages that have arrived, at most `BATCH` of them and perhaps none.

        You own the descriptors in them. An `Unreadable` is always the last one; after it, close the channel.

        Raises:
            ChannelClosed: no message is left, and none will come.
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
                continue  # the other end closed with unread messages: reported once, before what it had sent itself
            except OSError as error:
                if error.errno in _GONE and not messages:
                    raise ChannelClosed from error
                break
            if size == 0 and not ancillary and self._has_ended():
                if not messages:
                    raise ChannelClosed
                break
            received = self._read_packet(size, descriptors(ancillary), flags)
            messages.append(received)
            if isinstance(received, Unreadable):
                break
        return messages

    def _has_ended(self) -> bool:
        """Return whether this is the end of file. `recvmsg` returns the same for an empty packet."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _read_packet(self, size: int, fds: list[int], flags: int) -> Received | Unreadable:
        try:
            if flags & socket.MSG_TRUNC:
                raise ValueError(f"a message has at most {len(self._buffer)} bytes")
            message = self._decode(memoryview(self._buffer)[:size])
            return _attach(message, fds, any_lost=bool(flags & socket.MSG_CTRUNC))
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


def _attach(message: Message, fds: list[int], *, any_lost: bool) -> Received:
    """
    Join a message and the descriptors that came beside it. The caller has to close those that are left in `fds`.

    Raises:
        ValueError, OSError: the message and the descriptors do not belong together.
    """
    kind = type(message).__struct_config__.tag
    if kind not in CARRIERS:
        if fds or any_lost:
            raise ValueError("there is a descriptor beside a message that has none")
        return Received(message)
    assert isinstance(message, Carrier), "messages.py makes each kind of CARRIERS a Carrier"
    carried = message.carried
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
    Return the content of a memory file. Anything else is refused, for a read from a pipe could block this process.

    Raises:
        ValueError, OSError: it is no memory file, or too large.
    """
    fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # EINVAL but for files in memory
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size > CARRIED_MAX:
        raise ValueError(f"{about.st_size} bytes are carried")
    return os.pread(fd, about.st_size, 0)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came beside a message. The caller owns them."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def connection_from(fd: int) -> socket.socket:
    """
    Make a client's connection from a received descriptor. The descriptor is closed where this fails.

    Raises:
        OSError: the descriptor is no stream socket of a client.
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
    """Close descriptors of messages that are not handled."""
    for fd in fds:
        if fd is not None:
            os.close(fd)


class WorkerChannel(Protocol):
    """The primary's end of a channel to one worker. `Channel` is the real one, with the full contract."""

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        """Send one message. Return False when the channel is full. Raises ChannelClosed when the worker is gone."""

    def receive(self) -> list[Received | Unreadable]:
        """Return the messages that have arrived. Raises ChannelClosed when none will arrive any more."""

    def fileno(self) -> int:
        """Return the descriptor for the poller."""

    def close(self) -> None:
        """Give the descriptor up. The caller has called `Poller.forget` before."""
