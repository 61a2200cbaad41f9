"""
A TCP relay that gives its connections another source address.

A browser cannot choose the address it comes from, and on the loopback it is always 127.0.0.1. Through a relay of its
own each page comes from 127.x.y.z, so that `--sticky ip` takes two pages for two clients. Bytes pass as they are.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

CHUNK = 65536
DEADLINE_S = 60.0


class Relay:
    """
    Listens on a free port of 127.0.0.1, and connects to `port` of `host` from the address `source`. What it carries
    takes `delay_s` each way, for a test of what a slow network does.
    """

    def __init__(self, port: int, source: str, *, delay_s: float = 0.0, host: str = "127.0.0.1") -> None:
        self.source = source
        self._host = host
        self._delay_s = delay_s
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._passes = threading.Event()
        self._passes.set()

    @property
    def url(self) -> str:
        """Where a browser finds the server through this relay."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Relay:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._passes.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def swallow(self) -> None:
        """Let nothing through any more, and tell nobody: no end, no reset."""
        self._passes.clear()

    def release(self) -> None:
        """End `swallow`: what was on its way arrives."""
        self._passes.set()

    def cut(self) -> None:
        """Break every connection that passes now; the next ones pass again."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _spawn(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection((self._host, self._port), DEADLINE_S, (self.source, 0))
            except OSError:
                near.close()  # as the server refused us, so do we
                continue
            far.settimeout(None)
            with self._lock:
                self._sockets |= {near, far}
            ends = _Ends(2)
            self._spawn(self._carry, near, far, ends)
            self._spawn(self._carry, far, near, ends)

    def _carry(self, here: socket.socket, there: socket.socket, ends: _Ends) -> None:
        """Carry bytes one way until they end. Whoever ends last closes both sockets."""
        with contextlib.suppress(OSError):
            while data := here.recv(CHUNK):
                if self._delay_s:
                    threading.Event().wait(self._delay_s)
                self._passes.wait()
                there.sendall(data)
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_WR)
        if ends.is_last():
            with self._lock:
                self._sockets -= {here, there}
            here.close()
            there.close()


class _Ends:
    """Counts down what has ended."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def is_last(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0
