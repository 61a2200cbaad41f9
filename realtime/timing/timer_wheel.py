"""
One timer for all connections of a worker: pings, deadlines, expiries.

Runs in the worker. A timer of the event loop for each of 10,000 idle connections costs memory and a heap operation per
ping; here a timer is one entry in the list of its tick, and the loop is woken once a tick. Times are coarse on purpose:
a callback runs at most one tick late, and never early. What was cancelled is forgotten when its tick comes, or when
that would be most of what there is: a token may end in a month, and its connection today.

`TimerWheel` is pure: `advance(now)` is told the time. `run_wheel` is the thin shell that tells it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

CANCELLED_MIN = 1000  # fewer are not looked for
TICK_S = 0.25  # a ping is 25 s apart; a hundredth of that, at four wake-ups a second

logger = logging.getLogger("realtime.wheel")


class Timer:
    """An entry of the wheel. `cancel` makes it do nothing, also when it has run."""

    __slots__ = ("argument", "callback", "wheel")

    def __init__(self, wheel: TimerWheel, callback: Callable[[Any], None], argument: Any) -> None:
        self.wheel = wheel
        self.callback: Callable[[Any], None] | None = callback  # None when cancelled, or run
        self.argument = argument

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.argument = None
            self.wheel.cancelled()


class TimerWheel:
    """Callbacks by the tick in which they are due. `now` is in seconds, on any clock that never goes back."""

    def __init__(self, now: float, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._tick = int(now / tick_s)  # every tick up to this one has run
        self._now = now
        self._due: dict[int, list[Timer]] = {}
        self._size = 0
        self._cancelled = 0  # of those

    def after(self, delay_s: float, callback: Callable[[Any], None], argument: Any = None) -> Timer:
        """
        Have `callback(argument)` called once `delay_s` seconds have passed.

        Args:
            delay_s: seconds from the time that was last told to `advance`.
            callback: returns at once; what it raises is logged as a bug and stops no other.
            argument: handed to the callback, so that a plain function can serve every connection.
        """
        return self.at(self._now + delay_s, callback, argument)

    @property
    def now(self) -> float:
        """The time that was last told to `advance`."""
        return self._now

    def at(self, due_s: float, callback: Callable[[Any], None], argument: Any = None) -> Timer:
        """Have `callback(argument)` called once it is `due_s` by the wheel's clock; soon where that has passed."""
        tick = max(int(due_s / self._tick_s), self._tick) + 1
        timer = Timer(self, callback, argument)
        self._due.setdefault(tick, []).append(timer)
        self._size += 1
        return timer

    def cancelled(self) -> None:
        """Learn that an entry was cancelled. When most are, they are forgotten: each costs a share of a look at all."""
        self._cancelled += 1
        if self._cancelled < CANCELLED_MIN or 2 * self._cancelled < self._size:
            return
        for tick, timers in list(self._due.items()):
            kept = [timer for timer in timers if timer.callback is not None]
            if not kept:
                del self._due[tick]
            elif len(kept) < len(timers):
                self._due[tick] = kept
        self._size, self._cancelled = sum(map(len, self._due.values())), 0

    def advance(self, now: float) -> None:
        """Run everything that is due at `now`, in the order of its ticks."""
        self._now = max(now, self._now)
        until = int(self._now / self._tick_s)
        if until - self._tick > len(self._due):  # after a long stop: go by the entries, not by the ticks
            ticks = sorted(tick for tick in self._due if tick <= until)
        else:
            ticks = list(range(self._tick + 1, until + 1))
        self._tick = max(until, self._tick)
        for tick in ticks:
            timers = self._due.pop(tick, [])
            self._size -= len(timers)
            for timer in timers:
                callback, argument = timer.callback, timer.argument
                if callback is None:
                    self._cancelled = max(self._cancelled - 1, 0)
                    continue
                timer.callback = timer.argument = None
                try:
                    callback(argument)
                except Exception:
                    logger.exception("! a timer's callback failed")

    def __len__(self) -> int:
        """Count the entries, cancelled ones included until they are forgotten."""
        return self._size


async def run_wheel(wheel: TimerWheel) -> None:
    """Tell the wheel the loop's time, tick by tick, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(TICK_S)
        wheel.advance(loop.time())
