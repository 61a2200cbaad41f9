"""
Whether times are uniform over a length of time: Pearson's chi-square test with ten bins.

The value of 16.92 is the 95th percentile of the distribution with nine degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence

BINS = 10
CHI_SQUARE_MAX = 16.92


def chi_square(times_s: Sequence[float], begin_s: float, length_s: float) -> float:
    """Return the statistic of the test: 0 where each tenth of the time has a tenth of them."""
    counts = [0] * BINS
    for each in times_s:
        assert begin_s <= each <= begin_s + length_s + 1e-6, "none is outside"
        counts[min(int((each - begin_s) / length_s * BINS), BINS - 1)] += 1
    expected = len(times_s) / BINS
    return sum((count - expected) ** 2 / expected for count in counts)
