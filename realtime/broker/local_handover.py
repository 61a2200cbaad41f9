"""
Moves everything of a local broker to its successor, another process with newer code: no worker notices but for a pause.

Runs in both processes. The successor connects like a worker, and sends the command `hand_over`. The rest is between the
two alone, on that connection, and both wait for each other: neither serves meanwhile.

| message                       | from      | means                                                                    |
|-------------------------------|-----------|--------------------------------------------------------------------------|
| begin + 2 descriptors         | old       | what it speaks with workers; its listening socket, and the lock          |
| part                          | old       | some of the state (memory_parts.py)                                      |
| orphans                       | old       | dead workers that still own lasting members                              |
| link + 1 descriptor           | old       | a worker's link: its worker, its rooms, and the bytes of half a frame    |
| end                           | old       | that is all                                                              |
| taken                         | successor | it has everything                                                        |
| commit                        | old       | it will never serve again. It ends at once                               |

**There is one broker at any time.** The old one resumes until it has read *taken*, and ends once it has. The successor
serves only after *commit*. One that is killed before leaves the old one as it was. If the old one is killed before
*commit*, the successor cannot know whether it serves, and ends: the primary starts a broker with nothing in it. The
lock travels along, so no third one begins in between.

**Links.** Each worker's link goes on: what it has not been read waits in the kernel, and nothing unsent is left behind.
A link that takes too long to be sent everything is closed, and its worker connects again. So is each of them where the
successor speaks another format with workers: they say hello, and decide for themselves.
"""

from __future__ import annotations

import array
import asyncio
import gc
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from realtime.broker import formats
from realtime.broker.base import Room, WorkerId
from realtime.broker.framing import FRAME_MAX, frame
from realtime.broker.local_server import HANDOVER_VERSION, REPLY, LocalBrokerServer, WorkerLink
from realtime.broker.memory_parts import Part

HAND_OVER: Final = "hand_over"
STEP_S: Final = 30.0  # for the other process to take or to send one message
SETTLE_S: Final = 1.0  # for the links to be sent what waits
LOOK_S: Final = 0.002
_LENGTH: Final = struct.Struct("!I")
_FDS_MAX: Final = 2
_ANCILLARY: Final = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)


class HandoverFailed(Exception):
    """The other process is gone, or says something else than expected. Why is its text."""


@dataclass(slots=True)
class MovedLink:
    """A worker's link on its way. It owns its socket."""

    sock: socket.socket
    worker: WorkerId
    said_goodbye: bool
    rooms: list[Room]
    unread: bytes


@dataclass(slots=True)
class TakenOver:
    """What a successor has got beside the state. The lock lasts as long as this process."""

    listener: socket.socket
    lock: int
    links: list[MovedLink] = field(default_factory=list)


# The old process


async def settle(server: LocalBrokerServer, successor: WorkerLink) -> list[WorkerLink]:
    """Read from no link any more, and wait until each is sent what waits. Return those that can move."""
    until = time.monotonic() + SETTLE_S
    waiting: set[WorkerLink] = set(server.peers)
    while waiting and time.monotonic() < until:
        for link in server.peers:  # those that were just accepted as well
            link.transport.pause_reading()
        await asyncio.sleep(LOOK_S)
        waiting = {each for each in server.peers if each.is_unsent}
    for link in waiting - {successor}:  # the workers behind them are too slow, and connect again
        link.transport.abort()
    return [each for each in server.peers if each is not successor and each not in waiting]


def hand_over(
    server: LocalBrokerServer, successor: WorkerLink, links: list[WorkerLink], *, listener: int, lock: int
) -> None:
    """
    Move everything. This process must end at once when this returns, without touching a link.

    Raises:
        HandoverFailed: the successor has taken nothing, and will not serve: serve on.
    """
    with _copy_of(successor) as sock:
        try:
            _send(sock, ["begin", formats.pack(formats.LOCAL)], listener, lock)
            for part in server.state.export():
                _send(sock, ["part", part])
            _send(sock, ["orphans", sorted(server.orphans)])
            for link in links:
                with _copy_of(link) as copy:
                    about = [link.worker, link.said_goodbye, sorted(link.rooms), link.unread]
                    _send(sock, ["link", *about], copy.fileno())
            _send(sock, ["end"])
            _expect(sock, "taken")
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise HandoverFailed(f"{type(error).__name__}: {error}") from error
        try:
            _send(sock, ["commit"])
        except OSError:
            return  # the successor is dead, with everything: the primary starts another broker


