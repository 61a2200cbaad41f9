"""
The servers that are measured, as processes: started, asked for their port, told apart by what they do, ended.

Runs in the bench's process. Each server is a context manager; inside the block it serves. A process is ended by its own
id, and only if it was started here. What a server prints goes to a file: nobody has to read a pipe empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.cpu import children, tree
from benchmarks.errors import Absent, RunFailed
from benchmarks.load import Dialect
from sticky.process.control import send_request

ROOT: Final = Path(__file__).resolve().parents[1]
BOOT_S: Final = 40.0
POLL_S: Final = 0.02
STOP_S: Final = 15.0


class Server:
    """
    One server, of one or more processes.

    Attributes:
        port: where it listens on 127.0.0.1, inside the block.
    """

    port: int
    stdin: int = subprocess.DEVNULL

    def __init__(self, argv: list[str], directory: Path, *, serves: str | tuple[str, ...] = "port ") -> None:
        """
        Args:
            argv: the command.
            directory: for its log and whatever else it writes.
            serves: it serves once it has printed this; `port N` says where.
        """
        self.argv = argv
        self.directory = directory
        self.cwd = ROOT
        self._serves = serves
        self._process: subprocess.Popen[bytes]
        self._log = directory / "log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.argv, cwd=self.cwd, stdin=self.stdin, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._learn_port(self.wait_for(self._serves))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _learn_port(self, line: str) -> None:
        self.port = int(line.split()[1])

    def wait_for(self, text: str | tuple[str, ...]) -> str:
        """
        Wait for a line with this text, or with one of several, and return it.

        Raises:
            RunFailed: it ended, or took too long.
        """
        wanted = (text,) if isinstance(text, str) else text
        give_up_at = time.monotonic() + BOOT_S
        while time.monotonic() < give_up_at:
            lines = self._log.read_text(errors="replace").splitlines(keepends=True)
            for line in lines:
                if any(each in line for each in wanted) and line.endswith("\n"):
                    return line
            if self._process.poll() is not None:
                raise RunFailed(f"{self.argv} ended", "".join(lines[-20:]))
            time.sleep(POLL_S)
        raise RunFailed(f"{self.argv} did not say {text!r} within {BOOT_S:g} s", self.log())

    def command(self) -> str:
        """Return how it was started, as one would write it in a clone, whatever the machine."""
        text = shlex.join(self.argv).replace(str(self.directory), "DIRECTORY")
        return text.replace(sys.executable, "python").replace(f"{ROOT}/", "")

    def log(self) -> str:
        """Return the end of what it printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def groups(self) -> dict[str, list[int]]:
        """Return its processes, by what they do: primary, workers, broker."""
        return {"workers": tree(self.pid)}

    def stop(self) -> None:
        """End it, and wait until it has."""
        left = tree(self.pid)[1:]
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in left:  # children of a server that was killed, or that does not end them
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Build:
    """One build of this project: its interpreter, and a directory that has no packages of another build."""

    name: str
    python: str
    directory: Path


TREE: Final = Build("", sys.executable, ROOT)
BUILD: Final = ContextVar("BUILD", default=TREE)
"""What `Ours` starts: the tree, or the revision of `--against`."""


class Ours(Server):
    """
    `realtime serve`, as a user starts it.

    Attributes:
        moves: whether a reload moves the connections; None where another revision decides that.
    """

    def __init__(self, directory: Path, *options: str, workers: int = 1, target: str = "benchmarks/app.py") -> None:
        self.workers = workers
        self.control = str(directory / "control.sock")
        build = BUILD.get()
        self.moves = "off" not in options if build is TREE else None  # of --migrate
        argv = [build.python, "-m", "realtime", "serve", str(ROOT / target), "--bind", "127.0.0.1:0"]
        argv += ["--workers", str(workers), "--control", self.control, "--drain", "5s"]
        argv += ["--commands-per-second", "0", *options]  # the load is one client
        # A line of a worker that is ready, as it is now and as it was in 0.1.
        super().__init__(argv, directory, serves=(f"ready={workers}/{workers}", f"({workers} of {workers})"))
        self.cwd = build.directory

    def _learn_port(self, line: str) -> None:
        [address] = self.ask("status")["addresses"]
        self.port = int(address.rpartition(":")[2])

    def ask(self, command: str) -> dict[str, Any]:
        """Have the primary do something."""
        return send_request(self.control, {"command": command})

    def groups(self) -> dict[str, list[int]]:
        status = self.ask("status")
        # A build without a keeper, or without a template, has the primary alone. What these cost is the primary's cost.
        helpers = [(status.get(name) or {}).get("pid") for name in ("keeper", "template")]
        return {
            "primary": [status["pid"], *filter(None, helpers)],
            "workers": [each["pid"] for each in status["workers"]],
            "broker": [each["pid"] for each in status.get("sidecars", status.get("children", ()))],
        }


class Clustered(Server):
    """A primary that accepts and its workers, one child each."""

    def groups(self) -> dict[str, list[int]]:
        workers = [pid for child in children(self.pid) for pid in tree(child)]
        return {"primary": [self.pid], "workers": workers}


