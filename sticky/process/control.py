"""
The control socket, over which `realtime status`, `reload`, `scale`, `drain` and `stop` reach the primary. Both ends.

A Unix stream socket of mode 0600: a user that may connect is one that may signal the primary. A request is one line of
JSON, so is the answer, and the connection is then closed. It does not know what requests mean: commands.py does.

The primary's end never waits for a client. One that has not sent a whole line within `REQUEST_S`, or has not taken the
answer within `ANSWER_S`, is dropped. At most `CLIENTS_MAX` are there at once; the oldest makes room for the newest.

**A client has one of three states**, and each has a way out of it by time:

    READING   its line is not whole            ─── after `REQUEST_S`: dropped
    ASKED     its answer is still to come      ─── no time: the answer comes, or the client goes
    WRITING   its answer is not taken whole    ─── after `ANSWER_S`: dropped

In ASKED the descriptor is not watched, so a client that goes is seen when the answer is written. Such clients count
towards `CLIENTS_MAX`, and the oldest is dropped for a new one: so they need no time of their own.
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
from sticky.loop.poller import READ, WRITE, Poller, Timer

REQUEST_MAX: Final = 64 * 1024
REQUEST_S: Final = 1.0  # for a whole request
ANSWER_S: Final = 10.0  # for the client to take its answer; `send_request` waits half as long
CLIENTS_MAX: Final = 32  # at once; above it the oldest is dropped, so that a stuck client never keeps another out
BACKLOG: Final = 16
REST_S: Final = 0.1  # without accepting, when no descriptor is left


class PendingAnswer:
    """An answer that is still to come. It is resolved once; what resolves it again changes nothing."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] | None = None
        self._on_resolved: Callable[[dict[str, Any]], None] | None = None

    def resolve(self, answer: dict[str, Any]) -> None:
        """Set the answer, and call what waits for it."""
        if self._answer is None:
            self._answer = answer
            if self._on_resolved is not None:
                self._on_resolved(answer)

    def when_resolved(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Have `callback` called with the answer, now or when it comes. One callback at most."""
        assert self._on_resolved is None, "one client waits for one answer"
        self._on_resolved = callback
        if self._answer is not None:
            callback(self._answer)


OnRequest = Callable[[dict[str, Any]], dict[str, Any] | PendingAnswer]


class ControlFailed(StickyError):
    """The primary could not be reached, or has refused."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class _ControlClient:
    """
    One connection, at the primary's end.

    `fd` is kept beside the socket: a socket that is closed has lost its number, and `_clients` is by number. An answer
    that comes late finds the client by it, and compares the object: the kernel may have given the number to another.
    """

    __slots__ = ("deadline", "fd", "received", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.received = bytearray()
        self.unsent = memoryview(b"")  # of the answer
        self.deadline: Timer | None = None


class ControlServer:
    """The primary's end. Holds the socket and its file; `close` removes both."""

    def __init__(self, poller: Poller, path: str, on_request: OnRequest) -> None:
        """
        Make the socket and begin to accept.

        Args:
            on_request: called with each request; returns the answer. What it raises is logged, and answered as such.

        Raises:
            SettingsError: the socket cannot be made there.
        """
        self._poller = poller
        self._path = path
        self._on_request = on_request
        self._clients: dict[int, _ControlClient] = {}  # in the order in which they came
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        before = os.umask(0o177)  # for `bind`: between a bind and a chmod, others could connect
        try:
            # Of a primary that was killed: the lock of the control directory says that no other primary lives.
            if Path(path).is_socket():
                os.unlink(path)
            self._listener.bind(path)
        except OSError as error:  # one that Python raises itself, for a path that is too long, has no strerror
            self._listener.close()
            raise SettingsError("control", f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self._listener.listen(BACKLOG)
        self._watch_listener()

    def _accept(self, events: int) -> None:
        """Accept what waits, at most as many as the backlog holds: the loop's other callbacks have their turn."""
        for _ in range(BACKLOG):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left: trying again at once would be a busy loop
                self._poller.forget(self._listener.fileno())
                self._poller.after(REST_S, self._watch_listener)
                return
            self._begin(_ControlClient(sock))

    def _begin(self, client: _ControlClient) -> None:
        """Read from a new client. Where that makes too many, the oldest is dropped first."""
        client.sock.setblocking(False)
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(next(iter(self._clients.values())))
        self._clients[client.fd] = client
        assert len(self._clients) <= CLIENTS_MAX, "stuck clients would take all descriptors"
        self._poller.watch(
            client.fd, READ, lambda events: self._read(client, events), on_failed=lambda: self._drop(client)
        )
        client.deadline = self._poller.after(REQUEST_S, lambda: self._drop(client))

    def _watch_listener(self) -> None:
        """Accept, now or again after a rest. Does nothing after `close`, which may come during the rest."""
        if self._listener.fileno() >= 0:
            self._poller.watch(self._listener.fileno(), READ, self._accept, on_failed=lambda: None)

    def _read(self, client: _ControlClient, events: int) -> None:
        """
        Take what a client has sent, and handle its line once that is whole. A client that closes its half first is
        dropped, and so is one that sends more than a request can be.
        """
        try:
            client.received += client.sock.recv(REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        line, newline, _ = bytes(client.received).partition(b"\n")
        if newline:
            self._stop_waiting(client)
            self._handle(client, line)
        elif events & ~READ or len(client.received) >= REQUEST_MAX or not client.received:
            self._drop(client)

    def _handle(self, client: _ControlClient, line: bytes) -> None:
        """Have a request answered, now or later. A fault of ours is an answer too: the primary goes on."""
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            answer: dict[str, Any] | PendingAnswer = {"error": f"not a request: {error}"}
        else:
            try:
                answer = self._on_request(request)
            except Exception:  # noqa: BLE001 - `failed` logs it
                self._poller.failed()
                answer = {"error": "an error in the server: its log has it"}
        if isinstance(answer, PendingAnswer):
            answer.when_resolved(lambda answer: self._reply(client, answer))
        else:
            self._reply(client, answer)

    def _reply(self, client: _ControlClient, answer: dict[str, Any]) -> None:
        """Write the answer: as much as fits now, and the rest when the client has read."""
        if self._clients.get(client.fd) is not client:
            return  # dropped meanwhile
        assert not client.unsent, "a client gets one answer"
        try:
            client.unsent = memoryview(msgspec.json.encode(answer) + b"\n")
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(lambda: self._drop(client))
            return
        if self._send(client):
            self._drop(client)
        else:
            self._poller.watch(
                client.fd, WRITE, lambda events: self._send_on(client), on_failed=lambda: self._drop(client)
            )
            client.deadline = self._poller.after(ANSWER_S, lambda: self._drop(client))

    def _send_on(self, client: _ControlClient) -> None:
        if self._send(client):
            self._drop(client)

    @staticmethod
    def _send(client: _ControlClient) -> bool:
        """Send as much as the client takes now. Return whether nothing more is to be sent: it has all, or is gone."""
        try:
            while client.unsent:
                client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except BlockingIOError:
            return False
        except OSError:
            client.unsent = memoryview(b"")  # the client is gone
        return True

    def _stop_waiting(self, client: _ControlClient) -> None:
        if client.deadline is not None:
            client.deadline.cancel()
        self._poller.forget(client.fd)

    def _drop(self, client: _ControlClient) -> None:
        """Let a client go. Harmless for one that is gone: a timer and a callback may both ask for it."""
        if self._clients.get(client.fd) is client:
            del self._clients[client.fd]
            self._stop_waiting(client)
            client.sock.close()

    def close(self, *, is_released: bool = False) -> None:
        """
        Stop answering, and remove the socket's file.

        Args:
            is_released: the file is a successor's by now. It stays.
        """
        self._poller.forget(self._listener.fileno())
        self._listener.close()
        for client in list(self._clients.values()):
            self._drop(client)
        if not is_released:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


# The other end: in the process of a command.


def send_request(path: str | os.PathLike[str], request: dict[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """
    Send a request to the primary whose control socket is at `path`, and return its answer. For commands: it waits.

    Raises:
        ControlFailed: no server answers there, or the primary refused; the text says which.
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