def _copy_of(link: WorkerLink) -> socket.socket:
    copy = socket.socket(fileno=os.dup(link.transport.get_extra_info("socket").fileno()))
    copy.settimeout(STEP_S)
    return copy


# The successor


def take_over(path: str, server: LocalBrokerServer) -> TakenOver:
    """
    Take everything over from the broker that serves at a path. The caller must serve next.

    Args:
        server: a new one. It gets the state.

    Raises:
        HandoverFailed: the old one serves on, or is gone. This process must end.
    """
    gc.disable()  # it would look at everything again and again
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(STEP_S)
            sock.connect(path)
            _send(sock, [HAND_OVER, HANDOVER_VERSION])
            return _take(sock, server)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise HandoverFailed(f"{type(error).__name__}: {error}") from error
    finally:
        gc.freeze()
        gc.enable()


def _take(sock: socket.socket, server: LocalBrokerServer) -> TakenOver:
    answer, _ = _receive(sock)
    if msgspec.msgpack.decode(answer[0], type=int) != REPLY:
        raise HandoverFailed("it does not know this command, or not this version of it")
    taken: TakenOver | None = None
    keeps_links = False
    while True:
        message, fds = _receive(sock)
        word = msgspec.msgpack.decode(message[0], type=str)
        if word == "begin":
            taken = TakenOver(socket.socket(fileno=fds[0]), fds[1])
            theirs = formats.unpack(msgspec.msgpack.decode(message[1], type=bytes))
            keeps_links = theirs.format == formats.LOCAL.format
            continue
        if taken is None:
            raise HandoverFailed(f"it began with {word}")
        if word == "part":
            server.state.restore(msgspec.msgpack.decode(message[1], type=Part))
        elif word == "orphans":
            server.orphans.update(map(WorkerId, msgspec.msgpack.decode(message[1], type=list[str])))
        elif word == "link" and keeps_links:
            worker, said_goodbye, rooms, unread = msgspec.msgpack.decode(
                b"\x94" + b"".join(map(bytes, message[1:5])), type=tuple[str, bool, list[str], bytes]
            )
            taken.links.append(
                MovedLink(socket.socket(fileno=fds[0]), WorkerId(worker), said_goodbye, [*map(Room, rooms)], unread)
            )
        elif word == "link":
            os.close(fds[0])
        elif word == "end":
            break
    _send(sock, ["taken"])
    _expect(sock, "commit")
    return taken


# Messages


def _send(sock: socket.socket, message: list[Any], *fds: int) -> None:
    data = frame(message)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], ancillary)
    if sent < len(data):  # sending nothing fails as well, once the other process has read all and ended
        sock.sendall(memoryview(data)[sent:])


def _receive(sock: socket.socket) -> tuple[list[msgspec.Raw], list[int]]:
    """
    Return the next message, and the descriptors beside it, which the caller owns.

    Raises:
        ValueError: the other process is gone, or sends what is no message.
    """
    # Descriptors are beside the first byte, and the kernel joins no bytes across them.
    head, ancillary, _, _ = sock.recvmsg(_LENGTH.size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    head += _exactly(sock, _LENGTH.size - len(head))
    (length,) = _LENGTH.unpack(head)
    if length > FRAME_MAX:
        raise ValueError(f"a message of {length} bytes")
    return msgspec.msgpack.decode(_exactly(sock, length), type=list[msgspec.Raw]), list(fds)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    at = 0
    while at < size:
        count = sock.recv_into(memoryview(data)[at:])
        if not count:
            raise ValueError("the other process is gone")
        at += count
    return bytes(data)


def _expect(sock: socket.socket, word: str) -> None:
    message, _ = _receive(sock)
    found = msgspec.msgpack.decode(message[0], type=str)
    if found != word:
        raise ValueError(f"{word} was expected, and {found[:20]!r} came")
