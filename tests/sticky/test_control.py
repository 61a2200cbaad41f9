"""The primary's end of the control socket, alone with a poller whose time a test moves."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.poller import Poller
from sticky.process.control import ANSWER_S, CLIENTS_MAX, REQUEST_S, ControlServer, PendingAnswer

LARGE = "x" * 4_000_000  # far more than a socket holds


class Control:
    """A server, and clients of it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.now = 100.0
        self.poller = Poller(lambda: self.now)
        self.later = PendingAnswer()
        self.server = ControlServer(self.poller, self.path, self.answer)
        self.clients: list[socket.socket] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | PendingAnswer:
        return self.later if request["command"] == "later" else {"text": LARGE if request["command"] == "large" else ""}

    def connect(self, request: bytes = b"") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.setblocking(False)
        sock.sendall(request)
        self.clients.append(sock)
        self.turn()
        return sock

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and the primary's loop do all that is due."""
        self.now += seconds
        self.poller.after(0, lambda: None)  # so it waits for nothing
        self.poller.run_once()
        self.poller.after(0, lambda: None)
        self.poller.run_once()

    def read(self, sock: socket.socket) -> tuple[bytes, bool]:
        """Read what there is, while the primary's loop turns. Return it, and whether that was the end."""
        received = bytearray()
        while True:
            try:
                data = sock.recv(1 << 20)
            except BlockingIOError:
                return bytes(received), False
            except ConnectionResetError:
                return bytes(received), True
            if not data:
                return bytes(received), True
            received += data
            self.turn()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    found = Control(tmp_path / "c")
    yield found
    found.server.close()
    found.poller.close()
    for sock in found.clients:
        sock.close()


LARGE_ONE = b'{"command": "large"}\n'
SMALL_ONE = b'{"command": "small"}\n'


def test_an_answer_goes_as_it_is_taken_and_others_are_answered_meanwhile(control: Control) -> None:
    slow = control.connect(LARGE_ONE)
    assert control.read(control.connect(SMALL_ONE)) == (b'{"text":""}\n', True)
    received, ended = control.read(slow)
    assert (len(json.loads(received)["text"]), ended) == (len(LARGE), True)


def test_a_client_that_does_not_take_its_answer_is_dropped_in_the_end(control: Control) -> None:
    slow, slower = control.connect(LARGE_ONE), control.connect(LARGE_ONE)
    control.turn(ANSWER_S - 0.1)
    received, ended = control.read(slow)
    assert (len(json.loads(received)["text"]), ended) == (len(LARGE), True)
    control.turn(0.2)
    received, ended = control.read(slower)
    assert ended
    assert 0 < len(received) < len(LARGE)


def test_a_client_without_a_whole_request_is_dropped(control: Control) -> None:
    silent, half = control.connect(), control.connect(SMALL_ONE[:-1])
    control.turn(REQUEST_S - 0.1)
    assert [control.read(sock) for sock in (silent, half)] == [(b"", False)] * 2
    control.turn(0.2)
    assert [control.read(sock) for sock in (silent, half)] == [(b"", True)] * 2


def test_the_first_makes_room_where_too_many_are_there(control: Control) -> None:
    first = control.connect(b'{"command": "later"}\n')
    slow = [control.connect(LARGE_ONE) for _ in range(CLIENTS_MAX)]
    assert control.read(first) == (b"", True)
    control.later.resolve({})  # its client was dropped
    assert control.read(control.connect(SMALL_ONE)) == (b'{"text":""}\n', True)
    received, ended = control.read(slow[-1])
    assert (len(json.loads(received)["text"]), ended) == (len(LARGE), True)


def test_a_client_that_is_gone_is_forgotten(control: Control) -> None:
    control.connect(LARGE_ONE).close()
    control.connect(SMALL_ONE[:5]).close()
    later = control.connect(b'{"command": "later"}\n')
    later.close()
    control.turn()
    control.later.resolve({"text": LARGE})
    control.turn()
    assert control.read(control.connect(SMALL_ONE)) == (b'{"text":""}\n', True)
