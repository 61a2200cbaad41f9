"""
The line of a terminal that shows how it goes.

Runs in the load client's event loop four times a second, and so it has to be cheap: a line is put together by hand and
written in some 50 microseconds, where a live display of rich takes milliseconds in which nothing would be measured.
It writes to a terminal only, and leaves nothing behind.
"""

from __future__ import annotations

from typing import Final, TextIO

from realtime.loadtest.outcome import Live
from realtime.loadtest.plot import SPARKS, bar, count, duration, sparks

STEP: Final = 12  # columns
BAR_MIN, BAR_MAX = 10, 30
BESIDE_BAR: Final = 66  # columns of the rest while it publishes, without sparks: on 80 columns it stands whole

_DIM, _GREEN, _RED, _PLAIN = "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"
_ANEW: Final = "\r\x1b[2K"
_HIDE, _UNHIDE = "\x1b[?25l", "\x1b[?25h"


def line(live: Live, trail: list[float], *, width: int = 100, coloured: bool = True) -> str:
    """Return the line: a bar, then what is worth knowing, the most important first, as much as there is room for."""

    def paint(colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if coloured else text

    done, left = bar(live.done / live.of, min(BAR_MAX, max(BAR_MIN, width - BESIDE_BAR)))
    room = width - 1 - STEP - len(done + left)
    shown = ""

    def add(text: str, colour: str = "") -> bool:
        nonlocal room, shown
        has_room = len(text) + 2 <= room
        if has_room:
            room -= len(text) + 2
            shown += "  " + (paint(colour, text) if colour else text)
        return has_room

    if live.step == "connecting":
        add(f"{count(live.done)} of {count(live.of)}")
    else:
        add(f"{live.done:4.1f} of {live.of:g} s")
    if live.failures:
        kinds = ", ".join(f"{count(number)} {kind}" for kind, number in live.failures.items())
        if not add(kinds, _RED):
            add(f"{count(sum(live.failures.values()))} failed", _RED)
    if live.step == "connecting":
        add(f"{live.done / max(live.elapsed_s, 0.001):.0f}/s")
    else:
        add(f"{count(live.per_s)}/s")
        if add(f"p50 {duration(live.p50_us):>7}  p99 {duration(live.p99_us):>7}"):
            add(sparks(trail).ljust(SPARKS))  # all of its columns or none: it would come and go
    return f"{paint(_DIM, live.step.ljust(STEP))}{paint(_GREEN, done)}{paint(_DIM, left)}{shown.rstrip()}"


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
