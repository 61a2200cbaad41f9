"""
Drives the load client, `native/load.c`: one process, told what to do line by line.

Runs in the bench's process. A `Dialect` is what a server wants to hear: greetings, answers to pings, how a publication
is written. It never reads a clock of a server; who measures does that before and after a command.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from benchmarks.compile import program
from benchmarks.cpu import spent_ns
from benchmarks.errors import RunFailed

Report = dict[str, Any]
Step = tuple[str, str]  # what is said, and what an answer has to hold; each may be empty


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server wants to hear; the templates are explained in native/load.c."""

    path: str
    publication: str
    greet: tuple[Step, ...] = ()
    again: tuple[Step, ...] = ()
    ping: str = ""
    pong: str = ""
    lines: bool = False
    bursts: bool = False
    protocol: str = "websocket"
    deflate: bool = False
    """Offer compression, and inflate what comes; needs `compile.zlib_flags`."""

    def settings(self) -> list[str]:
        """Return the lines that tell the load client of it."""
        told = [
            f"set path {_written(self.path)}",
            f"set protocol {self.protocol}",
            f"set lines {int(self.lines)}",
            f"set bursts {int(self.bursts)}",
            f"set deflate {int(self.deflate)}",
            f"publication {_written(self.publication)}",
        ]
        if self.ping:
            told += [f"set ping {_written(self.ping)}", f"set pong {_written(self.pong)}"]
        told += [f"greet {_written(text)}\t{_written(expected)}" for text, expected in self.greet]
        return told + [f"again {_written(text)}\t{_written(expected)}" for text, expected in self.again]


def _written(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


class Load:
    """One load client, and all the connections of one run. Leave the `with` block to end it."""

    def __init__(self, dialect: Dialect, port: int, *, reconnect_ms: int | None = None) -> None:
        """
        Args:
            dialect: what the server wants to hear.
            port: where it listens, on 127.0.0.1.
            reconnect_ms: clients that the server closes come back within this time; without, that is a fault.
        """
        self._process = subprocess.Popen(
            [str(program("load"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._say(f"set port {port}")
        for line in dialect.settings():
            self._say(line)
        if reconnect_ms is not None:
            self._say(f"set reconnect_ms {reconnect_ms}")

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        assert "\n" not in line, line
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._raise()

    def begin(self, command: str, options: Mapping[str, float | str] | None = None) -> None:
        """Have a command begun. The caller owes `finish`."""
        self._say(" ".join([command, *[f"{name}={value}" for name, value in (options or {}).items()]]))

    def stop(self) -> None:
        """Have a `publish` that was begun end before all of its count was due. The caller still owes `finish`."""
        self._say("stop")

    def finish(self) -> Report:
        """
        Wait for the end of the command that was begun, and return what it tells.

        Raises:
            RunFailed: the load client ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._raise()
        report: Report = json.loads(line)
        return report

    def _raise(self) -> None:
        assert self._process.stderr is not None
        raise RunFailed("the load client ended", self._process.stderr.read())

    def __call__(self, command: str, **options: float | str) -> Report:
        """Have a command done: `open`, `publish`, `storm` or `report`."""
        self.begin(command, options)
        return self.finish()

    def used_s(self) -> float:
        """Return the load client's own processor time so far."""
        return spent_ns(self.pid) / 1e9


MUST_BE_ZERO: Final = ("doubled", "reordered", "strange", "closed", "refused", "errors")


def faults(report: Report, *, ready: int, may_lose: bool = False) -> list[str]:
    """
    Say what is wrong with a ledger.

    Args:
        report: the last one of a run.
        ready: how many clients must be there.
        may_lose: what clients missed while they were away is no fault: a server that promises nothing of the kind.
    """
    found = [f"{report[name]} {name}" for name in MUST_BE_ZERO if report[name]]
    if not may_lose:
        found += [f"{report[name]} {name}" for name in ("lost", "undelivered") if report[name]]
    if report["ready"] != ready:
        found.append(f"{report['ready']} clients of {ready}")
    if found and report["first_error"]:
        found.append(report["first_error"])
    return found
