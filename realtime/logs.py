"""
What a log line looks like, in the primary, the workers and the local broker.

For people: time, level, process, mark, message; for machines: one JSON object a line. A message opens with its mark
(`>` sent, `<` received, `=` state, `-` timeout, `x` closing, `!` error). What it says of an object stands as
`key=value` (`slot=3 pid=811 reason="killed by SIGKILL"`): one can grep for it, and it is a field of its own in JSON.
Everything goes to standard error, each record in one write. What an application prints becomes whole lines of the same
shape. Secrets that were named at set-up never leave the process. It never reads settings itself.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TextIO

MARKS = {">": "sent", "<": "received", "=": "state", "-": "timeout", "x": "closing", "!": "error"}
"""A mark, and what a line that opens with it is about."""

# What others say only when we debug: they report each connection, which we do ourselves and in our own words.
_CHATTY = ("asyncio", "uvicorn", "uvicorn.access", "uvicorn.error", "websockets", "websockets.server")

OUTPUT = "output"
"""The logger's name in lines that an application has printed."""

LINE_MAX = 64 * 1024  # characters of a printed line; what is longer comes in several

# A placeholder of a message's format, with the key before it where there is one: `pid=%d`, `reason="%s"`. Read out of
# the format, which is ours, and never out of the values, which may be a client's.
_PLACEHOLDER = re.compile(r"""(?:(?<!\S)(?P<key>[a-z][a-z0-9_]*)="?)?%[-+ #0]*\d*(?:\.\d+)?(?P<kind>[a-zA-Z%])""")

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
        level: the least that is logged: `debug`, `info`, `warning` or `error`; behind it, separated by commas, what is
            the least for a logger and those below it: `info,realtime.hub=debug`.
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
    level, *named = level.split(",")
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.WARNING)
    for each in named:
        name, _, least = each.partition("=")
        logging.getLogger(name).setLevel(least.upper())
    logging.captureWarnings(True)


def tag_output() -> None:
    """
    Have what this process prints appear at once, as whole lines that say which process printed them. Call it after
    `set_up`, in a process that has no terminal of its own. A line that was printed is not lost with the process.
    """
    handler = logging.getLogger().handlers[0]
    sys.stdout = _Printed(sys.__stdout__, handler, logging.INFO)
    sys.stderr = _Printed(sys.__stderr__, handler, logging.WARNING)


class _Printed(io.TextIOBase):
    """A stream in place of `sys.stdout`, or `sys.stderr`: each whole line becomes one log record."""

    def __init__(self, stream: TextIO | None, handler: logging.Handler, level: int) -> None:
        super().__init__()
        self._stream = stream
        self._handler = handler
        self._level = level
        self._lock = threading.RLock()  # a record's own problem may be printed while it is handled
        self._begun: dict[int, str] = {}  # the line that a thread has begun, by the thread

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def buffer(self) -> Any:
        """The bytes' stream below; what is written there is not tagged."""
        assert self._stream is not None, "a worker has its standard streams"
        return self._stream.buffer

    def reconfigure(self, **options: Any) -> None:
        """Leave it as it is: what is printed is text, and appears at the end of each line."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        assert self._stream is not None, "a worker has its standard streams"
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Print what is whole, and keep the beginning of a line until its end comes from the same thread."""
        with self._lock:
            thread = threading.get_ident()
            *lines, begun = (self._begun.pop(thread, "") + text).split("\n")
            if len(begun) > LINE_MAX:
                lines.append(begun)
                begun = ""
            if begun:
                self._begun[thread] = begun
            for line in lines:
                self._print(line)
        return len(text)

    def close(self) -> None:
        """Print what was begun."""
        with self._lock:
            for line in self._begun.values():
                self._print(line)
            self._begun.clear()

    def _print(self, line: str) -> None:
        self._handler.handle(logging.LogRecord(OUTPUT, self._level, "", 0, "%s", (line,), None))


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """Give what a record's message says as `key=value`, with the values as they were before they were formatted."""
    args = record.args
    if not isinstance(args, tuple) or not isinstance(record.msg, str):
        return
    values = iter(args)
    for found in _PLACEHOLDER.finditer(record.msg):
        if found["kind"] == "%":
            continue
        value = next(values, None)
        if found["key"] is not None:
            yield found["key"], value if isinstance(value, (int, float, str, type(None))) else str(value)


def split_mark(record: logging.LogRecord) -> tuple[str, str]:
    """Give a record's mark and the rest of its message. A warning or an error that has no mark gets `!`."""
    message = record.getMessage()
    if record.name == OUTPUT:
        return "|", message
    if message[:1] in MARKS and message[1:2] == " ":
        return message[0], message[2:]
    return ("!" if record.levelno >= logging.WARNING else " "), message


class _Lines(logging.Formatter):
    """What both shapes share: the name of the process, and the secrets that must not be logged."""

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
    """`12:03:44.120 info    3/4711        = ready`: for people."""

    def __init__(self, who: str, secrets: Iterable[str | None] = (), *, coloured: bool, date: bool) -> None:
        super().__init__(who, secrets)
        self._coloured, self._form = coloured, "%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """Make the line, and the lines of a traceback after it."""
        mark, message = split_mark(record)
        when = f"{time.strftime(self._form, time.localtime(record.created))}.{int(record.msecs):03d}"
        level = record.levelname.lower().ljust(7)
        who = f"{self.who}/{os.getpid()}".ljust(13)
        message = self._hide(message).translate(_CONTROL)
        if self._coloured:
            colour = _COLOURS.get(mark, "") if record.levelno < logging.ERROR else _RED
            line = f"{_DIM}{when} {level} {who}{_PLAIN} {colour}{mark}{_PLAIN} {message}"
        else:
            line = f"{when} {level} {who} {mark} {message}"
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
            "event": "output" if mark == "|" else MARKS.get(mark, "note"),
            "message": self._hide(message),
        }
        more = {**dict(fields_of(record)), **getattr(record, "fields", {})}
        for name, value in more.items():
            # `pid` in every line is that of the process which logs; another's, in the message, is `worker_pid`.
            key = f"worker_{name}" if name in fields else name
            fields[key] = self._hide(value) if isinstance(value, str) else value
        traceback = self._traceback(record)
        if traceback:
            fields["traceback"] = self._hide(traceback)
        return json.dumps(fields, ensure_ascii=False)
