"""
Where in the application's source something stands: file and line, for errors and log lines.

Runs in the worker, when an application is declared. It looks at code objects and at the stack, and imports nothing of
what it looks at. It never reads a source file.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

PACKAGE: Final = str(Path(__file__).resolve().parents[1]) + "/"
"""Frames below it are ours, and not the application's."""


def place_of(function: Any) -> str:
    """Return file and line of a function, below its decorators; "" where it is not written in Python."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    return "" if code is None else f"{code.co_filename}, line {code.co_firstlineno}"


def caller() -> FrameType | None:
    """Return the innermost frame of the application, as seen from a call that it made to this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def calling_place() -> str:
    """Return file and line from which the application called this package."""
    frame = caller()
    return "" if frame is None else f"{frame.f_code.co_filename}, line {frame.f_lineno}"


def is_ours(filename: str) -> bool:
    """Say whether a file belongs to this package."""
    return filename.startswith(PACKAGE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the most similar name, or "" where none is similar."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""
