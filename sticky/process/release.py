"""
Leaves everything to a successor: the last deed of a primary in an upgrade.

Runs in the primary, when the keeper has a successor that is prepared. It stops accepting: new connections wait in the
backlog. For `PLACE_S` at most it waits until each handoff is settled. Then it leaves its pending connections and its
counters with the keeper, and this process ends between two callbacks: every message of a worker that it has not read
stays in its channel. It closes and refuses nothing.

A handoff that still waits for a worker after `PLACE_S` is lost with this process, as in a crash. It is counted.

**The order matters.** What is left is complete before `released` is sent, because the successor begins with that line.
Nothing is read afterwards: a message that this process took out of a channel would be in neither primary.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from sticky.accept.acceptor import Acceptor
from sticky.accept.pending_connection import PendingConnection
from sticky.handoff.dispatcher import Dispatcher
from sticky.loop.log_lines import SERVER_RELEASED, log
from sticky.loop.poller import Poller
from sticky.process.in_flight import IN_FLIGHT, LOST
from sticky.process.keeper_link import KeeperLink
from sticky.supervision.workers import Workers

PLACE_S: Final = 0.3  # for handoffs to be settled, which takes a few turns of a worker's loop
CHECK_S: Final = 0.002
PENDING: Final = "pending"
COUNTERS: Final = "counters"


class Release:
    """The release of one primary."""

    def __init__(
        self,
        poller: Poller,
        acceptor: Acceptor,
        dispatcher: Dispatcher,
        workers: Workers,
        keeper: KeeperLink,
        on_released: Callable[[], object],
    ) -> None:
        """
        Args:
            on_released: called once everything is left. It ends the loop, before anything else is read.
        """
        self._poller = poller
        self._acceptor = acceptor
        self._dispatcher = dispatcher
        self._workers = workers
        self._keeper = keeper
        self._on_released = on_released

    def begin(self) -> None:
        """Stop accepting, and leave everything as soon as each handoff is settled."""
        self._acceptor.pause()
        self._check(self._poller.now() + PLACE_S)

    def _check(self, until: float) -> None:
        """Leave everything once nothing is in progress, or the time is over; else look again in a moment."""
        if self._in_progress() and self._poller.now() < until:
            self._poller.after(CHECK_S, lambda: self._check(until))
            return
        lost = self._unplaced + sum(len(worker.waiting) for worker in self._workers.by_pid.values())
        self._poller.counters[LOST] += lost
        pending = self._acceptor.leave()
        for number, each in enumerate(pending):
            self._keeper.put(f"{PENDING}:{number}", each.sock.fileno())
            about = f"{each.peer_address} {each.port} {int(each.expects_proxy)}"
            self._keeper.set(f"{PENDING}:{number}", about)
        self._keeper.put_bytes(COUNTERS, msgspec.msgpack.encode(dict(self._poller.counters)))
        self._keeper.drop(IN_FLIGHT)  # what is lost is in the counters
        log(logging.INFO, SERVER_RELEASED, pending=len(pending), lost=lost)
        self._keeper.released()
        self._on_released()

    @property
    def _unplaced(self) -> int:
        """How many handoffs wait for any slot, or are held back."""
        return self._dispatcher.homeless + self._dispatcher.held_back

    def _in_progress(self) -> bool:
        """Return whether something is on its way that would be lost with this process."""
        return self._unplaced > 0 or any(
            worker.unacked or worker.waiting or worker.outbox for worker in self._workers.by_pid.values()
        )


def take_pending(keeper: KeeperLink) -> list[PendingConnection]:
    """Return the connections that a primary has left pending. The caller owns them; the keeper keeps no copy."""
    found = []
    for name in [each for each in keeper.kept.fds if each.startswith(f"{PENDING}:")]:
        fd, about = keeper.kept.fds.pop(name), keeper.kept.texts.get(name, "").split(" ")
        keeper.drop(name)
        if len(about) == 3:
            sock = socket.socket(fileno=fd)
            found.append(PendingConnection(sock, about[0], int(about[1]), expects_proxy=about[2] == "1"))
        else:  # of another version: the client sees the end, and connects again
            os.close(fd)
    return found


def take_counters(keeper: KeeperLink, counters: Counter[str]) -> None:
    """Go on counting where a primary has left off."""
    data = keeper.take_bytes(COUNTERS)
    if data is not None:
        keeper.drop(COUNTERS)
        with contextlib.suppress(msgspec.MsgspecError):  # of another version: the counters begin at 0
            counters.update(msgspec.msgpack.decode(data, type=dict[str, int]))
