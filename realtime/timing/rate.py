"""
How often something may happen.

Pure: the time is an argument, in seconds on any clock that never goes back. A `Rate` is what a declaration says
("20/10s"); a `Meter` is one client's, or one room's, use of it, and is a single number: the time at which all that was
taken is paid off (the virtual scheduling algorithm of ITU-T I.371 annex A, known as GCRA). So nothing has to be
counted, reset or stored per event, and a whole burst may come at once. The brokers keep the same number for what all
workers share. It never waits, and never says what becomes of whoever asks too often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

BURST_S: Final = 4.0  # of a cost that is known only afterwards

_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_RATE: Final = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{0,6})\s*(ms|s|min|h)")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` times in `period_s` seconds, in one burst or spread."""

    count: int
    period_s: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """
        Read "5/s", "20/10s", "100/min" or "1000/h".

        Raises:
            ValueError: it is nothing of the kind, or never allows anything.
        """
        found = _RATE.fullmatch(text.strip())
        if found is None or int(found[1]) == 0 or found[2].strip("0") == "" != found[2]:
            raise ValueError(f"{text!r} is no rate: write 5/s, 20/10s, 100/min or 1000/h")
        return cls(int(found[1]), int(found[2] or 1) * _UNITS[found[3]])

    @property
    def interval_s(self) -> float:
        """Seconds after which one more is allowed."""
        return self.period_s / self.count

    def __str__(self) -> str:
        return f"{self.count} in {self.period_s:g} s"


class Meter(Struct):
    """What was taken of a rate. Plain data: it moves with its connection."""

    paid_at_s: float = 0.0

    def take(self, now: float, rate: Rate, count: int = 1) -> bool:
        """Take `count`, if the rate allows all of them now; else none."""
        paid_at = self.paid_at_s
        if paid_at < now:
            paid_at = now
        period_s = rate.period_s
        paid_at += period_s / rate.count * count
        if paid_at - now > period_s * (1 + 1e-9):  # a full burst fits in spite of rounding
            return False
        self.paid_at_s = paid_at
        return True

    def is_clear(self, now: float) -> bool:
        """Say whether all is paid off, and a new meter would do."""
        return self.paid_at_s <= now


class CostMeter(Struct):
    """
    What something has cost of so much a second, where the cost is known only afterwards. Who has used more than
    `BURST_S` seconds' worth waits until that is paid off; the last one may cost more than was left.
    """

    paid_at_s: float = 0.0

    def is_open(self, now: float, bursts: int = 1) -> bool:
        """Say whether something may begin now; with more `bursts`, also where so many are used up."""
        return self.paid_at_s - now < BURST_S * bursts

    def charge(self, now: float, cost: float, per_s: float) -> None:
        """Count what it has cost."""
        self.paid_at_s = max(self.paid_at_s, now) + cost / per_s
