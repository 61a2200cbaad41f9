"""Other programs that a test starts: a port for them, and waiting until they serve."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


def free_port() -> int:
    """Return a port below those that the system gives to clients: whoever tries it cannot meet himself there."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def process(argv: list[str], directory: str | Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as running:
        try:
            while not ready():
                assert running.poll() is None, f"{argv[0]} ended"
                threading.Event().wait(0.02)
            yield running
        finally:
            running.terminate()


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
