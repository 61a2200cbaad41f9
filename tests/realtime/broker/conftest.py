"""
The brokers under test: memory; the local broker's process; fakeredis, which needs no program; a real Redis; and a
real Redis Cluster of three masters.

`place` is any of them, `shared` any that several workers share. One process of each serves the whole run: every test
has names of its own in it. What a test breaks is its own: `local` and `redis`.

fakeredis answers on a socket of its own. It closes a connection after every reply that is an error, which Redis does
not do, so that a script that is not known could never be sent: it is given the scripts beforehand. That they are sent
when needed is shown with the real Redis.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from fakeredis._commands import command
from fakeredis.commands_mixins.server_mixin import ServerCommandsMixin

from realtime.broker import scripts
from realtime.broker.local_command import LOCAL_STOP_SIGNAL
from tests.realtime.broker.workers import Place
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.require import require

# Few machines have Valkey, and where Redis is required nothing may be skipped: its file is for those that have it.
collect_ignore = [] if shutil.which("valkey-server") else ["test_valkey.py"]

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = [each for each in vars(scripts).values() if isinstance(each, scripts.Script)]


class LocalProcess:
    """The local broker's process, started as the primary starts it; `lease_s` makes it less patient than it is."""

    def __init__(self, directory: Path, *, lease_s: float | None = None) -> None:
        self.path = str(directory / "broker.sock")
        self.url = f"local:{self.path}"
        self._lease_s = lease_s
        self.process: subprocess.Popen[bytes] | None = None
        self._alive: socket.socket | None = None  # the primary's end of the liveness socket

    def start(self) -> None:
        """Start it, and wait until it says that it serves."""
        ours, theirs = socket.socketpair()
        write = theirs.fileno()
        program = ["-m", "realtime.broker.local_process"]
        if self._lease_s is not None:
            imports = "import realtime.broker.local_server as s, realtime.broker.local_process as p"
            program = ["-c", f"{imports}; s.LEASE_S = {self._lease_s}; p.main()"]
        argv = [sys.executable, *program, "--socket", self.path, "--ready-fd", str(write)]
        self.process = subprocess.Popen(argv, pass_fds=[write], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        theirs.close()
        if self._alive is not None:
            self._alive.close()
        self._alive = ours
        assert ours.recv(1), "the local broker ended at once"

    def adopt(self, process: subprocess.Popen[bytes], alive: socket.socket) -> None:
        """Go on with a successor, and the primary's end of its liveness socket. The process before it has ended."""
        assert self._alive is not None, "started"
        self._alive.close()
        self.process, self._alive = process, alive

    @property
    def has_socket(self) -> bool:
        return Path(self.path).is_socket()

    def kill(self) -> None:
        """Have it die of -9."""
        assert self.process is not None, "started"
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as the primary does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(LOCAL_STOP_SIGNAL)
            self.process.send_signal(signal.SIGCONT)  # a test may have stopped it
            self.process.wait()
        if self._alive is not None:
            self._alive.close()
            self._alive = None


@pytest.fixture(scope="session")
def local_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = LocalProcess(tmp_path_factory.mktemp("b"))
    process.start()
    yield process.url
    process.stop()


def info(self: Any, *sections: bytes) -> bytes:
    """Answer INFO, which fakeredis does not know, as far as a broker asks."""
    return b"# Server\r\nrun_id:fake\r\n"


ServerCommandsMixin.info = command((), (bytes,), name="info")(info)


@pytest.fixture(scope="session")
def fakeredis_url() -> Iterator[str]:
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    known = fakeredis.FakeStrictRedis(server=server.fake_server)
    for script in SCRIPTS:
        known.script_load(script.text)
    known.close()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    require("redis")
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    require("redis")
    with RedisCluster() as cluster:
        yield cluster.url


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    """Return the place of that kind; what is missing on this machine is skipped."""
    return Place(kind, "memory:" if kind == "memory" else request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(params=["memory", "local", "fakeredis", "redis", "cluster"])
def place(request: pytest.FixtureRequest) -> Place:
    """Any broker."""
    return place_of(request.param, request)


@pytest.fixture(params=["local", "fakeredis", "redis", "cluster"])
def shared(request: pytest.FixtureRequest) -> Place:
    """Any broker that several workers share."""
    return place_of(request.param, request)


# For a test that breaks what it is given


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProcess]:
    """A local broker of the test's own."""
    process = LocalProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    require("redis")
    with RedisServer() as server:
        yield server
