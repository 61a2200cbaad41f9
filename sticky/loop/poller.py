"""
The event loop of the primary: descriptors that became ready, and deadlines that passed.

Runs in the primary. A plain dictionary of callbacks over `select.epoll`, and a heap of times. It starts nothing by
itself and knows nothing of what it watches. Clock and epoll are arguments: tests give others (tests/support/
fake_poller.py), and a kqueue version is this class with another `Readiness`.

**No callback ends the loop.** What it raises is logged with its traceback and counted, and `on_failed` is called, which
closes what the callback concerned. A descriptor without `on_failed` is watched no longer, because epoll would report it
for ever.

**Order.** In one round descriptors come before timers, so that a message which arrived in time counts before its
deadline. Timers run in the order of their times, and those of one time in the order in which they were armed. A timer
that is armed without delay by a timer runs in the same round.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import select
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

READ: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITE: Final = select.EPOLLOUT
HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
CANCELLED_MIN: Final = 1000  # fewer cancelled timers stay in the heap until their time: removing them costs more
EDGE: Final = select.EPOLLET  # reported once per arrival of bytes, not as long as bytes are there

FAILED: Final = "callbacks_failed"  # a counter
FAILED_LINE: Final = "callback failed: a bug of the server itself, please report it; what it concerned is closed"

logger = logging.getLogger("sticky")


class Timer:
    """A deadline that can be cancelled. Cancelling it after it has passed, or twice, changes nothing."""

    __slots__ = ("callback", "on_failed", "poller")

    def __init__(
        self, poller: Poller, callback: Callable[[], object], on_failed: Callable[[], object] | None = None
    ) -> None:
        self.poller = poller
        self.callback: Callable[[], object] | None = callback  # None when cancelled, or called
        self.on_failed = on_failed

    def cancel(self) -> None:
        """Do not call back."""
        if self.callback is not None:
            self.callback = None
            self.poller.timer_cancelled()


class Readiness(Protocol):
    """The five calls of `select.epoll` that a poller needs. Tests replace it: see tests/support/fake_poller.py."""

    def register(self, fd: int, mask: int, /) -> object: ...

    def modify(self, fd: int, mask: int, /) -> object: ...

    def unregister(self, fd: int, /) -> object: ...

    def poll(self, timeout_s: float, /) -> list[tuple[int, int]]: ...

    def close(self) -> object: ...


class Poller:
    """Calls back when a descriptor is ready or a time has come. Owned by one thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        counters: Counter[str] | None = None,
        epoll: Readiness | None = None,
    ) -> None:
        """
        Args:
            clock: returns the time in seconds, from any origin.
            counters: where failed callbacks are counted; the primary counts everything here.
            epoll: says which descriptors are ready; the kernel's by default. The poller closes it.
        """
        self.now = clock
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._epoll: Readiness = select.epoll() if epoll is None else epoll
        self._callbacks: dict[int, tuple[Callable[[int], object], Callable[[], object] | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0  # timers that are still in the heap
        self._order = itertools.count()

    def watch(
        self,
        fd: int,
        mask: int,
        callback: Callable[[int], object],
        *,
        on_failed: Callable[[], object] | None = None,
    ) -> None:
        """
        Have `callback(events)` called when `fd` is ready. The caller must call `forget` before it closes the fd.

        Args:
            on_failed: called when `callback` has raised something. It closes what the callback concerned.
        """
        assert fd not in self._callbacks, "a descriptor is forgotten before it is closed: this one has its number"
        self._epoll.register(fd, mask)
        self._callbacks[fd] = (callback, on_failed)

    def change(self, fd: int, mask: int) -> None:
        """Watch the same descriptor for something else."""
        assert fd in self._callbacks, "only a descriptor that is watched can be watched for something else"
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Watch a descriptor no longer, also when it became ready in this very round."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(
        self, delay_s: float, callback: Callable[[], object], *, on_failed: Callable[[], object] | None = None
    ) -> Timer:
        """Have `callback()` called once, in `delay_s` seconds; and `on_failed()` if it has raised something."""
        timer = Timer(self, callback, on_failed)
        heapq.heappush(self._timers, (self.now() + delay_s, next(self._order), timer))
        return timer

    def timer_cancelled(self) -> None:
        """
        Count a cancelled timer; `Timer.cancel` alone calls this. When most timers are cancelled, they are removed
        before their time, which may be minutes away: each connection has one until its head is complete.
        """
        self._cancelled += 1
        assert self._cancelled <= len(self._timers), "each cancelled timer is in the heap once"
        if self._cancelled >= CANCELLED_MIN and 2 * self._cancelled > len(self._timers):
            self._timers[:] = [each for each in self._timers if each[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def run_once(self) -> None:
        """Wait until something is due, and call back for all that is: see "Order" at the head of this file."""
        self._poll(self._wait_s())
        if self._timers and self._timers[0][0] <= self.now():
            self._poll(0)  # a process that was stopped (SIGSTOP) in the call above got no events from it
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
                assert self._cancelled >= 0, "a timer without a callback was counted when it was cancelled"
                continue
            try:
                callback()
            except Exception:  # noqa: BLE001 - `failed` logs it
                self.failed(timer.on_failed)

    def _poll(self, wait_s: float) -> None:
        """Call back for each descriptor that is ready, except those that `forget` took out in this round."""
        for fd, events in self._epoll.poll(wait_s):
            watched = self._callbacks.get(fd)
            if watched is not None:
                try:
                    watched[0](events)
                except Exception:  # noqa: BLE001 - `failed` logs it
                    self.failed(watched[1])
                    if watched[1] is None and self._callbacks.get(fd) is watched:
                        self.forget(fd)

    def failed(self, then: Callable[[], object] | None = None) -> None:
        """Log and count the exception that is being handled, and close what it concerned."""
        self.counters[FAILED] += 1
        logger.exception(FAILED_LINE)
        if then is not None:
            try:
                then()
            except Exception:
                self.counters[FAILED] += 1
                logger.exception("callback failed: what it concerned could not be closed either")

    def guard(self, callback: Callable[[], object], on_failed: Callable[[], object] | None = None) -> None:
        """Call something that is one of several: the others go on, whatever it raises."""
        try:
            callback()
        except Exception:  # noqa: BLE001 - `failed` logs it
            self.failed(on_failed)

    def _wait_s(self) -> float:
        """Return how long epoll may wait: until the next timer, or for ever (-1) without one."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
            assert self._cancelled >= 0, "as in `run_once`"
        if not self._timers:
            return -1
        return max(self._timers[0][0] - self.now(), 0)

    def close(self) -> None:
        """Watch nothing any more, and drop every timer. Descriptors that were watched stay their owners' to close."""
        self._callbacks.clear()
        for _, _, timer in self._timers:
            timer.callback = None
        self._timers.clear()
        self._cancelled = 0
        self._epoll.close()
