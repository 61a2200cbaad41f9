"""
Raw clients of Socket.IO, and one of the Centrifuge protocol, for tests with real servers: bytes in, bytes out. They
block, and answer the server's pings; everything else is the test's.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

DEADLINE_S = 60.0  # only a hang reaches it


class SocketIOClient:
    """A client over a WebSocket. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        """`url`: `http://host:port` of the server."""
        self._url = f"ws{url.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
        self._stack = contextlib.ExitStack()
        self._socket: ClientConnection
        self.ids: dict[str, str] = {}
        self._waiting: list[str | bytes] = []
        self._numbers = itertools.count()

    def __enter__(self) -> SocketIOClient:
        self._socket = self._stack.enter_context(connect(self._url, max_size=None, open_timeout=DEADLINE_S))
        opened = self._socket.recv(timeout=DEADLINE_S)
        assert isinstance(opened, str)
        self.opened = json.loads(opened.removeprefix("0"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def say(self, *messages: str | bytes) -> None:
        """Send messages: a text without the digit of Engine.IO, an attachment as bytes."""
        for message in messages:
            self._socket.send(message if isinstance(message, bytes) else f"4{message}")

    def _receive(self) -> str | bytes:
        while True:
            try:
                message = self._socket.recv(timeout=DEADLINE_S)
            except ConnectionClosed:
                return ""
            if message != "2":
                return message
            self._socket.send("3")

    def next(self) -> str | bytes:
        """Return the next message, with the digit of Engine.IO; "" is the end of the connection."""
        return self._waiting.pop(0) if self._waiting else self._receive()

    def join(self, namespace: str = "/", auth: Any = None) -> str:
        """Connect to a namespace, and return the id there."""
        head = "" if namespace == "/" else f"{namespace},"
        self.say(f"0{head}{'' if auth is None else json.dumps(auth)}")
        answer = str(self.next())
        assert answer.startswith(f"40{head}{{"), answer
        self.ids[namespace] = json.loads(answer.removeprefix(f"40{head}"))["sid"]
        return self.ids[namespace]

    def ask(self, *event: Any) -> list[Any]:
        """Send an event, and return the arguments of its acknowledgement. What comes before waits for `next`."""
        number = next(self._numbers)
        self.say(f"2{number}{json.dumps(event)}")
        while True:
            message = self._receive()
            assert message, "the connection ended before the acknowledgement"
            if isinstance(message, str) and message.startswith(f"43{number}["):
                arguments: list[Any] = json.loads(message.removeprefix(f"43{number}"))
                return arguments
            self._waiting.append(message)

    def event(self) -> list[Any]:
        """Return the next event, which has no attachments: its name and arguments."""
        message = str(self.next())
        assert message.startswith("42["), message
        found: list[Any] = json.loads(message[2:])
        return found


class PollingClient:
    """A client that polls, each request on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._waiting: list[str] = []
        self.sid = json.loads(self._request("GET")[0].removeprefix("0"))["sid"]

    def _request(self, method: str, body: str | None = None) -> list[str]:
        sid = f"&sid={quote(self.sid)}" if hasattr(self, "sid") else ""
        connection = http.client.HTTPConnection(self._host, timeout=DEADLINE_S)
        connection.request(method, f"/socket.io/?EIO=4&transport=polling{sid}", None if body is None else body.encode())
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return text.split("\x1e")

    def say(self, message: str) -> None:
        """Send a message, without the digit of Engine.IO."""
        assert self._request("POST", f"4{message}") == ["ok"]

    def next(self) -> str:
        """Return the next message, with the digit of Engine.IO."""
        while not self._waiting:
            for packet in self._request("GET"):
                if packet == "2":
                    assert self._request("POST", "3") == ["ok"]
                else:
                    self._waiting.append(packet)
        return self._waiting.pop(0)


class CentrifugeClient:
    """A client of the Centrifuge protocol in JSON. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = f"ws{url.removeprefix('http')}/connection/websocket"
        self._stack = contextlib.ExitStack()
        self._socket: ClientConnection
        self._waiting: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> CentrifugeClient:
        self._socket = self._stack.enter_context(connect(self._url, open_timeout=DEADLINE_S))
        self.ask("connect")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _receive(self) -> list[dict[str, Any]]:
        replies = [json.loads(line) for line in str(self._socket.recv(timeout=DEADLINE_S)).splitlines()]
        if {} in replies:
            self._socket.send("{}")
        return list(filter(None, replies))

    def ask(self, method: str, **fields: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, method: fields}))
        while True:
            replies = self._receive()
            self._waiting += [each for each in replies if each.get("id") != number]
            for each in replies:
                if each.get("id") == number:
                    result: dict[str, Any] = each[method]
                    return result

    def publication(self) -> Any:
        """Return the data of the next publication."""
        while True:
            while self._waiting:
                push = self._waiting.pop(0).get("push", {})
                if "pub" in push:
                    return push["pub"]["data"]
            self._waiting += self._receive()
