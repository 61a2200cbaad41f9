"""
The primary's poller with a clock that a test moves and descriptors that a test makes ready.

It is `sticky.loop.poller.Poller` itself over two replaced parts, the clock and epoll. The order of timers, `forget`
in the same round and the isolation of a failed callback are therefore the real ones.

    poller = FakePoller()
    poller.after(5.0, callback)
    poller.run_due(until=4.9)   # nothing
    poller.run_due(until=5.0)   # callback()

Numbers of descriptors need not exist: `make_ready(7, READABLE)` calls what watches 7. Callbacks run inside `run_due`
and `make_ready`, in the order of their time. `now()` starts at `START_S`, not at zero, so that code which confuses a
time with a duration is found.
"""

from __future__ import annotations

import select
from collections import Counter
from typing import Final

from sticky.loop.poller import HANGUP, Poller

READABLE: Final = select.EPOLLIN  # bytes are there; `READ` also stands for the end of the stream
START_S: Final = 1000.0


class FakeClock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


class FakeEpoll:
    """What is watched, by descriptor, and what a test made ready."""

    def __init__(self) -> None:
        self.watched: dict[int, int] = {}
        self.ready: list[tuple[int, int]] = []

    def register(self, fd: int, mask: int, /) -> None:
        if fd in self.watched:
            raise FileExistsError(fd)
        self.watched[fd] = mask

    def modify(self, fd: int, mask: int, /) -> None:
        if fd not in self.watched:
            raise FileNotFoundError(fd)
        self.watched[fd] = mask

    def unregister(self, fd: int, /) -> None:
        del self.watched[fd]

    def poll(self, timeout_s: float, /) -> list[tuple[int, int]]:
        found, self.ready = self.ready, []
        return found

    def close(self) -> None:
        self.watched.clear()


class FakePoller(Poller):
    """`Poller` without a kernel. Owns no descriptor: it need not be closed."""

    def __init__(self, *, counters: Counter[str] | None = None) -> None:
        self.clock = FakeClock()
        self.epoll = FakeEpoll()
        super().__init__(self.clock, counters=counters, epoll=self.epoll)

    def run_due(self, until: float) -> None:
        """
        Let `until` seconds pass since `START_S`, and call back for each timer at its own time.

        Timers that a callback adds run as well, if they are due by then. A timer that schedules itself without delay
        never ends, here as in the real poller.
        """
        end_s = START_S + until
        assert end_s >= self.clock.now_s, "time does not run backwards"
        while (due_s := self.next_due()) is not None and due_s <= end_s:
            self.clock.now_s = max(self.clock.now_s, due_s)
            self.run_once()
        self.clock.now_s = end_s

    def run_for(self, seconds: float) -> None:
        """Let time pass from now on: `run_due` with a duration."""
        self.run_due(self.passed_s + seconds)

    @property
    def passed_s(self) -> float:
        """How much time has passed since the start."""
        return self.clock.now_s - START_S

    def next_due(self) -> float | None:
        """Return the time of the next timer that was not cancelled, as `now()` says it."""
        times = [due_s for due_s, _, timer in self._timers if timer.callback is not None]
        return min(times, default=None)

    def make_ready(self, fd: int, events: int) -> None:
        """
        Call what watches a descriptor, as epoll would. Events that its mask does not contain are left out, except for
        a hang-up and an error, which epoll always reports. Due timers run too, for this is one round of the loop.
        """
        assert fd in self.epoll.watched, f"descriptor {fd} is not watched"
        events &= self.epoll.watched[fd] | HANGUP
        if events:
            self.epoll.ready.append((fd, events))
            self.run_once()

    def mask_of(self, fd: int) -> int | None:
        """Return for what a descriptor is watched, None where it is not."""
        return self.epoll.watched.get(fd)
