"""
Numbers as a terminal shows them: durations and sizes in words, a bar, sparks, a histogram of block characters.

Pure: values in, text out. Nothing here knows a terminal, a clock or a run. Colours are rich's styles; `.plain` is
the text without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from realtime.loadtest.histogram import Histogram

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 64, 9
SPARKS: Final = 16  # values
NARROW: Final = 24  # columns, below which there is nothing to see
BESIDE: Final = 11  # columns beside those of a histogram: the shares before it, and ∞ after it
FACTOR_MIN: Final = 8.0  # the longest on the axis to the shortest: buckets of 1.6 % then fill the columns

_MARGIN: Final = 8  # columns before the axis

_USUAL, _SLOW, _SLOWEST = "green", "yellow", "red"


def duration(us: float) -> str:
    """Write a duration in three digits and its unit."""
    if math.isnan(us):
        return "–"
    if math.isinf(us):
        return "∞"
    for unit, factor in (("µs", 1.0), ("ms", 1e3), ("s", 1e6)):
        value = us / factor
        if value < 999.5 or unit == "s":
            return f"{_three(value) if factor > 1 else round(value)} {unit}"
    raise AssertionError("the last unit takes everything")


def _three(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{_three(count)} {unit}"
        count /= 1000
    return f"{_three(count)} GB"


def count(number: float) -> str:
    """Write a number with thin spaces between thousands."""
    return f"{round(number):,}".replace(",", "\u202f")


def bar(share: float, width: int = 30) -> tuple[str, str]:
    """Return what is done and what is not of a progress bar, `width` characters together."""
    halves = round(min(1.0, max(0.0, share)) * width * 2)
    done = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return done, "─" * (width - len(done))


def sparks(values: Sequence[float], width: int = SPARKS) -> str:
    """Return the last values as blocks, the highest one being full; a blank where there is no number."""
    last = [each if math.isfinite(each) else 0.0 for each in values[-width:]]
    highest = max(last, default=0.0)
    if highest <= 0:
        return " " * len(last)
    return "".join(BLOCKS[max(1, math.ceil(each / highest * 8))] if each else " " for each in last)


def histogram(latency: Histogram, *, width: int = WIDTH, height: int = HEIGHT) -> list[Text]:
    """
    Draw how many took how long: time from left to right, each step a factor; the share of all upwards.

    Whatever is not nothing has at least the lowest block. What never came stands at the right end, under ∞.

    Returns:
        The lines, none wider than `width` + `BESIDE`; nothing when there is nothing to draw.
    """
    if not latency.measured:
        return []
    low, high = _ends(latency)
    columns = _columns(latency, low, high, width)
    total = latency.measured + latency.missed
    top = max(*columns, latency.missed)
    styles = [_style(low * (high / low) ** ((at + 0.5) / width), latency) for at in range(width)]
    lines = []
    for row in reversed(range(height)):
        label = _share(top * (row + 1) / height / total) if row in (height - 1, height // 2 - 1) else ""
        line = Text(f"{label:>6} ", "dim").append("│", "dim")
        for number, style in zip(columns, styles, strict=True):
            line.append(_block(number, top, row, height), style)
        if latency.missed:
            line.append(" " + _block(latency.missed, top, row, height) * 2, _SLOWEST)
        lines.append(line)
    ticks = _ticks(low, high, width)
    axis = "".join("┴" if at in dict(ticks) else "─" for at in range(width))
    lines.append(Text(" " * (_MARGIN - 1) + "└" + axis, "dim"))
    lines.append(Text(" " * _MARGIN + _labels(ticks, width) + ("  ∞" if latency.missed else ""), "dim"))
    lines.append(_percentiles(latency, low, high, width))
    for line in lines:
        line.rstrip()
    return lines


def _ends(latency: Histogram) -> tuple[float, float]:
    """Return the shortest and the longest of the axis, around all that was measured."""
    shortest = next(us for us, _, _ in latency.buckets())
    low, high = max(1, shortest) / 1.08, (latency.max_us + 1) * 1.08
    if high / low < FACTOR_MIN:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(FACTOR_MIN), middle * math.sqrt(FACTOR_MIN)
    return low, high


def _columns(latency: Histogram, low: float, high: float, width: int) -> list[float]:
    """Spread each bucket evenly over the columns that it touches: otherwise the widths of the two make a comb."""
    columns = [0.0] * width
    for shortest, longest, number in latency.buckets():
        begin, end = (_position(us, low, high, width) for us in (shortest, longest + 1))
        for at in range(int(begin), min(width - 1, int(end)) + 1):
            columns[at] += number * (min(end, at + 1) - max(begin, at)) / (end - begin)
    return columns


def _position(us: float, low: float, high: float, width: int) -> float:
    """Return where a duration stands on the axis, in columns."""
    return min(max(math.log(max(us, low) / low) / math.log(high / low), 0.0), 1.0) * width


def _block(number: float, top: float, row: int, height: int) -> str:
    eighths = number / top * height * 8
    if row == 0 and number > 0:
        eighths = max(1.0, eighths)
    return BLOCKS[min(8, max(0, round(eighths - row * 8)))]


def _style(us: float, latency: Histogram) -> str:
    if us <= latency.percentile_us(0.5) * 1.04:
        return _USUAL
    return _SLOW if us <= latency.percentile_us(0.99) * 1.04 else _SLOWEST


def _share(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.0995 else f"{share * 100:.1f} %"


def _place(us: float, low: float, high: float, width: int) -> int:
    return min(width - 1, int(_position(us, low, high, width)))


def _ticks(low: float, high: float, width: int) -> list[tuple[int, str]]:
    """Return where 1, 2 and 5 of each decade stand, or the decades alone where that would be too many."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2.2 else (1, 3) if decades < 3.5 else (1,)
    found = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in steps:
            us = step * 10.0**exponent
            if low <= us < high:
                found.append((_place(us, low, high, width), _plain(us)))
    return found


def _plain(us: float) -> str:
    for unit, factor in (("s", 1e6), ("ms", 1e3), ("µs", 1.0)):
        if us >= factor:
            return f"{us / factor:g} {unit}"
    return f"{us:g} µs"


def _labels(marks: Iterable[tuple[int, str]], width: int) -> str:
    """Write each label with its middle at its place, but none into another."""
    line = ""
    for at, label in marks:
        begin = min(max(0, at - len(label) // 2), width - len(label))
        if begin >= len(line) + bool(line):
            line = line.ljust(begin) + label
    return line.ljust(width)


def _percentiles(latency: Histogram, low: float, high: float, width: int) -> Text:
    """Point at p50, p99 and p99.9, each where there is still room for its name."""
    line = Text()
    for share, name, style in ((0.5, "p50", _USUAL), (0.99, "p99", _SLOW), (0.999, "p99.9", _SLOWEST)):
        us = latency.percentile_us(share)
        if math.isfinite(us):
            at, text = _place(us, low, high, width), f"▲ {name}"
            if at + len(text) > width:
                at, text = at + 1 - len(text), f"{name} ▲"
            begin = at + _MARGIN
            if begin >= len(line.plain) + bool(line.plain):
                line.append(" " * (begin - len(line.plain))).append(text, style)
    return line
