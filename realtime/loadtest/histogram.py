"""
Many durations in little room, and percentiles of them.

Pure. Counts durations in microseconds in buckets that grow with the value, 64 to each power of two, so a percentile is
right within 1.6 %. It never forgets what never came: `missed` counts as infinite, above everything that was measured.
"""

# Not hdrhistogram: its wheel has a C extension and brings pbr and setuptools along, for what is done in 40 lines here;
# and it knows no count of what never came, so that its percentiles of a run with losses would be too good.

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

_BITS: Final = 6  # 64 buckets to a power of two
_EXACT: Final = 1 << (_BITS + 1)  # below this each microsecond has a bucket of its own
_HIGHEST_US: Final = (1 << 31) - 1  # 36 minutes: longer than a run may be
_BUCKETS: Final = _EXACT + (31 - _BITS - 1) * (1 << _BITS)


def bucket(us: int) -> int:
    """Return the number of the bucket of a duration."""
    if us < _EXACT:
        return us if us > 0 else 0
    us = min(us, _HIGHEST_US)
    shift = us.bit_length() - _BITS - 1
    return (shift << _BITS) + (us >> shift)


def upper_us(number: int) -> int:
    """Return the longest duration of a bucket."""
    if number < _EXACT:
        return number
    shift = (number >> _BITS) - 1
    return ((number - (shift << _BITS) + 1) << shift) - 1


class Histogram:
    """Durations, counted."""

    __slots__ = ("_counts", "max_us", "measured", "missed")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.measured = 0
        self.missed = 0
        self.max_us = 0

    def add(self, us: int) -> None:
        """Count a duration."""
        self._counts[bucket(us)] += 1
        self.measured += 1
        if us > self.max_us:
            self.max_us = us

    def percentile_us(self, share: float) -> float:
        """
        Return the duration that this share (0 to 1) of all did not exceed: infinite where that many never came, and
        NaN when there is nothing at all.
        """
        assert 0 <= share <= 1, "a share, not a percentage"
        total = self.measured + self.missed
        if not total:
            return math.nan
        rank = max(1, math.ceil(share * total))
        assert rank <= total, "a share of all is no more than all"
        if rank > self.measured:
            return math.inf
        seen = 0
        for number, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return float(min(upper_us(number), self.max_us))
        raise AssertionError("the counts add up to `measured`")

    @property
    def worst_us(self) -> float:
        """The longest of all: infinite when one never came."""
        if self.missed:
            return math.inf
        return float(self.max_us) if self.measured else math.nan

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Give the shortest and longest duration and the count of each bucket that is not empty, in their order."""
        for number, count in enumerate(self._counts):
            if count:
                yield (upper_us(number - 1) + 1 if number else 0), upper_us(number), count

    def clear(self) -> None:
        """Begin anew."""
        self._counts = [0] * _BUCKETS
        self.measured = self.missed = self.max_us = 0
