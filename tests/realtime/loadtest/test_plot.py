"""What a terminal shows: words for numbers, a bar, sparks, and the histogram."""

from __future__ import annotations

import math

import pytest

from realtime.loadtest.histogram import Histogram
from realtime.loadtest.plot import BESIDE, bar, count, duration, histogram, size, sparks


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (999.6, "1.00 ms"),
        (1234, "1.23 ms"),
        (12_345, "12.3 ms"),
        (123_456, "123 ms"),
        (999_600, "1.00 s"),
        (600e6, "600 s"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_a_duration_has_three_digits(us: float, text: str) -> None:
    assert duration(us) == text


def test_sizes_and_counts() -> None:
    assert [size(each) for each in (0, 999, 1234, 56_789_000, 7e12)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "56.8 MB",
        "7000 GB",
    ]
    assert count(1_234_567) == "1\u202f234\u202f567"


@pytest.mark.parametrize(
    ("share", "done"), [(0, ""), (0.05, "╸"), (0.5, "━" * 5), (0.55, "━" * 5 + "╸"), (2, "━" * 10)]
)
def test_a_bar_is_as_wide_as_it_shall_be(share: float, done: str) -> None:
    assert bar(share, 10) == (done, "─" * (10 - len(done)))


def test_sparks_show_the_last_values_and_blanks_where_there_is_none() -> None:
    assert sparks([9, 1, 4, 8], 3) == "▁▄█"
    assert sparks([math.nan, 0.001, math.inf, 8]) == " ▁ █"
    assert sparks([math.nan]) == " "
    assert sparks([]) == ""


def drawn(latency: Histogram, width: int = 64) -> list[str]:
    lines = [line.plain for line in histogram(latency, width=width)]
    assert all(len(line) <= width + BESIDE for line in lines)
    return lines


def test_nothing_is_not_drawn() -> None:
    assert drawn(Histogram()) == []


def test_each_value_is_to_be_seen_however_rare() -> None:
    latency = Histogram()
    for _ in range(100_000):
        latency.add(1_000)
    latency.add(90_000)
    *rows, bottom, axis, labels, percentiles = drawn(latency)
    assert bottom.count("▁") >= 1
    assert all("█" in row for row in rows)
    assert bottom.index("█") < bottom.rindex("▁")
    assert axis.lstrip().startswith("└")
    assert "1 ms" in labels
    assert "▲ p50" in percentiles


def test_what_never_came_stands_at_infinity() -> None:
    latency = Histogram()
    latency.add(1_000)
    latency.missed = 9
    lines = drawn(latency)
    assert all(line.endswith(" ██") for line in lines[:9])
    assert lines[10].endswith("  ∞")
    assert "p99" not in lines[-1]


@pytest.mark.parametrize("values", [[0], [1], [1, 2_000_000_000], [7] * 50, list(range(1, 5000))])
@pytest.mark.parametrize("width", [24, 64])
def test_any_values_fit(values: list[int], width: int) -> None:
    latency = Histogram()
    for each in values:
        latency.add(each)
    assert drawn(latency, width)
