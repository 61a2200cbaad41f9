"""
`RunningServer`: a real `realtime serve` for tests, with its log read as it comes.

The server runs in a process group of its own. A thread reads its output line by line, so that a test can wait for a
line instead of sleeping. Leaving the `with` block stops the server as an operator would (TERM), and then whatever is
left of its group. It never touches a process that it did not start.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from realtime.cli.banner import LISTENING
from realtime.cli.servers import CONTROL_SOCKET, directory_name
from realtime.settings import runtime_directory
from sticky.loop.log_lines import WORKER_READY
from sticky.process.control import send_request
from tests.support.log_lines import pattern

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0  # only a hang reaches it: a busy machine takes half a minute to start five workers
STOP_S = 20.0

ADDRESS_LINE = re.compile(re.escape(LISTENING.format(address="")) + r"(?P<url>https?://[^\s,\"]+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ServerFailed(AssertionError):
    """The server ended, or did not say what was waited for. Shows the end of its log."""

    def __init__(self, what: str, lines: list[str]) -> None:
        super().__init__(what)
        self.what = what
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join([self.what, "--- the server's log, its end ---", *self.lines[-60:]])


class Log:
    """The lines that a process printed so far, and a way to wait for one that it has not printed yet."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = False
        self._grown = threading.Condition()

    def read(self, stream: Iterator[str]) -> None:
        """Take lines until the stream ends. Runs in a thread of its own."""
        for line in stream:
            with self._grown:
                self.lines.append(COLOUR.sub("", line.rstrip("\n")))
                self._grown.notify_all()
        with self._grown:
            self.ended = True
            self._grown.notify_all()

    def mark(self) -> int:
        """Return where the log ends now, for `since`."""
        with self._grown:
            return len(self.lines)

    def wait_for(
        self, pattern: str | re.Pattern[str], *, since: int = 0, times: int = 1, deadline_s: float = DEADLINE_S
    ) -> re.Match[str]:
        """
        Wait for the first line at or after `since` that matches somewhere, or for so many; return the last of these.

        Raises:
            ServerFailed: the output ended, or the deadline passed, without such a line.
        """
        wanted = re.compile(pattern)
        give_up_at = time.monotonic() + deadline_s
        with self._grown:
            while True:
                for line in self.lines[since:]:
                    if match := wanted.search(line):
                        times -= 1
                        if not times:
                            return match
                since = max(since, len(self.lines))
                left_s = give_up_at - time.monotonic()
                if self.ended or left_s <= 0:
                    why = "the server's output ended" if self.ended else f"{deadline_s:g} s passed"
                    raise ServerFailed(f"{why} before a line matched {wanted.pattern!r}", self.lines)
                self._grown.wait(left_s)

    def find_all(self, pattern: str | re.Pattern[str]) -> list[re.Match[str]]:
        """Return the matches in the lines printed so far."""
        wanted = re.compile(pattern)
        with self._grown:
            return [match for line in self.lines if (match := wanted.search(line))]


