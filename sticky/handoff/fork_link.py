"""
The link between the primary and the template, the process of which workers are forked.

Used at both ends. It is a `SOCK_SEQPACKET` pair. The template is asked for one worker at a time:

    READY    template -> primary   it has imported what a worker needs, and can be asked
    FORK     primary -> template   the worker's environment, with its end of its channel beside it
    FORKED   template -> primary   the worker's pid, with a pidfd of it beside it; or why there is none

A message is one msgpack array, never a pickle. This module starts no process, and decides nothing.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

import msgspec

from sticky.handoff.channel import ChannelClosed, close_all, descriptors

TEMPLATE_FD: Final = "STICKY_TEMPLATE_FD"
"""The environment variable that tells a worker's command to be the template, and on which descriptor."""

ANSWER_S: Final = 5.0  # for a worker to be forked, which takes some milliseconds; the primary waits for it
_READY: Final = b"ready"
_PACKET_MAX: Final = 192 * 1024  # as of a channel: an environment that is larger is not forked for


class Fork(msgspec.Struct, array_like=True, frozen=True):
    """A worker that is asked for."""

    env: dict[str, str]


class Forked(msgspec.Struct, array_like=True, frozen=True):
    """The answer: `pid`, or 0 and the reason why there is no worker."""

    pid: int
    reason: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode


class ForkFailed(Exception):
    """There is no worker. The text is the reason, for the log. The template may be asked again, unless it is gone."""


class ForkLink:
    """The primary's end. It owns its socket until `close`."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def is_ready(self) -> bool:
        """
        Return whether the template has said that it can be asked. Call it when the link is readable.

        Raises:
            ChannelClosed: it is gone, or speaks another language.
        """
        try:
            packet = self._sock.recv(_PACKET_MAX)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed from error
        if packet != _READY:
            raise ChannelClosed
        return True

    def ask(self, env: Mapping[str, str], end: int) -> tuple[int, int]:
        """
        Have a worker forked, and wait for it. The template must be ready.

        Args:
            env: of the worker.
            end: the worker's end of its channel. The caller still owns its own copy.

        Returns:
            Its pid, and a pidfd of it, which the caller owns.

        Raises:
            ForkFailed: there is no worker.
            ChannelClosed: likewise, and the template cannot be asked again.
        """
        packet = _encode(Fork(dict(env)))
        if len(packet) > _PACKET_MAX:
            raise ForkFailed(f"an environment of {len(packet)} bytes")
        try:
            socket.send_fds(self._sock, [packet], [end])
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not poll.poll(ANSWER_S * 1000):
                raise ChannelClosed
            answer, fds = _receive(self._sock)
        except OSError as error:
            raise ChannelClosed from error
        return _read(answer, fds)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Close the link. The template then ends; the workers that were forked of it go on."""
        self._sock.close()


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return a packet and its descriptors, which no child inherits: `socket.recv_fds` takes flags, and drops them."""
    packet, ancillary, _, _ = sock.recvmsg(_PACKET_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    return packet, descriptors(ancillary)


def _read(answer: bytes, fds: list[int]) -> tuple[int, int]:
    try:
        forked = msgspec.msgpack.decode(answer, type=Forked)
    except msgspec.MsgspecError as error:  # also the empty packet of a link that has ended
        close_all(fds)
        raise ChannelClosed from error
    if forked.pid <= 0 or len(fds) != 1:
        close_all(fds)
        raise ForkFailed(forked.reason or "its pidfd is missing")
    return forked.pid, fds[0]


class TemplateEnd:
    """The template's end. It blocks: a template has nothing else to do."""

    __slots__ = ("_sock",)

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sock.set_inheritable(False)

    def ready(self) -> None:
        """Say that workers can be asked for."""
        self._sock.send(_READY)

    def next(self) -> tuple[dict[str, str], int] | None:
        """Wait for a worker that is asked for. Return its environment and its channel; None where the link ended."""
        try:
            packet, fds = _receive(self._sock)
            asked = msgspec.msgpack.decode(packet, type=Fork)
        except (OSError, msgspec.MsgspecError):  # also the empty packet of a link that has ended
            return None
        if len(fds) != 1:  # this process is out of descriptors
            close_all(fds)
            self.failed("no descriptor for its channel")
            return self.next()
        return asked.env, fds[0]

    def forked(self, pid: int, pidfd: int) -> None:
        """Answer with a worker."""
        socket.send_fds(self._sock, [_encode(Forked(pid))], [pidfd])

    def failed(self, reason: str) -> None:
        """Answer that there is no worker."""
        self._sock.send(_encode(Forked(0, reason)))

    def close(self) -> None:
        """Close this process's copy."""
        self._sock.close()


def end_from(env: MutableMapping[str, str]) -> TemplateEnd | None:
    """Return the template's end where this process was started as the template, and forget that it was."""
    text = env.pop(TEMPLATE_FD, "")
    return TemplateEnd(int(text)) if text.isdecimal() else None
