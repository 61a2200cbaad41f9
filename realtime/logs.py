"""
What a log line looks like, in the primary, the workers and the local broker.

For people: time, who, mark, message; for machines: one JSON object a line. A message opens with its mark (`>` sent,
`<` received, `=` state, `-` timeout, `x` closing, `!` error). Everything goes to standard error, each record in one
write. Secrets that were named at set-up never leave the process, whoever logs them. It never reads settings itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Literal, TextIO

MARKS = {">": "sent", "<": "received", "=": "state", "-": "timeout", "x": "closing", "!": "error"}
"""A mark, and what a line that opens with it is about."""

# What others say only when we debug: they report each connection, which we do ourselves and in our own words.
_CHATTY = ("asyncio", "uvicorn", "uvicorn.access", "uvicorn.error", "websockets", "websockets.server")

# A client can put its bytes into a message; they must not drive somebody's terminal. Line ends stay, for reports.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}

_DIM, _RED, _YELLOW, _GREEN, _CYAN, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[36m", "\x1b[0m"
_COLOURS = {"!": _RED, "x": _YELLOW, "-": _YELLOW, "=": _GREEN, ">": _CYAN, "<": _CYAN}


def set_up(
    who: str,
    *,
    level: str = "info",
    form: Literal["text", "json"] | str = "text",
    color: Literal["auto", "always", "never"] | str = "auto",
    secrets: Iterable[str | None] = (),
    stream: TextIO | None = None,
) -> None:
    """
    Send every record of this process to standard error, in our shape. Call it once, before anything logs.

    Args:
        who: the process: `primary`, `broker`, or a worker's slot number.
        level: the least that is logged: `debug`, `info`, `warning`, `error`.
        form: `text` or `json`.
        color: `auto` colours for a terminal only.
        secrets: texts that are replaced by `***` wherever they turn up.
        stream: somewhere else than standard error.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    formatter: logging.Formatter
    if form == "json":
        formatter = JsonLines(who, secrets)
    else:
        coloured = color == "always" or (color == "auto" and terminal)
        formatter = TextLines(who, secrets, coloured=coloured, date=not terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.captureWarnings(True)


def split_mark(record: logging.LogRecord) -> tuple[str, str]:
    """Give a record's mark and the rest of its message. A warning or an error that has no mark gets `!`."""
    message = record.getMessage()
    if message[:1] in MARKS and message[1:2] == " ":
        return message[0], message[2:]
    return ("!" if record.levelno >= logging.WARNING else " "), message


class _Lines(logging.Formatter):
    """What both shapes share: who is speaking, and what must not be said."""

    def __init__(self, who: str, secrets: Iterable[str | None]) -> None:
        super().__init__()
        self.who = who
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return "\n".join(parts)


class TextLines(_Lines):
    """`12:03:44.120 3/4711 = ready`: for people."""

    def __init__(self, who: str, secrets: Iterable[str | None] = (), *, coloured: bool, date: bool) -> None:
        super().__init__(who, secrets)
        self._coloured, self._form = coloured, "%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, and the lines of a traceback after it."""
        mark, message = split_mark(record)
        when = f"{time.strftime(self._form, time.localtime(record.created))}.{int(record.msecs):03d}"
        who = f"{self.who}/{os.getpid()}".ljust(13)
        message = self._hide(message).translate(_CONTROL)
        if self._coloured:
            colour = _COLOURS.get(mark, "") if record.levelno < logging.ERROR else _RED
            line = f"{_DIM}{when} {who}{_PLAIN} {colour}{mark}{_PLAIN} {message}"
        else:
            line = f"{when} {who} {mark} {message}"
        traceback = self._traceback(record)
        return f"{line}\n{self._hide(traceback)}" if traceback else line


class JsonLines(_Lines):
    """One JSON object a line: for machines. A traceback is one of its texts."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the object."""
        mark, message = split_mark(record)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self.who,
            "pid": os.getpid(),
            "logger": record.name,
            "event": MARKS.get(mark, "note"),
            "message": self._hide(message),
        }
        fields |= {
            name: self._hide(value) if isinstance(value, str) else value
            for name, value in getattr(record, "fields", {}).items()
        }
        traceback = self._traceback(record)
        if traceback:
            fields["traceback"] = self._hide(traceback)
        return json.dumps(fields, ensure_ascii=False)