class RunningServer:
    """
    `realtime serve` as a child process, listening on a free port of 127.0.0.1.

    Args:
        target: what `realtime serve` serves: `module:attr`, a file, or None for the stock application.
        options: further command-line arguments, e.g. `"--sticky", "ip"`.
        workers: how many.
        env: variables on top of this process's own, from which everything called `REALTIME_*` is taken out.
        cwd: the directory to start in.
        bind: an address with port 0, or None when `options` has its own.
        python: the interpreter of the server and its workers.
        pass_fds: descriptors that it inherits, under their numbers.

    Attributes:
        log: what it printed, `Log.wait_for` included.
        url: `http://host:port`, once `wait_until_listening` returned (as it has inside a `with` block).
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | None = None,
        *options: str,
        workers: int = 2,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        bind: str | None = "127.0.0.1:0",
        python: str = sys.executable,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = [python, "-m", "realtime", "serve"]
        if target is not None:
            self.argv.append(os.fspath(target))
        if bind is not None:
            self.argv += ["--bind", bind]
        self.argv += ["--workers", str(workers), *options]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
        paths = [str(ROOT), clean.get("PYTHONPATH", "")]
        clean |= {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        clean["PYTHONDONTWRITEBYTECODE"] = "1"  # tests write an application twice in a second
        clean["REALTIME_BOOT"] = "90s"  # a busy machine is no failure
        self.env = clean | dict(env or {})
        self.cwd = cwd or ROOT
        self._pass_fds = pass_fds
        self.log = Log()
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._primary = 0
        self._reader: threading.Thread | None = None

    # Its life

    def start(self) -> None:
        """Start it without waiting. The caller owes `stop`."""
        assert self._process is None, "a server is started once"
        self._process = subprocess.Popen(
            self.argv,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=self._pass_fds,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self.log.read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait_until_listening(self, *, deadline_s: float = DEADLINE_S) -> str:
        """Wait for the line with its address, and return the address. Some workers may still be starting."""
        self.url = self.log.wait_for(ADDRESS_LINE, deadline_s=deadline_s)["url"].rstrip("/")
        self._primary = self.keeper_pid
        if b"keeper.py" in Path(f"/proc/{self.keeper_pid}/cmdline").read_bytes():  # the release before has none
            self._primary = self.status()["pid"]
        return self.url

    def wait_until_full(self) -> None:
        """Wait until every worker serves."""
        self.log.wait_for(pattern(WORKER_READY, ready=r"(\d+)/\1"))

    def send_signal(self, number: signal.Signals) -> None:
        """Send the server a signal: its keeper passes it on to the primary."""
        self.process.send_signal(number)

    def wait(self, *, deadline_s: float = STOP_S) -> int:
        """Wait until the primary ended and all is read that it and its workers said; return its exit status."""
        try:
            status = self.process.wait(deadline_s)
            assert self._reader is not None
            self._reader.join(1)  # what outlives the primary may hold its output open
            return status
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server did not end within {deadline_s:g} s", self.log.lines) from None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, deadline_s: float = STOP_S) -> int:
        """
        Stop it, then end what is left of its process group. Harmless when it has ended.

        Returns:
            The primary's exit status; negative for a signal.
        """
        if self._process is None:
            return 0
        process = self._process
        try:
            if process.poll() is None:
                process.send_signal(number)
            return self.wait(deadline_s=deadline_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group that start_new_session made: ours alone
            process.wait()
            assert self._reader is not None
            self._reader.join(5)
            if process.stdout is not None and not self._reader.is_alive():
                process.stdout.close()

    def __enter__(self) -> RunningServer:
        self.start()
        try:
            self.wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            print("\n".join(["--- the server's log ---", *self.log.lines[-200:]]))
        self.stop()

    # What a test asks

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def pid(self) -> int:
        """The primary's, as it was when the server began to listen. `status()["pid"]` is today's."""
        return self._primary or self.process.pid

    @property
    def keeper_pid(self) -> int:
        """The keeper's: the process that was started."""
        return self.process.pid

    @property
    def directory(self) -> Path:
        """The control directory."""
        if "--control" in self.argv:
            control = Path(self.cwd, self.argv[self.argv.index("--control") + 1])
            return control.with_name(f"{control.name}.d")
        binds = [self.argv[at + 1] for at, each in enumerate(self.argv) if each == "--bind"]
        binds = binds or self.env.get("REALTIME_BIND", "").split()
        return runtime_directory() / directory_name(binds, self.keeper_pid)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def host(self) -> str:
        host = urlsplit(self.url).hostname
        assert host is not None
        return host

    @property
    def websocket_url(self) -> str:
        """Where clients of the Centrifuge protocol connect."""
        return f"ws{self.url.removeprefix('http')}/connection/websocket"

    @property
    def control(self) -> Path:
        """The control socket."""
        if "--control" in self.argv:
            return Path(self.cwd, self.argv[self.argv.index("--control") + 1])
        return self.directory / CONTROL_SOCKET

    def status(self) -> dict[str, Any]:
        """What the primary knows."""
        return send_request(self.control, {"command": "status"})

    def children(self) -> list[int]:
        """Return the pids of workers and local broker: children of the keeper or of the primary."""
        status = self.status()
        others = {status["pid"], *status.get("template", {}).values()}
        return sorted({*self._children_of(status["pid"]), *self._children_of(self.keeper_pid)} - others)

    @staticmethod
    def _children_of(pid: int) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                    if int(parent) == pid and state != "Z":
                        found.append(int(entry.name))
        return sorted(found)

    def local_broker(self) -> int:
        """Return the pid of the broker beside the workers, of a server without Redis."""
        [found] = [pid for pid in self.children() if b"local_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found
