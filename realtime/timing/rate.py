"""
Rates, and the meters that limit actions to them.

Pure: the time is an argument, in seconds on any clock that never goes back. A `Rate` is a limit such as "20/10s". A
`Meter` is the use of a rate by one client or one room. A meter never waits, and does not decide what happens to a
client that exceeds its rate.

A meter is a single number: the time at which all counted actions are paid off. This is the virtual scheduling algorithm
of ITU-T I.371 annex A, known as GCRA. Nothing is counted, reset or stored per event, and a whole burst may come at
once. The brokers store the same number for rates that all workers share.
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

    def __post_init__(self) -> None:
        # `parse` and the settings refuse both; a meter divides by the one, and would never be clear without the other.
        assert self.count > 0 and self.period_s > 0, "a rate allows something, in some time"  # noqa: PT018

    @classmethod
    def parse(cls, text: str) -> Rate:
        """
        Read "5/s", "20/10s", "100/min" or "1000/h".

        Raises:
            ValueError: the text is no rate, or never allows anything.
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
    """The use of a rate. Plain data: it moves with its connection."""

    paid_at_s: float = 0.0

    def take(self, now: float, rate: Rate, count: int = 1) -> bool:
        """Count so many actions, if the rate allows all of them now; else count none. Return whether it did."""
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
        """Return whether everything is paid off, so that this meter equals a new one."""
        return self.paid_at_s <= now


class CostMeter(Struct):
    """
    Limits cost per second, where the cost of an action is known only afterwards.

    After more than `BURST_S` seconds' worth of cost, the next action must wait until that is paid off. The last action
    may cost more than was left.
    """

    paid_at_s: float = 0.0

    def is_open(self, now: float, bursts: int = 1) -> bool:
        """Return whether an action may begin now, given that up to so many bursts may be used up."""
        return self.paid_at_s - now < BURST_S * bursts

    def charge(self, now: float, cost: float, per_s: float) -> None:
        """Count the cost of an action that is done."""
        assert cost >= 0, "an action that is done gives nothing back"
        self.paid_at_s = max(self.paid_at_s, now) + cost / per_s
