"""
Clients of each kind that say in a word what they got: native (JSON and Protobuf), emulated and one-way.

    admitted, done            a result, of `connect` or of another command
    error 100, temporary      an error reply
    closed 3004               the end of the connection, by a close frame or a push
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

from centrifuge.protocol import client_pb2 as google
from google.protobuf import json_format
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from tests.support.server import DEADLINE_S


class Client(Protocol):
    """One connection, made and not admitted yet."""

    def connect(self, fields: dict[str, Any]) -> str:
        """Send `connect`, and return what came of it."""

    def close(self) -> None: ...


def said(reply: dict[str, Any]) -> str | None:
    """Return a reply in a word; None for one that says nothing here, such as a ping or a publication."""
    reply = reply.get("push", reply)
    if "disconnect" in reply:
        return f"closed {reply['disconnect']['code']}"
    if "error" in reply:
        return f"error {reply['error']['code']}" + (", temporary" if reply["error"].get("temporary") else "")
    if "connect" in reply:
        return "admitted"
    return "done" if "id" in reply else None


class Native:
    """A WebSocket in JSON."""

    def __init__(self, port: int, path: str = "websocket", subprotocol: str | None = None) -> None:
        self._number = 0
        self.result: dict[str, Any] = {}
        self._opened = connect_websocket(
            f"ws://127.0.0.1:{port}/connection/{path}",
            subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
            compression=None,
            ping_interval=None,
            open_timeout=DEADLINE_S,
        )
        self.socket: ClientConnection = self._opened.__enter__()

    def encode(self, command: dict[str, Any]) -> str | bytes:
        return json.dumps(command)

    def decode(self, message: str | bytes) -> list[dict[str, Any]]:
        return [json.loads(line) for line in message.splitlines()]

    def ask(self, method: str, fields: dict[str, Any]) -> str:
        """Send a command, and return what came of it."""
        self._number += 1
        return self.say(self.encode({"id": self._number, method: fields}))

    def say(self, message: str | bytes) -> str:
        """Send a message, and return what came next that says something."""
        try:
            self.socket.send(message)
            while True:
                for reply in self.decode(self.socket.recv(timeout=DEADLINE_S)):
                    if (word := said(reply)) is not None:
                        self.result = reply
                        return word
        except ConnectionClosed as end:
            return f"closed {end.rcvd.code if end.rcvd else 1006}"

    def connect(self, fields: dict[str, Any]) -> str:
        return self.ask("connect", fields)

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


class Protobuf(Native):
    """A WebSocket in Protobuf, by Google's own implementation and the stock SDK's schema."""

    def __init__(self, port: int) -> None:
        super().__init__(port, subprotocol="centrifuge-protobuf")

    def encode(self, command: dict[str, Any]) -> bytes:
        method = next(name for name in command if name != "id")
        fields = dict(command[method])
        if "data" in fields:
            fields["data"] = base64.b64encode(json.dumps(fields["data"]).encode()).decode()
        body = json_format.ParseDict({**command, method: fields}, google.Command()).SerializeToString()
        length, head = len(body), b""
        while length > 127:
            head += bytes([length & 127 | 128])
            length >>= 7
        return head + bytes([length]) + body

    def decode(self, message: str | bytes) -> list[dict[str, Any]]:
        assert isinstance(message, bytes)
        found = []
        while message:
            length = shift = at = 0
            while True:
                length |= (message[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if not message[at - 1] & 128:
                    break
            reply = google.Reply.FromString(message[at : at + length])
            found.append(json_format.MessageToDict(reply, preserving_proto_field_name=True))
            message = message[at + length :]
        return found


class UniWebSocket(Native):
    """A WebSocket of a client that says one thing."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "uni_websocket")

    def connect(self, fields: dict[str, Any]) -> str:
        return self.say(json.dumps(fields))


class Stream:
    """A long answer. Its connection is a worker's before `connect` is sent."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._number = 1
        self.result: dict[str, Any] = {}
        self._http = _kept(port)
        self._beside = _kept(port)
        self._response: http.client.HTTPResponse | None = None

    def connect(self, fields: dict[str, Any]) -> str:
        one_way = self._path.startswith("uni_")
        text = json.dumps(fields if one_way else {"id": 1, "connect": fields})
        if self._path.endswith("sse"):
            self._http.request("GET", f"/connection/{self._path}?cf_connect={quote(text)}")
        else:
            self._http.request("POST", f"/connection/{self._path}", text)
        self._response = self._http.getresponse()
        return self._next()

    def _next(self) -> str:
        assert self._response is not None
        while line := self._response.readline():
            text = line.strip().removeprefix(b"data: ")
            if text and (word := said(reply := json.loads(text))) is not None:
                self.result = reply
                return word
        return "closed 1006"

    def ask(self, method: str, fields: dict[str, Any]) -> str:
        """Send a command beside the stream, and return what came of it."""
        if self._number == 1:
            self._told = self.result["connect"]
        self._number += 1
        command = json.dumps({"id": self._number, method: fields})
        body = {"session": self._told["session"], "node": self._told["node"], "data": command}
        self._beside.request("POST", "/emulation", json.dumps(body), {"Content-Type": "application/json"})
        answer = self._beside.getresponse()
        answer.read()
        assert answer.status == 204, answer.status
        return self._next()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._http.close()
        self._beside.close()


def _kept(port: int) -> http.client.HTTPConnection:
    """Return a connection that a worker has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", "/health")
    connection.getresponse().read()
    return connection


TWO_WAY: dict[str, Callable[[int], Native | Stream]] = {
    "websocket": Native,
    "protobuf": Protobuf,
    "http_stream": lambda port: Stream(port, "http_stream"),
    "sse": lambda port: Stream(port, "sse"),
}
ONE_WAY: dict[str, Callable[[int], Client]] = {
    "uni_websocket": UniWebSocket,
    "uni_http_stream": lambda port: Stream(port, "uni_http_stream"),
    "uni_sse": lambda port: Stream(port, "uni_sse"),
}
