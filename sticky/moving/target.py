"""
The target's end of a move: takes connections over from another worker.

Runs in a worker, on its event loop. It makes a socket of each descriptor and gives them to the worker's server, batch
by batch, in the order in which they came. Once the server has said which of a batch it refuses, the source gets the
answer. Until then the source keeps its copies. The copies here of refused connections are closed *before* the answer:
the source goes on with them, and is then their only owner.

A source that dies before it has the answer loses nothing: what was taken is served here, and what was refused is closed
at both ends. The other way round, a target that dies without an answer is proved dead by its pidfd, which it sends
first, and the source finds out by the socket's counters what was touched (tcp_counters.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sticky.handoff.channel import ChannelClosed, Unreadable, close_all, connection_from
from sticky.handoff.journal import NO_MARK, Mark
from sticky.keys.hashing import Key, StickyId
from sticky.moving.channel import Arrived, Move, MoveChannel, MovedState

RETRY_S: Final = 0.01  # after a full channel

NO_DESCRIPTORS: Final = "out of file descriptors (ulimit -n)"
NO_SOCKET: Final = "the descriptor is no connection of a client"
FAILED: Final = "an error, which is in the log"

logger = logging.getLogger("sticky.worker")


@dataclass(frozen=True, slots=True)
class MovedIn:
    """A connection that comes from another worker. Whoever takes it owns `sock`; it is closed where it is refused."""

    sock: socket.socket
    address: str
    client_port: int
    scheme: str
    sticky_id: StickyId | None
    new_sticky_id: StickyId | None
    peer_address: str
    state: bytes
    mark: Mark = NO_MARK
    key: Key | None = None


class Receiver(Protocol):
    """What takes connections over: the worker's server, by way of `Worker`."""

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        """Take connections over. Return for each None, or why it is refused. A taken one may be written to at once."""

    def enter(self, sock: socket.socket, state: MovedState) -> MovedIn:
        """Count a connection as this worker's."""

    def entered(self, connection: MovedIn, refusal: str | None) -> None:
        """Learn what became of a connection: a refused one is not this worker's."""


class MoveTarget:
    """The channel from one source, whose connections come here."""

    def __init__(self, sock: socket.socket, receiver: Receiver, on_closed: Callable[[MoveTarget], None]) -> None:
        """
        Args:
            sock: this worker's end of the channel. It is owned from here on.
            receiver: takes the connections over.
            on_closed: called once, when nothing more comes.
        """
        self._channel = MoveChannel(sock)
        self._receiver = receiver
        self._on_closed = on_closed
        self._readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._readable.set)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Take over one batch after the other, until the source has closed the channel."""
        try:
            await self._greet()
            while (arrived := await self._next()) is not None:
                if isinstance(arrived.message, Move):
                    await self._answer(arrived.message.number, await self._take(arrived))
                else:
                    close_all(arrived.fds)
        except ChannelClosed:
            pass
        finally:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._on_closed(self)

    async def _greet(self) -> None:
        pidfd = os.pidfd_open(os.getpid())
        try:
            while not self._channel.send_hello(pidfd):  # noqa: ASYNC110 - poll says that a full channel is writable
                await asyncio.sleep(RETRY_S)
        finally:
            os.close(pidfd)

    async def _next(self) -> Arrived | None:
        while True:
            self._readable.clear()
            arrived = self._channel.receive()
            if isinstance(arrived, Unreadable):
                logger.error('move channel closed reason="a message cannot be read: %s"', arrived.reason)
                return None
            if arrived is not None:
                return arrived
            await self._readable.wait()

    async def _take(self, arrived: Arrived) -> dict[int, str]:
        """Take a batch over. Return the refusals by index; what is refused is closed here."""
        assert isinstance(arrived.message, Move), "only a MOVE has connections"
        if not arrived.states:
            logger.error('move refused connections=%d reason="%s"', arrived.message.count, NO_DESCRIPTORS)
            return dict.fromkeys(range(arrived.message.count), NO_DESCRIPTORS)
        refused: dict[int, str] = {}
        connections: dict[int, MovedIn] = {}
        for at, (state, fd) in enumerate(zip(arrived.states, arrived.fds, strict=True)):
            try:
                sock = connection_from(fd)
            except OSError:
                refused[at] = NO_SOCKET
                continue
            connections[at] = self._receiver.enter(sock, state)
        try:
            answers = await self._receiver.take(list(connections.values()))
        except Exception:
            logger.exception("move failed connections=%d", len(connections))
            answers = [FAILED] * len(connections)
        for (at, connection), refusal in zip(connections.items(), answers, strict=True):
            self._receiver.entered(connection, refusal)
            if refusal is not None:
                refused[at] = refusal
                connection.sock.close()
        return refused

    async def _answer(self, number: int, refused: dict[int, str]) -> None:
        while not self._channel.send_taken(number, refused):  # noqa: ASYNC110 - as above
            await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Take nothing more: what is on its way stays with its source, which sees the channel end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
