"""
The line of a terminal that shows how it goes.

Runs in the load client's event loop four times a second, and so it has to be cheap: a line is put together by hand and
written in some 50 microseconds, where a live display of rich takes milliseconds in which nothing would be measured.
It writes to a terminal only, and leaves an empty line behind.
"""

from __future__ import annotations

from typing import Final, TextIO

from realtime.loadtest.outcome import Live
from realtime.loadtest.plot import bar, count, duration, sparks

_DIM, _GREEN, _RED, _PLAIN = "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"
_ANEW: Final = "\r\x1b[2K"
_HIDE, _UNHIDE = "\x1b[?25l", "\x1b[?25h"


def line(live: Live, trail: list[float], *, width: int = 100, coloured: bool = True) -> str:
    """Return the line: a bar, then what is worth knowing, as much as there is room for."""

    def paint(colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if coloured else text

    done, left = bar(live.done / live.of)
    if live.step == "connecting":
        parts = [f"{count(live.done)} of {count(live.of)}", f"{live.done / max(live.elapsed_s, 0.001):.0f}/s"]
    else:
        p50, p99 = duration(live.p50_us), duration(live.p99_us)
        parts = [f"{live.done:4.1f} of {live.of:g} s", f"{count(live.per_s)}/s", f"p50 {p50:>7}  p99 {p99:>7}"]
        parts.append(sparks(trail))
    room = width - 1 - 12 - len(done + left)
    told = ""
    for colour, text in [("", each) for each in parts] + [(_RED, f"{n} {kind}") for kind, n in live.failures.items()]:
        room -= len(text) + 2
        if room < 0:
            break
        told += "  " + (paint(colour, text) if colour else text)
    return f"{paint(_DIM, live.step.ljust(12))}{paint(_GREEN, done)}{paint(_DIM, left)}{told}"


class Screen:
    """Draws on a terminal, and on nothing else."""

    def __init__(self, stream: TextIO, *, width: int, coloured: bool) -> None:
        self._stream = stream
        self._width = width
        self._coloured = coloured
        self._is_terminal = stream.isatty()
        self._trail: list[float] = []  # p99 of each tick

    def __enter__(self) -> Screen:
        self._write(_HIDE)
        return self

    def __exit__(self, *error: object) -> None:
        self._write(_ANEW + _UNHIDE)

    def show(self, live: Live) -> None:
        """Draw the line anew."""
        if live.step == "publishing":
            self._trail = [*self._trail[-63:], live.p99_us]
        self._write(_ANEW + line(live, self._trail, width=self._width, coloured=self._coloured))

    def _write(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write(text)
            self._stream.flush()
