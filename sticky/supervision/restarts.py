"""
When a slot whose worker was lost gets another: at once the first time, then after 1, 2, 4 … 30 s.

Pure: it answers with a delay and keeps a record by slot; the supervisor arms the timer and starts the worker. A worker
that stayed ready for `STEADY_S` clears its slot's record. While no worker was ever ready, `boots_max` failed boots in a
row, in any slots, mean that the server cannot start.
"""

from __future__ import annotations

from typing import Final

from sticky.keys.hashing import Slot

BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S: Final = 10.0  # longer than a worker takes that crashes on its first requests


class Restarts:
    """The record of failures, by slot."""

    def __init__(self, *, boots_max: int | None) -> None:
        """
        Args:
            boots_max: how many boots may fail in a row while no worker was ever ready; None: any number.
        """
        assert boots_max is None or boots_max > 0, "a server that may not fail once is given up before it starts"
        self._boots_max = boots_max
        self._ever_ready = False
        self._failures: dict[Slot, int] = {}
        self._boots_failed = 0  # in a row, while no worker was ever ready

    @property
    def boots_failed(self) -> int:
        """How many boots have failed in a row before any worker was ready."""
        return self._boots_failed

    def record_ready(self) -> bool:
        """
        Note that a worker is ready. The caller must call `clear` when it still is after `STEADY_S`.

        Returns:
            whether it is the first that ever was ready, in any slot.
        """
        is_first, self._ever_ready = not self._ever_ready, True
        return is_first

    def record_failed_boot(self) -> bool:
        """
        Note that a worker did not become ready. The caller must take `next_delay_s` for its slot, or give up.

        Returns:
            False when the server is to be given up: no worker could boot.
        """
        if self._ever_ready:
            return True
        self._boots_failed += 1
        return self._boots_max is None or self._boots_failed < self._boots_max

    def next_delay_s(self, slot: Slot) -> float:
        """Return after how many seconds a slot gets another worker: longer with each call since `clear`."""
        failures = self._failures.get(slot, 0)
        self._failures[slot] = failures + 1
        return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]

    def clear(self, slot: Slot) -> None:
        """Forget a slot's failures: its next loss is followed by another worker at once."""
        self._failures.pop(slot, None)
