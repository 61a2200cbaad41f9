"""
The direct channel between two workers, on which connections move from one to the other.

Used in workers. The primary makes a `SOCK_SEQPACKET` pair for a source and a target, gives each one end, and keeps
none. So nothing stands between the two: the loss of the primary does not touch a move, and a relay that dies could not
say whether it had forwarded a message.

    HELLO   target -> source   a pidfd of the target: by it the source learns of the target's death
    MOVE    source -> target   a batch: for each connection its descriptor and its state; the source lets go of them
    TAKEN   target -> source   which of the batch the target refused, and why; all others are the target's

A message is a msgpack array, never a pickle. Where the states of a batch are too many for a packet, they go beside it
in a memory file, whose descriptor is the last. A channel never blocks and has no queue. What cannot be read becomes
`Unreadable`, and every received descriptor is either returned or closed.

This module does not know what the state of a connection is, and it never decides which connection moves.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import stat
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from sticky.handoff.channel import REASON_MAX, ChannelClosed, Unreadable, close_all

BATCH_MAX: Final = 64  # connections in one MOVE: more saves no time, and each waits for all of its batch
BATCH_BYTES: Final = 4 * 1024 * 1024  # states in one MOVE, unless a single one is larger
INLINE_BYTES: Final = 160 * 1024  # the kernel refuses a packet above about 212 kB
MEMORY_MAX: Final = 256 * 1024 * 1024  # of a memory file: one state with the largest message and output that may be set
_BUFFER_BYTES: Final = 256 * 1024
_ANCILLARY: Final = socket.CMSG_SPACE((BATCH_MAX + 1) * 4)
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF})


class MovedState(Struct, array_like=True, frozen=True):
    """
    One connection on its way, without its descriptor.

    Attributes:
        address, client_port, scheme, sticky_id, new_sticky_id, peer_address: as in `Adopted`.
        state: what the server of the connection needs to go on. Opaque here.
    """

    address: str
    client_port: int
    scheme: str
    sticky_id: str | None
    new_sticky_id: str | None
    peer_address: str
    state: bytes


class Hello(Struct, tag=1, array_like=True, frozen=True):
    """The target is there. Its pidfd is beside the message."""


class Move(Struct, tag=2, array_like=True, frozen=True):
    """A batch of connections. `states` is a packed list of `MovedState`; None where it is in a memory file."""

    number: int
    count: int
    states: bytes | None


class Taken(Struct, tag=3, array_like=True, frozen=True):
    """The answer to a `Move`: the index in the batch of each connection that was refused, and the reason."""

    number: int
    refused: dict[int, str] = {}


class Arrived(NamedTuple):
    """One received message. You own the descriptors: one for each state of a MOVE, the pidfd of a HELLO."""

    message: Hello | Move | Taken
    states: list[MovedState]
    fds: list[int]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Hello | Move | Taken)
_states: Final = msgspec.msgpack.Decoder(list[MovedState])


class MoveChannel:
    """One end of the channel between two workers. It owns its socket until `close`."""

    __slots__ = ("_buffer", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._buffer: bytearray | None = None  # made when something comes: most channels carry one move

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Make both ends, the source's and the target's. The caller owns them, and gives each away."""
        source, target = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (source, target):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)  # the kernel bounds it by wmem_max
        return source, target

    def send_hello(self, pidfd: int) -> bool:
        """Send a HELLO. Return False when the channel is full. Raises ChannelClosed."""
        return self._send(Hello(), [pidfd])

    def send_taken(self, number: int, refused: dict[int, str]) -> bool:
        """Send a TAKEN. Return False when the channel is full. Raises ChannelClosed."""
        return self._send(Taken(number, {at: why[:REASON_MAX] for at, why in refused.items()}), [])

    def send_move(self, number: int, states: list[MovedState], fds: list[int]) -> bool:
        """
        Send a batch. The caller keeps its copies of the descriptors.

        Returns:
            False when the channel is full, or no descriptor is left for a memory file. Then nothing was sent.

        Raises:
            ChannelClosed: the target is gone.
        """
        assert 0 < len(states) <= BATCH_MAX, "the receiver has no room for more descriptors, and would lose them"
        assert len(fds) == len(states), "each connection has one descriptor"
        packed = _encoder.encode(states)
        if len(packed) <= INLINE_BYTES:
            return self._send(Move(number, len(states), packed), fds)
        try:
            memory = os.memfd_create("moved", os.MFD_CLOEXEC)
        except OSError:
            return False
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(packed)
            return self._send(Move(number, len(states), None), [*fds, memory])
        finally:
            os.close(memory)

    def _send(self, message: Hello | Move | Taken, fds: list[int]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([_encoder.encode(message)], ancillary)
        except OSError as error:
            if error.errno in _FULL:
                return False
            if error.errno in _GONE:
                raise ChannelClosed from error
            raise
        return True

    def receive(self) -> Arrived | Unreadable | None:
        """
        Return the next message, or None where none has arrived. After an `Unreadable`, close the channel.

        Where this process had no room for all descriptors of a MOVE (EMFILE), those that fitted are closed, and there
        are no states: the whole batch has to be refused.

        Raises:
            ChannelClosed: none is left, and none will come.
        """
        if self._buffer is None:
            self._buffer = bytearray(_BUFFER_BYTES)
        try:
            size, ancillary, flags, _ = self.sock.recvmsg_into(
                [self._buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _GONE:
                raise ChannelClosed from error
            raise
        if not size:  # no message of ours is empty
            raise ChannelClosed
        fds = _descriptors(ancillary)
        try:
            if flags & socket.MSG_TRUNC:
                raise ValueError("a message is larger than the buffer")
            return _arrived(_decoder.decode(memoryview(self._buffer)[:size]), fds, flags)
        except Exception as error:  # noqa: BLE001 - the other end may be broken in any way
            close_all(fds)
            return Unreadable(f"{type(error).__name__}: {error}"[:REASON_MAX])

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


def _arrived(message: Hello | Move | Taken, fds: list[int], flags: int) -> Arrived:
    """
    Join a message and the descriptors that came beside it. The caller has to close those that are left in `fds`.

    Raises:
        ValueError, OSError: the message and the descriptors do not belong together.
    """
    if not isinstance(message, Move):
        expected = 1 if isinstance(message, Hello) else 0
        if len(fds) != expected:
            raise ValueError(f"there are {len(fds)} descriptors beside it")
        return Arrived(message, [], fds)
    if flags & socket.MSG_CTRUNC:
        close_all(fds)
        return Arrived(message, [], [])
    if message.states is None:
        states = _states.decode(_read_memory_file(fds[-1]))
        os.close(fds.pop())
    else:
        states = _states.decode(message.states)
    if len(states) != message.count or len(fds) != message.count:
        raise ValueError(f"{len(states)} states and {len(fds)} descriptors, where {message.count} connections move")
    return Arrived(message, states, fds)


def _read_memory_file(fd: int) -> bytes:
    """Return the content of a memory file; anything else is refused, for a read from a pipe could block."""
    fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # EINVAL but for files in memory
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size > MEMORY_MAX:
        raise ValueError(f"{about.st_size} bytes of states")
    return os.pread(fd, about.st_size, 0)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def batches(states: list[Any], sizes: list[int]) -> list[list[Any]]:
    """Divide what moves into batches of at most `BATCH_MAX` and about `BATCH_BYTES`. `sizes`: bytes of each."""
    found: list[list[Any]] = []
    bytes_left = 0
    for each, size in zip(states, sizes, strict=True):
        if not found or len(found[-1]) == BATCH_MAX or size > bytes_left:
            found.append([])
            bytes_left = BATCH_BYTES
        found[-1].append(each)
        bytes_left -= size
    return found