class OnPort(Server):
    """A server that is told its port, and serves once somebody can connect as often as it has workers."""

    def __init__(self, argv: list[str], directory: Path, *, port: int, workers: int = 1) -> None:
        super().__init__(argv, directory)
        self.port = port
        self._workers = workers

    def _learn_port(self, line: str) -> None:
        pass

    def wait_for(self, text: str | tuple[str, ...]) -> str:
        give_up_at = time.monotonic() + BOOT_S
        while time.monotonic() < give_up_at:
            if self._process.poll() is not None:
                raise RunFailed(f"{self.argv} ended", self.log())
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                booted = self._log.read_text(errors="replace").count("Application startup complete")
                if self._workers == 1 or booted >= self._workers:
                    return str(text)
            time.sleep(POLL_S)
        raise RunFailed(f"{self.argv} does not listen within {BOOT_S:g} s", self.log())


class SelfDriven(Server):
    """A program that loads itself: it says `ready`, takes one line, and answers with one line of JSON."""

    stdin = subprocess.PIPE

    def _learn_port(self, line: str) -> None:
        self.port = 0

    def run(self, line: str) -> dict[str, Any]:
        """Have it do what a line says, once; return what it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.wait_for("{"))
        return answer

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        super().stop()


class Redis(Server):
    """A Redis of its own, that keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        port = free_port()
        argv = [redis_program(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([*argv, "--dir", str(directory)], directory, serves="Ready to accept connections")
        self.port = port

    def _learn_port(self, line: str) -> None:
        pass


class WithRedis:
    """A server and the Redis that it needs, which counts as its broker."""

    def __init__(self, redis: Redis, make: Callable[[int], Server]) -> None:
        self._redis = redis
        self._make = make
        self._server: Server
        self._stack: contextlib.ExitStack
        self.port = 0

    def __enter__(self) -> WithRedis:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._redis)
            self._server = stack.enter_context(self._make(self._redis.port))
            self._stack = stack.pop_all()
        self.port = self._server.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def inner(self) -> Server:
        return self._server

    def groups(self) -> dict[str, list[int]]:
        return {**self._server.groups(), "broker": [self._redis.pid]}

    def command(self) -> str:
        return self._server.command()

    def log(self) -> str:
        return self._server.log()


Running = Server | WithRedis


def redis_program() -> str:
    """
    Return the path of a Redis server.

    Raises:
        Absent: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    raise Absent("redis-server", "Debian, Ubuntu: apt install redis-server")


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago, for programs that cannot choose one themselves."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def rooms(channel: str, *, again: bool = False, called: bool = False) -> Dialect:
    """
    Return the Centrifuge protocol in JSON, for members of rooms `CHANNEL:N`.

    Args:
        channel: how the rooms' names begin.
        again: clients that return ask for what they missed.
        called: the server publishes, when a call asks it to, a whole burst at a time.
    """
    subscribe = f'{{"id":2,"subscribe":{{"channel":"{channel}:%r"}}}}'
    back = f'{{"id":2,"subscribe":{{"channel":"{channel}:%r","recover":true,"epoch":"%e","offset":%o}}}}'
    connect = '{"id":1,"connect":{}}\n'
    called_for = f'{{"id":%i,"rpc":{{"method":"burst","data":{{"room":"{channel}:%r","first":%s,"count":%n}}}}}}'
    return Dialect(
        path="/connection/websocket",
        greet=((connect + subscribe, '"subscribe":{'),),
        again=((connect + back, '"subscribe":{'),) if again else (),
        publication=called_for if called else f'{{"id":%i,"publish":{{"channel":"{channel}:%r","data":%d}}}}',
        ping="{}",
        pong="{}",
        lines=True,
        bursts=called,
    )


CALLS: Final = Dialect(
    path="/connection/websocket",
    greet=(('{"id":1,"connect":{}}', '"connect":{'),),
    publication='{"id":%i,"rpc":{"method":"echo","data":%d}}',
    ping="{}",
    pong="{}",
    lines=True,
)
PLAIN: Final = Dialect(path="/", greet=(('{"join":"r%r"}', '"joined"'),), publication="%d")
PLAIN_ECHO: Final = Dialect(path="/echo", publication="%d")
HTTP: Final = Dialect(
    path="/", protocol="http", publication="GET /?seq=%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
)


def socketio(*, presence: bool = False, echo: bool = False) -> Dialect:
    """Return Socket.IO over WebSocket (Engine.IO 4)."""
    opened = (("", "0{"), ("40", "40{"))
    join = f'42["join","r%r",{"true" if presence else "false"}]' if presence else '42["join","r%r"]'
    return Dialect(
        path="/socket.io/?EIO=4&transport=websocket",
        greet=opened if echo else (*opened, (join, '42["joined"')),
        publication='42["echo",%d]' if echo else '42["publish",%d]',
        ping="2",
        pong="3",
    )


@contextlib.contextmanager
def scratch(directory: Path, name: str) -> Iterator[Path]:
    """Give a directory for one server, removed afterwards."""
    made = directory / name
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
