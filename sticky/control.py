"""
The control socket: how `realtime status`, `reload`, `scale`, `drain` and `stop` talk to the primary. Both ends.

A Unix stream socket of mode 0600: who may connect is who may signal the primary. A request is one line of JSON, so is
the answer, and the connection is then closed. The primary's end never waits for a client: what is not a whole line
within a second is dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from sticky.errors import SettingsError, StickyError
from sticky.poller import READ, Poller

REQUEST_MAX: Final = 64 * 1024
PATIENCE_S: Final = 1.0


class Later:
    """An answer that is still to come: somebody has it, and will `give` it."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] | None = None
        self._then: Callable[[dict[str, Any]], None] | None = None

    def give(self, answer: dict[str, Any]) -> None:
        """Give the answer. Only the first counts."""
        if self._answer is None:
            self._answer = answer
            if self._then is not None:
                self._then(answer)

    def then(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Have the answer taken, now or when it comes."""
        self._then = take
        if self._answer is not None:
            take(self._answer)


Answer = Callable[[dict[str, Any]], dict[str, Any] | Later]


class ControlFailed(StickyError):
    """The primary could not be asked, or said no."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class ControlServer:
    """The primary's end. Holds the socket and its file; `close` removes both."""

    def __init__(self, poller: Poller, path: str, answer: Answer) -> None:
        """
        Raises:
            SettingsError: the socket cannot be made there.
        """
        self._poller = poller
        self._path = path
        self._answer = answer
        self._clients: dict[int, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        before = os.umask(0o177)
        try:
            if Path(path).is_socket():
                os.unlink(path)
            self._listener.bind(path)
        except OSError as error:  # one that Python raises itself, for a path that is too long, has no strerror
            self._listener.close()
            raise SettingsError("control", f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self._listener.listen(16)
        poller.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # gone already, or no descriptor is left: it will ask again
        client.setblocking(False)
        fd, received = client.fileno(), bytearray()
        self._clients[fd] = client

        def read(events: int) -> None:
            try:
                received.extend(client.recv(REQUEST_MAX))
            except BlockingIOError:
                return
            except OSError:
                self._drop(fd, client)
                return
            if b"\n" in received:
                patience.cancel()
                self._poller.forget(fd)
                self._take(fd, client, bytes(received).partition(b"\n")[0])
            elif events & ~READ or len(received) >= REQUEST_MAX:
                self._drop(fd, client)

        self._poller.watch(fd, READ, read)
        patience = self._poller.after(PATIENCE_S, lambda: self._drop(fd, client))

    def _take(self, fd: int, client: socket.socket, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            answer: dict[str, Any] | Later = {"error": f"not a request: {error}"}
        else:
            answer = self._answer(request)
        if isinstance(answer, Later):
            answer.then(lambda answer: self._reply(fd, client, answer))
        else:
            self._reply(fd, client, answer)

    def _reply(self, fd: int, client: socket.socket, answer: dict[str, Any]) -> None:
        if self._clients.get(fd) is not client:
            return  # we have closed meanwhile
        client.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            client.sendall(msgspec.json.encode(answer) + b"\n")
        self._drop(fd, client)

    def _drop(self, fd: int, client: socket.socket) -> None:
        if self._clients.get(fd) is client:
            del self._clients[fd]
            self._poller.forget(fd)
            client.close()

    def close(self) -> None:
        """Stop answering, and remove the socket's file."""
        self._poller.forget(self._listener.fileno())
        self._listener.close()
        for fd, client in list(self._clients.items()):
            self._drop(fd, client)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def ask(path: str | os.PathLike[str], request: dict[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """
    Ask the primary whose control socket is at `path`, and return its answer.

    Raises:
        ControlFailed: nobody answers there, or the primary refused; the text says which.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline()
        except OSError as error:
            raise ControlFailed(f"no server answers at {path} ({error.strerror or error})") from error
    if not line:
        raise ControlFailed(f"the server at {path} closed the connection without an answer")
    answer = msgspec.json.decode(line, type=dict[str, Any])
    if "error" in answer:
        raise ControlFailed(str(answer["error"]))
    return answer
