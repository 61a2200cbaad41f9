"""
What the keeper says: lines of the log, and messages to the service manager.

Runs in the keeper. The lines have the form of the other processes' lines, as text or as JSON. It imports neither
`logging` nor `json`, which would be a third of the keeper's memory. Nothing here raises, and nothing here waits: a log
or a manager that takes nothing is no reason to stop serving.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

PRIMARY_LOST = "primary lost"
PRIMARY_STARTED = "primary started by the keeper"
PRIMARY_NOT_STARTED = "primary not started"
PRIMARY_RESTART_DELAYED = "primary restart delayed"
PRIMARY_SILENT = "primary silent"
PRIMARY_ADOPTED = "primary adopted by the keeper"
UPGRADE_STARTED = "upgrade started"
UPGRADE_FAILED = "upgrade given up"
UPGRADE_DONE = "upgrade done"
PRIMARY_AWAITED = "primary awaited by the keeper"
KEEPER_FAILED = "callback of the keeper failed"
KEEPER_GIVES_UP = "keeper gives up"

_ESCAPED = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", **{n: f"\\u{n:04x}" for n in range(32) if n != 10}}


def quoted(text: str) -> str:
    """Return a JSON string. A character that UTF-8 cannot encode is replaced."""
    return '"' + text.encode("utf-8", "replace").decode("utf-8").translate(_ESCAPED) + '"'


class Report:
    """The keeper's log, and its service manager if there is one."""

    def __init__(self, manager: str) -> None:
        """
        Args:
            manager: the address in `NOTIFY_SOCKET`; "" for no manager.
        """
        self.as_json = False
        self._manager = "\0" + manager[1:] if manager.startswith("@") else manager

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write one line to standard error: an event, then its fields as key=value."""
        given = {name: value for name, value in fields.items() if value is not None}
        words = [event, *(f"{name}={_shown(value)}" for name, value in given.items())]
        now = time.time()
        if self.as_json:
            when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
            known = {"time": when, "level": level, "process": "keeper", "logger": "sticky.keeper", "event": "note"}
            known["message"] = " ".join(words)
            pairs = [f'"pid": {os.getpid()}', *(f"{quoted(name)}: {quoted(text)}" for name, text in known.items())]
            for name, value in given.items():
                text = str(value) if isinstance(value, (int, float)) else quoted(str(value))
                pairs.append(f"{quoted(f'{event.split()[0]}_pid' if name == 'pid' else name)}: {text}")
            line = "{" + ", ".join(pairs) + "}"
        else:
            when = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"
            mark = " " if level == "info" else "!"
            line = f"{when} {level.ljust(7)} {f'keeper/{os.getpid()}'.ljust(13)} {mark} {' '.join(words)}"
        try:
            os.write(2, f"{line}\n".encode("utf-8", "replace"))
        except OSError:
            return  # nothing reads the log any more

    def failed(self) -> None:
        """Log the exception that is being handled, with the place where it was raised."""
        kind, error, at = sys.exc_info()
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = None if at is None else f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        self.log("error", KEEPER_FAILED, error=f"{kind.__name__ if kind else ''}: {error}", at=place)

    def notify(self, text: str) -> None:
        """Send a message to the service manager (sd_notify(3))."""
        if not self._manager:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(self._manager)
                sock.send(text.encode())
        except OSError:
            return  # the manager is away: the next message may reach it


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text and not any(each in text for each in ' "=\\\n\t') else quoted(text)


def describe_end(code: int) -> str:
    """Return how a process ended in words, from its exit status; negative for a signal."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
