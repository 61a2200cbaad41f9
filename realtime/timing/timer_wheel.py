"""
One timer wheel for all connections of a worker: pings, deadlines, expiries.

Runs in the worker. For 10,000 idle connections, timers of the event loop would cost memory, and a heap operation per
ping. Here a timer is one entry in the list of its tick, and the loop wakes up once a tick.

Times are coarse on purpose: a callback runs at most one tick late, and never early. A cancelled entry stays until its
tick, or until most entries are cancelled. The second case matters: a token may expire in a month, and its connection
may end today.

`TimerWheel` is pure: `advance(now)` gets the time. `run_wheel` is the thin shell that calls it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from realtime.log_lines import log

CANCELLED_MIN = 1000  # fewer cancelled entries are not worth a removal
TICK_S = 0.25  # a ping is 25 s apart; a hundredth of that, at four wake-ups a second

logger = logging.getLogger("realtime.timing")


class Timer:
    """An entry of the wheel. `cancel` prevents its callback; it is harmless after the callback ran."""

    __slots__ = ("argument", "callback", "wheel")

    def __init__(self, wheel: TimerWheel, callback: Callable[[Any], None], argument: Any) -> None:
        self.wheel = wheel
        self.callback: Callable[[Any], None] | None = callback  # None when cancelled, or run
        self.argument = argument

    def cancel(self) -> None:
        """
        Have the callback never called. Harmless when it was. What it held is released at once, and the entry later.
        """
        if self.callback is not None:
            self.callback = self.argument = None
            wheel = self.wheel
            wheel.cancelled += 1
            if wheel.cancelled >= CANCELLED_MIN and 2 * wheel.cancelled >= wheel.size:
                wheel.remove_cancelled()


class TimerWheel:
    """
    Callbacks by the tick in which they are due. `now` is in seconds, on any clock that never goes back.

    Invariant: every entry is in a tick after `_tick`, so `advance` reaches each entry exactly once.

    Attributes:
        size: how many entries there are. Cancelled ones count until they are removed.
        cancelled: how many of them are cancelled. Each entry counts itself.
    """

    def __init__(self, now: float, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._tick = int(now / tick_s)  # every tick up to this one has run
        self._now = now
        self._due: dict[int, list[Timer]] = {}
        self.size = 0
        self.cancelled = 0

    def after(self, delay_s: float, callback: Callable[[Any], None], argument: Any = None) -> Timer:
        """
        Schedule `callback(argument)` for when `delay_s` seconds have passed.

        Args:
            delay_s: seconds from the time that `advance` got last.
            callback: returns at once; an exception is logged as a bug and stops no other callback.
            argument: passed to the callback, so that one plain function can serve every connection.
        """
        return self.at(self._now + delay_s, callback, argument)

    @property
    def now(self) -> float:
        """The time that was last told to `advance`."""
        return self._now

    def at(self, due_s: float, callback: Callable[[Any], None], argument: Any = None) -> Timer:
        """Have `callback(argument)` called once it is `due_s` by the wheel's clock; soon where that has passed."""
        tick = max(int(due_s / self._tick_s), self._tick) + 1
        assert tick > self._tick, "an entry in a tick that has run would never run"
        timer = Timer(self, callback, argument)
        self._due.setdefault(tick, []).append(timer)
        self.size += 1
        return timer

    def remove_cancelled(self) -> None:
        """
        Remove all entries that are cancelled. An entry calls this when most are.

        Each removal goes through all entries, so each cancelled entry pays only a constant share of one.
        """
        for tick, timers in list(self._due.items()):
            kept = [timer for timer in timers if timer.callback is not None]
            if not kept:
                del self._due[tick]
            elif len(kept) < len(timers):
                self._due[tick] = kept
        self.size, self.cancelled = sum(map(len, self._due.values())), 0

    def advance(self, now: float) -> None:
        """Run all callbacks that are due at `now`, in the order of their ticks."""
        self._now = max(now, self._now)
        until = int(self._now / self._tick_s)
        if until - self._tick > len(self._due):  # after a long stop there are fewer entries than ticks
            ticks = sorted(tick for tick in self._due if tick <= until)
        else:
            ticks = list(range(self._tick + 1, until + 1))
        self._tick = max(until, self._tick)
        for tick in ticks:
            timers = self._due.pop(tick, [])
            self.size -= len(timers)
            assert self.size >= 0, "`at` counts each entry once"
            for timer in timers:
                callback, argument = timer.callback, timer.argument
                if callback is None:
                    self.cancelled = max(self.cancelled - 1, 0)
                    continue
                timer.callback = timer.argument = None
                try:
                    callback(argument)
                except Exception:  # noqa: BLE001 - logged with its traceback
                    log(logger, logging.ERROR, "timer failed", exc_info=True)

    def __len__(self) -> int:
        """Return the number of entries. Cancelled ones count until they are removed."""
        return self.size


async def run_wheel(wheel: TimerWheel) -> None:
    """Advance the wheel by the event loop's clock, tick by tick, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(TICK_S)
        wheel.advance(loop.time())
