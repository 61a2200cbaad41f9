"""
The one loop of the primary: descriptors that became ready, and deadlines that passed.

Runs in the primary. A plain dictionary of callbacks over `select.epoll`, and a heap of times; it starts nothing by
itself and knows nothing of what it watches. This is the seam to the operating system: a kqueue version is this class
again, with the same three masks.

**No callback ends the loop.** What it raises is logged with its traceback and counted. Whoever asked for the callback
has said what to close then: `on_failed`. A descriptor of which nothing is said is watched no longer, for it would be
told of for ever.
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
CALLED_OFF_MIN: Final = 1000  # fewer timers that were called off are not looked for
EDGE: Final = select.EPOLLET  # told once per arrival of bytes, not as long as bytes are there


FAILED: Final = "callbacks_failed"  # a counter
FAILED_LINE: Final = "! an error in the server itself (a bug, please report it): what it concerned is closed"

logger = logging.getLogger("sticky")


class Timer:
    """A deadline that can be called off, also when it has passed."""

    __slots__ = ("callback", "on_failed", "poller")

    def __init__(
        self, poller: Poller, callback: Callable[[], object], on_failed: Callable[[], object] | None = None
    ) -> None:
        self.poller = poller
        self.callback: Callable[[], object] | None = callback  # None when called off, or called
        self.on_failed = on_failed

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.poller.called_off()


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
        counters: dict[str, int] | None = None,
        epoll: Readiness | None = None,
    ) -> None:
        """
        Args:
            clock: returns the time in seconds, from any origin.
            counters: where failed callbacks are counted.
            epoll: says which descriptors are ready; the kernel's by default. The poller closes it.
        """
        self.now = clock
        self._counters: dict[str, int] = Counter() if counters is None else counters
        self._epoll: Readiness = select.epoll() if epoll is None else epoll
        self._callbacks: dict[int, tuple[Callable[[int], object], Callable[[], object] | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._called_off = 0  # of those timers
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
        Have `callback(events)` called when `fd` is ready. The caller owes `forget` before it closes the fd.

        Args:
            on_failed: called when `callback` has raised something. It closes what that concerned.
        """
        self._epoll.register(fd, mask)
        self._callbacks[fd] = (callback, on_failed)

    def change(self, fd: int, mask: int) -> None:
        """Watch the same descriptor for something else."""
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

    def called_off(self) -> None:
        """
        Learn that a timer was called off. When most of all are, they are forgotten before their time, which may be
        minutes away: a connection has one until it has said something whole.
        """
        self._called_off += 1
        if self._called_off >= CALLED_OFF_MIN and 2 * self._called_off > len(self._timers):
            self._timers[:] = [each for each in self._timers if each[2].callback is not None]
            heapq.heapify(self._timers)
            self._called_off = 0

    def run_once(self) -> None:
        """Wait until something is due, and call back for all that is: descriptors first, so that what was said in time
        is heard before a deadline is judged."""
        self._poll(self._patience())
        if self._timers and self._timers[0][0] <= self.now():
            self._poll(0)  # who was stopped (SIGSTOP) while it waited is told of nothing by the call that it was in
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._called_off = max(self._called_off - 1, 0)
                continue
            try:
                callback()
            except Exception:  # noqa: BLE001 - `failed` logs it
                self.failed(timer.on_failed)

    def _poll(self, patience_s: float) -> None:
        for fd, events in self._epoll.poll(patience_s):
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
        self._counters[FAILED] += 1
        logger.exception(FAILED_LINE)
        if then is not None:
            try:
                then()
            except Exception:
                self._counters[FAILED] += 1
                logger.exception("! and that could not be closed either")

    def guard(self, callback: Callable[[], object], on_failed: Callable[[], object] | None = None) -> None:
        """Call something that is one of several: the others go on, whatever it raises."""
        try:
            callback()
        except Exception:  # noqa: BLE001 - `failed` logs it
            self.failed(on_failed)

    def _patience(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
            self._called_off = max(self._called_off - 1, 0)
        if not self._timers:
            return -1
        return max(self._timers[0][0] - self.now(), 0)

    def close(self) -> None:
        self._callbacks.clear()
        self._timers.clear()
        self._epoll.close()
