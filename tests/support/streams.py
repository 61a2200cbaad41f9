"""
A client without a WebSocket, as an HTTP library makes it: one long answer, and requests beside it.

Each request comes from the address that the test wants, and so may reach another worker than the one with the stream.
Its connection stays open, since an answer can be read later: `close_opened` must be called after each test.
"""

from __future__ import annotations

import http.client
import json
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.support.server import DEADLINE_S, RunningServer

_opened: list[http.client.HTTPConnection] = []


def close_opened() -> None:
    """Close what a test has opened."""
    while _opened:
        _opened.pop().close()


def ask(
    server: RunningServer, method: str, path: str, body: str | bytes = "", address: str = "127.0.0.1", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, DEADLINE_S, source_address=(address, 0))
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    _opened.append(connection)
    return connection.getresponse()


class Stream:
    """One long answer, and the way back beside it."""

    def __init__(self, server: RunningServer, path: str, connect: dict[str, Any], address: str = "127.0.0.1") -> None:
        self.server = server
        self.is_sse = path.endswith("sse")
        if self.is_sse:
            self.response = ask(server, "GET", f"{path}?cf_connect={quote(json.dumps(connect))}", address=address)
        else:
            self.response = ask(server, "POST", path, json.dumps(connect), address)
        self.connection = _opened[-1]
        assert self.response.status == 200
        self.waiting: list[dict[str, Any]] = []
        self.first = self.next()
        told = self.first.get("connect", {})
        self.session, self.node = told.get("session"), told.get("node")

    def next(self) -> dict[str, Any]:
        """Return the next reply that is no ping."""
        while True:
            line = self.response.readline()
            assert line, "the stream has ended"
            text = line.strip().removeprefix(b"data: ")
            if text and text != b"{}":
                found: dict[str, Any] = json.loads(text)
                return found

    def reply(self, id: int) -> dict[str, Any]:
        while (found := self.next()).get("id") != id:
            self.waiting.append(found)
        return found

    def say(self, *commands: dict[str, Any], address: str = "127.0.0.1") -> int:
        """Send commands beside the stream. Return the status."""
        data = "\n".join(map(json.dumps, commands))
        body = json.dumps({"session": self.session, "node": self.node, "data": data})
        status = ask(self.server, "POST", "/emulation", body, address, content_type="application/json").status
        _opened.pop().close()
        return status

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.response.close()
        self.connection.close()


CONNECT = {"id": 1, "connect": {"name": "test"}}
