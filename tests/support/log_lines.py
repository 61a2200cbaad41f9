"""Patterns for the log lines of the primary, made of the same constants as the lines (sticky/loop/log_lines.py)."""

from __future__ import annotations

import re

from sticky.loop.log_lines import WORKER_EXITED, line

PID = r"(\d+)"
"""A field whose value is captured."""

END = r'(?=[\s"]|$)'  # of a value; a JSON line goes on with a quotation mark


def pattern(event: str, **fields: object) -> str:
    r"""
    Return a pattern for a line with an event and fields, in their order; other fields may stand between and behind.

    A value that is a text with `\` or `(` in it is a pattern itself; any other stands for itself, as the line has it.
    """
    parts = [re.escape(event)]
    for name, value in fields.items():
        if isinstance(value, str) and ("\\" in value or "(" in value):
            parts.append(rf"\b{name}={value}{END}")
        else:
            parts.append(rf"\b{re.escape(line('', **{name: value}).strip())}{END}")
    return " .*?".join(parts)


def exited(reason: str | None = None, **fields: object) -> str:
    """Return a pattern for the end of a worker."""
    return pattern(WORKER_EXITED, **fields, **({} if reason is None else {"reason": reason}))
