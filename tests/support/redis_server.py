"""
A real Redis for tests: `redis-server` on a Unix socket in a directory of its own, stopped by its process id.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

DEADLINE_S = 60.0


class RedisServer:
    """One Redis. `url` says where it is; it stays the same over a restart, which begins with nothing."""

    def __init__(
        self,
        port: int = 0,
        *,
        is_durable: bool = False,
        tls: Sequence[str] = (),
        options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        """
        Args:
            port: beside the Unix socket; none unless given.
            is_durable: what is acknowledged is on the disk, and there again after a restart.
            tls: options that name its certificate; then TLS is all that is spoken on the port, also among servers.
            options: more of the command line.
            program: the server; the first of Redis and Valkey that is on PATH unless given.
        """
        self.port = port
        self._is_durable = is_durable
        self._options = tuple(options)
        self._listening = ["--port", str(port)]
        if tls:
            self._listening = ["--port", "0", "--tls-port", str(port), "--tls-replication", "yes", *tls]
        self.program = program or shutil.which("redis-server") or shutil.which("valkey-server") or "redis-server"
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        self.path = str(Path(self._directory.name, "redis.sock"))
        self.url = f"unix://{self.path}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, greeting: bytes = b"+PONG") -> None:
        """Start it, with more options, and wait until it answers so. It is empty, unless it is durable."""
        argv = [self.program, *self._listening, "--unixsocket", self.path, "--save", ""]
        argv += ["--appendonly", "yes", "--appendfsync", "always"] if self._is_durable else ["--appendonly", "no"]
        log = Path(self._directory.name, "log")
        with log.open("wb") as output:
            argv += ["--dir", self._directory.name, "--repl-diskless-sync-delay", "0", *self._options, *more]
            self.process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
        give_up_at = time.monotonic() + DEADLINE_S
        while not self._answers(greeting):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, "redis-server does not answer"
            threading.Event().wait(0.02)

    def _answers(self, greeting: bytes) -> bool:
        with contextlib.suppress(OSError):
            return self.command("PING").startswith(greeting)
        return False

    def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own; return the beginning of the reply as it came."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(self.path)
            return _command(sock, words)

    def follows(self, master: RedisServer) -> bool:
        """Say whether this replica has everything. (WAIT would count only what its own connection wrote.)"""
        if b"master_link_status:up" not in self.command("INFO", "replication"):
            return False
        return self._replicated(b"slave_repl_offset") == master._replicated(b"master_repl_offset")

    def _replicated(self, name: bytes) -> int | None:
        """Return a place in the stream of replication, as this server says it."""
        found = re.search(name + rb":(\d+)", self.command("INFO", "replication"))
        return int(found[1]) if found else None

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            Path(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """End it, and remove its directory."""
        self.stop()
        self._directory.cleanup()

    def restart(self) -> None:
        """Lose everything, and be there again."""
        self.stop()
        self.start()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def command_at(port: int, *words: str) -> bytes:
    """Send one command to whatever listens on a port of 127.0.0.1; return the beginning of the reply as it came."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as sock:
        return _command(sock, words)


def _command(sock: socket.socket, words: Sequence[str]) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words]
    sock.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
    return sock.recv(65536)
