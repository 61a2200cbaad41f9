"""
The source's end of a move: offers connections to another worker, and learns what became of each.

Runs in a worker, on its event loop. It decides nothing about which connection moves, and reads none of them.

    WAITING ──HELLO──▶ OPEN ──end of the channel, or of the target──▶ CLOSED

**What can become of a connection that was offered:**

| what happens                                  | outcome   | who serves it now            |
|-----------------------------------------------|-----------|------------------------------|
| TAKEN comes                                   | TAKEN     | the target                   |
| TAKEN comes, and refuses it                   | REFUSED   | nobody: the caller goes on   |
| the target dies, its counters have not moved  | RETURNED  | nobody: the caller goes on   |
| the target dies, and had touched it           | LOST      | nobody: the caller closes it |

The caller keeps a copy of the descriptor until it has the outcome, and neither reads nor writes meanwhile. The end of
the channel proves nothing: a target may close it and live, or die while a child of its application keeps it open. So
the outcome of what is unanswered waits for the target's pidfd. A target that hangs is killed by the primary's watchdog,
and its pidfd says so.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import socket
from dataclasses import dataclass
from typing import Final, NamedTuple

from sticky.handoff.channel import ChannelClosed, Unreadable
from sticky.keys.hashing import Slot
from sticky.moving.channel import BATCH_MAX, Hello, Move, MoveChannel, MovedState, Taken
from sticky.moving.tcp_counters import Touches, touches

UNANSWERED_MAX: Final = 2  # batches: that bounds the gap of each connection, and the descriptors in flight
RETRY_S: Final = 0.01  # after a full channel: poll reports "writable" while too many descriptors are in flight

logger = logging.getLogger("sticky.worker")


class Outcome(enum.Enum):
    """What became of a connection that was offered: the head of this file explains each."""

    TAKEN = "taken"
    REFUSED = "refused"
    RETURNED = "returned"
    LOST = "lost"


class Offered(NamedTuple):
    """A connection that is offered. `sock` is the caller's copy of its descriptor, which stays the caller's."""

    sock: socket.socket
    state: MovedState


class Result(NamedTuple):
    """The outcome of one connection, and the target's reason where it is REFUSED."""

    outcome: Outcome
    reason: str = ""


@dataclass(slots=True)
class _Batch:
    offered: list[Offered]
    before: list[Touches | None]
    answer: asyncio.Future[list[Result]]


class MoveSource:
    """The channel to one target, to which connections move."""

    def __init__(self, sock: socket.socket, slot: Slot, worker_id: str) -> None:
        """
        Args:
            sock: this worker's end of the channel. It is owned from here on.
            slot: of the target.
            worker_id: of the target.
        """
        self.slot = slot
        self.worker_id = worker_id
        self._channel = MoveChannel(sock)
        self._pidfd = -1
        self._number = 0
        self._batches: dict[int, _Batch] = {}
        self._hello: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_channel_open = True
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._on_readable)

    @property
    def is_open(self) -> bool:
        """Whether connections can be offered, or will be able to once the target has said hello."""
        return self._is_channel_open

    async def opened(self) -> bool:
        """Wait for the target. Return False where it does not come."""
        return await asyncio.shield(self._hello)

    async def offer(self, offered: list[Offered]) -> list[Result]:
        """
        Offer one batch, and wait until the outcome of each is known. At most `UNANSWERED_MAX` batches are on their way;
        the next one waits here, before it is sent.

        Args:
            offered: 1 to `BATCH_MAX` connections. Nothing may read or write them any more.

        Returns:
            the results, in the same order.
        """
        assert 0 < len(offered) <= BATCH_MAX, "`channel.batches` divides them"
        assert self._hello.done() and self._hello.result(), "`opened` comes first"  # noqa: PT018
        while self._is_channel_open and len(self._batches) >= UNANSWERED_MAX:
            self._has_room.clear()
            await self._has_room.wait()
        before = [touches(each.sock) for each in offered]
        self._number += 1
        batch = _Batch(offered, before, asyncio.get_running_loop().create_future())
        self._batches[self._number] = batch
        if not await self._send(self._number, batch):
            self._batches.pop(self._number, None)
            return [Result(Outcome.RETURNED) for _ in offered]  # nothing was sent, so nobody has touched them
        return await batch.answer

    async def _send(self, number: int, batch: _Batch) -> bool:
        states = [each.state for each in batch.offered]
        fds = [each.sock.fileno() for each in batch.offered]
        while self._is_channel_open:
            try:
                if self._channel.send_move(number, states, fds):
                    return True
            except ChannelClosed:
                self._close_channel()
                return False
            await asyncio.sleep(RETRY_S)
        return False

    def close(self) -> None:
        """Offer nothing more. Nothing may be unanswered."""
        assert not self._batches, "their outcome is not known"
        self._close_channel()
        self._forget_pidfd()

    # From the target

    def _on_readable(self) -> None:
        while self._is_channel_open:
            try:
                arrived = self._channel.receive()
            except ChannelClosed:
                self._close_channel()
                return
            if arrived is None:
                return
            if isinstance(arrived, Unreadable):
                logger.error(
                    'move channel closed slot=%d reason="a message cannot be read: %s"', self.slot, arrived.reason
                )
                self._close_channel()
            elif isinstance(arrived.message, Hello):
                self._greeted(arrived.fds[0])
            elif isinstance(arrived.message, Taken):
                self._answered(arrived.message)
            else:
                assert isinstance(arrived.message, Move), "there are three kinds"
                for fd in arrived.fds:
                    os.close(fd)

    def _greeted(self, pidfd: int) -> None:
        if self._hello.done():
            os.close(pidfd)
            return
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._target_died)
        self._hello.set_result(True)

    def _answered(self, taken: Taken) -> None:
        batch = self._batches.pop(taken.number, None)
        if batch is None:
            return
        refused = taken.refused
        results = [
            Result(Outcome.REFUSED, refused[at]) if at in refused else Result(Outcome.TAKEN)
            for at in range(len(batch.offered))
        ]
        self._finish(batch, results)

    def _finish(self, batch: _Batch, results: list[Result]) -> None:
        if not batch.answer.done():
            batch.answer.set_result(results)
        self._has_room.set()

    # Its end

    def _close_channel(self) -> None:
        if not self._is_channel_open:
            return
        self._is_channel_open = False
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._has_room.set()
        if not self._hello.done():
            self._hello.set_result(False)

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _target_died(self) -> None:
        """Find out which connections the dead target had touched. What it had answered before its end is read first."""
        self._on_readable()
        self._close_channel()
        self._forget_pidfd()
        batches, self._batches = self._batches, {}
        for batch in batches.values():
            results = [
                Result(Outcome.RETURNED if before is not None and touches(each.sock) == before else Outcome.LOST)
                for each, before in zip(batch.offered, batch.before, strict=True)
            ]
            self._finish(batch, results)
