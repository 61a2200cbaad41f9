"""
`/connection/uni_websocket`: clients that say one thing and then only listen.

Real servers, and websockets' own client, which hides no frame. The other one-way endpoints are in test_streams.py; ping
frames in place of the protocol's pings are in tests/realtime/protocol/test_frame_pings.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.realtime.transport.wire import FIN, HEAD, PING, TEXT, frame, text
from tests.sdk.conftest import APP
from tests.support.server import DEADLINE_S, RunningServer

MESSAGE_BYTES = 4096
WAYS = ["first message", "cf_connect"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(APP, "--anonymous", "--message-bytes", str(MESSAGE_BYTES), workers=2) as running:
        running.wait_until_full()
        yield running


@contextlib.contextmanager
def listen(server: RunningServer, way: str, request: str, query: str = "") -> Iterator[ClientConnection]:
    """Connect, and say what such a client has to say."""
    if way == "cf_connect":
        query = f"?cf_connect={quote(request)}"
    url = server.websocket_url.replace("/websocket", "/uni_websocket")
    with connect(url + query, compression=None, ping_interval=None, open_timeout=DEADLINE_S) as client:
        if way != "cf_connect":
            client.send(request)
        yield client


def hear(client: ClientConnection) -> dict[str, Any]:
    """Return the next frame, which is one object."""
    found = client.recv(timeout=DEADLINE_S)
    assert isinstance(found, str), "it is text"
    return dict(json.loads(found))


def end_of(client: ClientConnection) -> tuple[int, str]:
    """Return how the server closes, which has to be the next thing that it says."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=DEADLINE_S)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def publish(server: RunningServer, room: str, data: Any) -> None:
    """Have somebody else enter a room, say something there, and leave."""
    with connect(server.websocket_url, compression=None) as other:
        for number, command in enumerate(
            ({"connect": {}}, {"subscribe": {"channel": room}}, {"publish": {"channel": room, "data": data}}), start=1
        ):
            other.send(json.dumps({"id": number, **command}))
            while f'"id":{number}' not in str(other.recv(timeout=DEADLINE_S)):
                pass


@pytest.mark.parametrize("way", WAYS)
def test_it_is_told_first_what_it_is_connected_to_and_then_gets_bare_pushes(server: RunningServer, way: str) -> None:
    room = f"open:pushes {way}"
    with listen(server, way, json.dumps({"data": {"rooms": [room], "name": "Zoë"}})) as client:
        first = hear(client)
        told = first["connect"]
        assert first.keys() == {"connect"}
        assert told["subs"].keys() == {room}
        assert told["data"]["name"] == "Zoë"
        assert told["ping"] == 25
        assert told["session"], "by it the API names this connection"
        assert "pong" not in told
        assert hear(client).keys() == {"channel", "join"}, "its own"
        publish(server, room, [1])
        joined, published, left = (hear(client) for _ in range(3))
        assert [each["channel"] for each in (joined, published, left)] == [room] * 3
        assert joined.keys() == {"channel", "join"}
        assert published["pub"]["data"] == [1]
        assert left["leave"]["info"] == joined["join"]["info"]


LATER: list[str | bytes] = [
    "hello", '{"token":5}', "{}", "", "[" * 2000, b"\x00\xff", '{"token":"no token"}', '{"data":{"close":4500}}',
    '{"id":2,"publish":{"channel":"open:x","data":1}}',
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_it_says_later_is_ignored(server: RunningServer, way: str) -> None:
    room = f"plain:later {way}"
    with listen(server, way, json.dumps({"data": {"rooms": [room]}})) as client:
        assert "connect" in hear(client)
        for message in LATER:
            client.send(message)
        assert client.ping().wait(DEADLINE_S), "the server has read all that"
        publish(server, room, "still here")
        assert hear(client)["pub"]["data"] == "still here"


@pytest.mark.parametrize("way", WAYS)
def test_what_it_says_before_it_has_an_answer_is_ignored(server: RunningServer, way: str) -> None:
    """All in one segment, so that nothing has run when the rest is read."""
    query = b"?cf_connect={}" if way == "cf_connect" else b""
    first = b"" if way == "cf_connect" else text("{}")
    head = HEAD.replace(b"/connection/websocket", b"/connection/uni_websocket" + query)
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as client, client.makefile("rb") as stream:
        client.sendall(head + first + text("hello") + text('{"token":5}') + text("{}") + frame(FIN | PING, b"read"))
        while stream.readline() != b"\r\n":
            pass
        said = {}
        for _ in range(2):
            kind, size = stream.read(2)
            if size == 126:
                size = int.from_bytes(stream.read(2), "big")
            said[kind] = stream.read(size)
        assert said.pop(FIN | TEXT).startswith(b'{"connect":{')
        assert list(said.values()) == [b"read"], "the answer to its ping, and no close frame"


def test_without_a_connect_request_in_the_query_the_first_message_is_awaited(server: RunningServer) -> None:
    with listen(server, "first message", '{"data":{"name":"late"}}', "?cf_connect=&name=x") as client:
        assert hear(client)["connect"]["data"]["name"] == "late"


def test_other_clients_have_no_connect_request_in_their_query(server: RunningServer) -> None:
    with connect(f"{server.websocket_url}?cf_connect={quote('{}')}", compression=None) as client:
        client.send('{"id":1,"connect":{}}')
        assert hear(client).keys() == {"id", "connect"}


def test_pings_are_empty_messages_and_no_answer_is_awaited() -> None:
    pinging = ("--anonymous", "--ping", "200ms", "--pong", "100ms")
    with RunningServer(APP, *pinging, workers=1) as server, listen(server, "cf_connect", "{}") as client:
        told = hear(client)["connect"]
        assert told["ping"] == 1, "whole seconds"
        assert "pong" not in told
        assert [hear(client) for _ in range(3)] == [{}, {}, {}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("request_text", "end"),
    [
        ('{"data":{"refuse":109}}', (3005, "connection expired")),
        ('{"data":{"refuse":103}}', (3507, "permission denied")),
        ('{"data":{"refuse":111}}', (3013, "too many requests")),
        ('{"data":{"refuse":1500}}', (3004, "internal server error")),
        ('{"data":{"close":4500}}', (4500, "not today")),
        ('{"token":"no token"}', (3500, "invalid token")),
        ("hello", (3501, "bad request")),
        ('{"token":5}', (3501, "bad request")),
        ("[]", (3501, "bad request")),
    ],
)
def test_who_may_not_is_told_by_the_close_frame(
    server: RunningServer, way: str, request_text: str, end: tuple[int, str]
) -> None:
    with listen(server, way, request_text) as client:
        assert end_of(client) == end


@pytest.mark.parametrize("way", [*WAYS, "later"])
def test_a_message_that_is_too_large_ends_it(server: RunningServer, way: str) -> None:
    large = json.dumps({"name": "x" * MESSAGE_BYTES})
    with listen(server, way, "{}" if way == "later" else large) as client:
        if way == "later":
            assert "connect" in hear(client)
            client.send(large)
        code, reason = end_of(client)
        assert code == 1009
        assert str(MESSAGE_BYTES) in reason
