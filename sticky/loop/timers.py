"""
What a part needs of the loop that it runs on: the time, and a callback later.

Used in workers, whose loop is asyncio's: `LoopTimers`. The primary's poller has the same two methods, and more. A test
passes a poller with a clock that it moves itself, so that no test waits. Nothing here keeps a timer or decides
anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Timers(Protocol):
    """The clock and the timers of one event loop."""

    def now(self) -> float:
        """Return the time in seconds since any fixed moment. It never runs backwards."""

    def after(self, delay_s: float, callback: Callable[[], object]) -> object:
        """Call back once on the event loop, in `delay_s` seconds. 0: in the next turn of the loop."""


class LoopTimers:
    """
    The timers of the running event loop.

    The loop is looked up when a timer is set, so a worker can be made before its loop runs.
    """

    def now(self) -> float:
        return time.monotonic()  # the clock of asyncio's and of uvloop's timers as well

    def after(self, delay_s: float, callback: Callable[[], object]) -> object:
        from asyncio import get_running_loop  # only now: a primary imports this module, and never asyncio

        return get_running_loop().call_later(delay_s, callback)
