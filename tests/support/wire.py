"""
`Wire`: one connection to a server of tests, read as bytes; and a request of each kind of connection that there is.

Runs in the test's own process. It never hides what came: an answer, a frame or the end of the stream is what it was.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
from types import TracebackType
from typing import Any

from tests.support.server import DEADLINE_S, ROOT, RunningServer

APP = f"{ROOT / 'tests' / 'support' / 'limits_app.py'}:app"
KEY = "the key of the API in a test"
ENV = {"REALTIME_API_KEY": KEY}
PARSERS = ("httptools", "h11")
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
CONNECT = '{"id":1,"connect":{}}'


class Wire:
    """One connection, read as bytes."""

    def __init__(self, server: RunningServer, receive_buffer: int = 0) -> None:
        self.sock: socket.socket = socket.socket()
        self.sock.settimeout(DEADLINE_S)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", server.port))
        self.got = bytearray()
        self.told: dict[str, Any] = {}  # the answer to `connect`

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def encrypt(self, context: ssl.SSLContext) -> Wire:
        self.sock = context.wrap_socket(self.sock)
        return self

    def send(self, data: bytes) -> Wire:
        self.sock.sendall(data)
        return self

    def finish(self) -> Wire:
        """Say the end of our half of the stream."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def until(self, end: bytes) -> bytes:
        """Return what comes up to `end`, which is included."""
        seen = 0
        while (at := self.got.find(end, seen)) < 0:
            seen = max(len(self.got) - len(end), 0)
            self._read()
        return self._take(at + len(end))

    def _read(self) -> None:
        data = self.sock.recv(65536)
        assert data, self.got[-1000:]
        self.got += data

    def _take(self, size: int) -> bytes:
        found = bytes(self.got[:size])
        del self.got[:size]
        return found

    def head(self) -> str:
        """Return the status line and the headers of an answer, in lower case."""
        return self.until(b"\r\n\r\n").decode("latin-1").lower()

    def status(self) -> int:
        return int(self.head().split(" ")[1])

    def answer(self) -> int:
        """Return the status of an answer that has a length, once all of it was read."""
        head = self.head()
        length = re.search(r"content-length: (\d+)", head)
        self.exactly(int(length[1]) if length else 0)
        return int(head.split(" ")[1])

    def exactly(self, size: int) -> bytes:
        while len(self.got) < size:
            self._read()
        return self._take(size)

    def frame(self) -> tuple[int, bytes]:
        """Return the opcode and the payload of a server's frame."""
        first, size = self.exactly(2)
        if size == 126:
            [size] = struct.unpack("!H", self.exactly(2))
        elif size == 127:
            [size] = struct.unpack("!Q", self.exactly(8))
        return first & 0x0F, self.exactly(size)

    def frame_of(self, opcode: int) -> bytes:
        """Return the payload of the next frame of a kind."""
        while True:
            found, payload = self.frame()
            if found == opcode:
                return payload

    def say(self, payload: bytes, opcode: int = 1) -> Wire:
        """Send a masked frame; the mask is nothing."""
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else (
            struct.pack("!BH", 0xFE, size) if size < 65536 else struct.pack("!BQ", 0xFF, size)
        )  # fmt: skip
        return self.send(bytes([0x80 | opcode]) + length + bytes(4) + payload)

    def rest(self) -> bytes:
        """Return what comes up to the end of the stream."""
        while data := self.sock.recv(65536):
            self.got += data
        return self._take(len(self.got))

    def is_quiet(self) -> bool:
        """Say whether nothing came, nor the end, beyond what was read."""
        timeout_s = self.sock.gettimeout()
        self.sock.setblocking(False)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return not self.got
        finally:
            self.sock.settimeout(timeout_s)


TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def ask(method: str, path: str, *fields: str, body: str = "", version: str = "1.1") -> bytes:
    length = [f"Content-Length: {len(body)}"] if method == "POST" else []
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: h", *fields, *length, "", body]).encode()


LINES = "X: v\r\n" * 20_000
START = "GET / HTTP/1.1\r\nHost: h\r\n"

KINDS: dict[str, tuple[int, str, str, tuple[str, ...], str]] = {
    "our WebSocket": (101, "GET", "/connection/websocket", UPGRADE, ""),
    "a one-way WebSocket": (101, "GET", "/connection/uni_websocket", UPGRADE, ""),
    "a hosted WebSocket": (101, "GET", "/web/echo", UPGRADE, ""),
    "hosted HTTP": (200, "GET", "/web/page", (), ""),
    "what is built in": (200, "GET", "/health", (), ""),
    "a static file": (200, "GET", "/static/limits_app.py", (), ""),
    "the API": (200, "POST", "/api/info", (f"X-API-Key: {KEY}",), "{}"),
    "a stream": (200, "POST", "/connection/http_stream", (), CONNECT),
    "events": (200, "POST", "/connection/sse", (), CONNECT),
    "what is sent beside a stream": (404, "POST", "/emulation", (), '{"node":"n","session":"s","data":"\\"{}\\""}'),
}
STREAMS = ("a stream", "events")


def of(kind: str, *more: str) -> bytes:
    _, method, path, fields, body = KINDS[kind]
    return ask(method, path, *fields, *more, body=body)


def publish_request(room: str, data: Any) -> bytes:
    return ask("POST", "/api/publish", f"X-API-Key: {KEY}", body=json.dumps({"channel": room, "data": data}))


OF_ROOMS = {
    "our WebSocket": "/connection/websocket",
    "a one-way WebSocket": "/connection/uni_websocket",
    "a stream": "/connection/http_stream",
    "events": "/connection/sse",
    "a one-way stream": "/connection/uni_http_stream",
    "one-way events": "/connection/uni_sse",
}


def ask_in(server: RunningServer, kind: str, data: dict[str, Any], receive_buffer: int = 0) -> Wire:
    """Open one of `OF_ROOMS`, and send `connect` with data for the application. Its answer is not read."""
    wire, path = Wire(server, receive_buffer), OF_ROOMS[kind]
    body = json.dumps({"data": data} if "/uni_" in path else {"id": 1, "connect": {"data": data}})
    if "WebSocket" in kind:
        wire.send(ask("GET", path, *UPGRADE)).head()
        return wire.say(body.encode())
    wire.send(ask("POST", path, body=body)).head()
    return wire


def join(server: RunningServer, kind: str, *rooms: str, receive_buffer: int = 0) -> Wire:
    """Open one of `OF_ROOMS` whose application brings it into rooms. Its answer is `told`."""
    wire = ask_in(server, kind, {"rooms": rooms}, receive_buffer)
    if "WebSocket" in kind:
        reply = wire.frame_of(TEXT)
    else:
        wire.until(b"{")
        reply = b"{" + wire.until(b"\n")
        wire.until(b"\r\n")
    wire.told = json.loads(reply)["connect"]
    return wire


def say(server: RunningServer, wire: Wire, kind: str, *commands: dict[str, Any]) -> None:
    """Send commands of a joined client, all at once: as a message, or beside its stream."""
    data = "\n".join(map(json.dumps, commands))
    if kind == "our WebSocket":
        wire.say(data.encode())
        return
    body = json.dumps({"session": wire.told["session"], "node": wire.told["node"], "data": data})
    with Wire(server) as beside:
        assert beside.send(ask("POST", "/emulation", body=body)).status() == 204
