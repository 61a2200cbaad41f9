"""
The servers that are measured: ours, as a user starts it, and a peer that does the same work by `websockets` alone.

Each runs in processes of its own and is ended by its process id. `python -m benchmarks.servers` is the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from sticky.control import ask

ROOT = Path(__file__).resolve().parents[1]


class Server(Protocol):
    """What a scenario needs to know of a server."""

    name: str
    port: int
    path: str
    greetings: tuple[bytes, ...]

    def groups(self) -> dict[str, list[int]]:
        """Return its processes, by what they do."""

    def publication(self, number: int, padding: str) -> bytes:
        """Return what a client sends to publish."""


class _Process:
    """A process that says on a line when it serves. Its output goes to a file: nobody has to read a pipe empty."""

    name: str

    def __init__(self, argv: list[str], directory: Path) -> None:
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.pid = self._process.pid

    def wait_for(self, text: str) -> str:
        """Wait for a line with this text, and return it."""
        while True:
            lines = self._log.read_text().splitlines(keepends=True)
            for line in lines:
                if text in line and line.endswith("\n"):
                    return line
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended:\n{''.join(lines)}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it, and wait until it has."""
        self._process.terminate()
        self._process.wait(30)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class Ours(_Process):
    """`realtime serve` with one open room that keeps nothing, as the peer's does."""

    name = "realtime"
    path = "/connection/websocket"

    def __init__(self, directory: Path, *, workers: int = 1) -> None:
        app = directory / "bench_app.py"
        app.write_text("from realtime import App\n\napp = App()\napp.room('bench', open=True)\n")
        self._control = str(directory / "control.sock")
        argv = [sys.executable, "-m", "realtime", "serve", str(app), "--bind", "127.0.0.1:0"]
        self._workers = workers
        super().__init__([*argv, "--workers", str(workers), "--control", self._control], directory)
        self.greetings: tuple[bytes, ...] = (
            b'{"id":1,"connect":{}}',
            b'{"id":2,"subscribe":{"channel":"bench"}}',
        )

    def __enter__(self) -> Ours:
        self.wait_for(f"({self._workers} of {self._workers})")
        [address] = ask(self._control, {"command": "status"})["addresses"]
        self.port = int(address.rpartition(":")[2])
        return self

    def groups(self) -> dict[str, list[int]]:
        status = ask(self._control, {"command": "status"})
        return {
            "primary": [status["pid"]],
            "workers": [each["pid"] for each in status["workers"]],
            "broker": [each["pid"] for each in status["children"]],
        }

    def publication(self, number: int, padding: str) -> bytes:
        return b'{"id":%d,"publish":{"channel":"bench","data":{"n":%d,"pad":"%b"}}}' % (
            number + 10,
            number,
            padding.encode(),
        )


class Peer(_Process):
    """`websockets`' asyncio server with its own `broadcast`: one process, one room, nothing else."""

    name = "websockets"
    path = "/"
    greetings: tuple[bytes, ...] = (b"hello",)

    def __init__(self, directory: Path) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.servers"], directory)

    def __enter__(self) -> Peer:
        self.port = int(self.wait_for("port").split()[1])
        return self

    def groups(self) -> dict[str, list[int]]:
        return {"workers": [self.pid]}

    def publication(self, number: int, padding: str) -> bytes:
        return b'{"n":%d,"pad":"%b"}' % (number, padding.encode())


async def _be_the_peer() -> None:
    members: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        members.add(connection)
        try:
            with contextlib.suppress(ConnectionClosed):
                async for message in connection:
                    if message == "hello":
                        await connection.send("welcome")
                    else:
                        broadcast(members, message)
        finally:
            members.discard(connection)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        [sock] = server.sockets
        print("port", sock.getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    try:
        asyncio.run(_be_the_peer())
    except KeyboardInterrupt:
        sys.exit(0)
