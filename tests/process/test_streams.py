"""
Clients without a WebSocket: `/connection/http_stream`, `/connection/sse`, what they send to `/emulation`, and those
that only listen. Real servers, several workers and, over Redis, several machines; requests as an HTTP library makes
them, each from the address that the test wants, and so to another worker than the one with the stream.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any
from urllib.parse import quote

import pytest

from realtime.rooms.hub import LINK_LOST
from tests.sdk.conftest import APP
from tests.support.processes import free_port
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.require import require
from tests.support.server import RunningServer
from tests.support.streams import CONNECT, Stream, ask

ORIGIN = "https://page.example.com"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(
        APP, "--anonymous", "--allowed-origins", ORIGIN, "--message-bytes", "4096", workers=4
    ) as running:
        running.wait_until_full()
        yield running


@pytest.mark.parametrize("path", ["/connection/http_stream", "/connection/sse"])
def test_commands_reach_the_stream_from_wherever_they_are_sent(server: RunningServer, path: str) -> None:
    with Stream(server, path, CONNECT) as stream:
        slots = set()
        for number in range(2, 50):
            address = f"127.0.40.{number}"
            room = f"open:{path}{number}"
            assert stream.say({"id": number, "subscribe": {"channel": room}}, address=address) == 204
            assert "subscribe" in stream.reply(number)
            publish = {"id": 100 + number, "publish": {"channel": room, "data": number}}
            assert stream.say(publish, address=address) == 204
            assert stream.reply(100 + number) == {"id": 100 + number, "publish": {}}
            with Stream(server, "/connection/http_stream", CONNECT, address) as other:
                slots.add(other.first["connect"]["data"]["slot"])
        assert slots == {0, 1, 2, 3}, "they came to every worker"
        said = [each["push"]["pub"]["data"] for each in stream.waiting if "pub" in each.get("push", {})]
        assert said == list(range(2, 50)), "in order"


def test_what_reaches_two_machines_in_turn_arrives_in_the_order_in_which_it_was_sent() -> None:
    """
    Nobody waits for a reply. The machine with the stream is slow to hear from Redis, so that what it is sent itself
    would overtake what another machine brings, if a 204 said only that this is under way.
    """
    require("redis")
    options = ("--anonymous", "--commands-per-second", "0", "--redis")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(free_port()))
        relay = stack.enter_context(Relay(redis.port, "127.0.0.1", delay_s=0.02))
        urls = (relay.url.replace("http", "redis"), redis.url)
        one, other = [stack.enter_context(RunningServer(APP, *options, url, workers=2)) for url in urls]
        one.wait_until_full()
        other.wait_until_full()
        with Stream(one, "/connection/http_stream", CONNECT) as stream:
            commands = [{"id": n, "rpc": {"method": "echo", "data": n}} for n in range(2, 82)]
            for command, stream.server in zip(commands, cycle([other, one])):
                assert stream.say(command) == 204
            assert [stream.next() for _ in commands] == commands_answered(commands)


def test_what_a_stream_looks_like(server: RunningServer) -> None:
    answer = ask(server, "GET", f"/connection/sse?cf_connect={quote(json.dumps(CONNECT))}")
    assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
    assert answer.getheader("x-accel-buffering") == "no"
    assert "no-store" in str(answer.getheader("cache-control"))
    assert answer.readline() == b"\r\n", "proxies let go of the head with it"
    assert answer.readline().startswith(b'data: {"id":1,"connect":')
    assert answer.readline() == b"\n"
    answer.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/connection/sse", "", 400),
        ("POST", "/connection/http_stream", "", 400),
        ("GET", "/connection/http_stream", "", 405),
        ("PUT", "/emulation", "{}", 405),
        ("POST", "/emulation", "", 400),
        ("POST", "/emulation", "[]", 400),
        ("POST", "/emulation", '{"session":"s","node":"n","data":7}', 400),
        ("POST", "/emulation", '{"session":"s","node":"n"}', 400),
        ("POST", "/emulation", "x" * 5000, 413),
        ("POST", "/connection/http_stream", "x" * 5000, 413),
    ],
)
def test_what_cannot_be_is_refused(server: RunningServer, method: str, path: str, body: str, status: int) -> None:
    assert ask(server, method, path, body).status == status


def test_nobody_speaks_for_another_session(server: RunningServer) -> None:
    with Stream(server, "/connection/http_stream", CONNECT) as stream:
        node = stream.node
        stream.session = "0" * 36
        statuses = {stream.say({"id": 2, "rpc": {}}, address=f"127.0.42.{n}") for n in range(1, 30)}
        assert statuses == {404}, "wherever it comes in"
        for name in (f"{node}0", "*", "\0*", node[:-1] + ("0" if node[-1] != "0" else "1")):
            stream.node = name
            assert stream.say({"id": 2, "rpc": {}}) == 404


@pytest.mark.parametrize("broker", ["local", "redis"])
def test_what_is_sent_one_after_another_arrives_so_whichever_worker_it_reaches(broker: str) -> None:
    """Through the owner and through another worker in turn: the short way does not overtake the long one."""
    if broker == "redis":
        require("redis")
        with RedisServer() as redis, RunningServer(APP, *BY_TURNS, "--redis", redis.url, workers=2) as server:
            _check_order(server)
    else:
        with RunningServer(APP, *BY_TURNS, workers=2) as server:
            _check_order(server)


BY_TURNS = ("--anonymous", "--sticky", "none", "--balance", "round-robin")
COUNT = 300


def _check_order(server: RunningServer) -> None:
    server.wait_until_full()
    with Stream(server, "/connection/http_stream", CONNECT) as stream:
        for number in range(2, COUNT):
            command = {"id": number, "rpc": {"method": "echo", "data": number}}
            assert stream.say(command) == 204
        assert [stream.next()["id"] for _ in range(2, COUNT)] == list(range(2, COUNT))


def test_while_the_broker_is_away_another_worker_says_so_and_the_stream_stays() -> None:
    require("redis")
    with RedisServer() as redis, RunningServer(APP, *BY_TURNS, "--redis", redis.url, workers=2) as server:
        server.wait_until_full()
        with Stream(server, "/connection/http_stream", CONNECT) as stream:
            assert {stream.say({"id": n, "rpc": {"method": "echo", "data": n}}) for n in (2, 3)} == {204}
            for number in (2, 3):
                stream.reply(number)
            redis.stop()
            server.log.wait_for(LINK_LOST, times=2)
            assert {stream.say({"id": n, "rpc": {"method": "echo", "data": n}}) for n in (4, 5)} == {204, 503}
            assert stream.next()["id"] in (4, 5)


@pytest.mark.parametrize("way", ["json", "protobuf"])
def test_a_batch_of_commands_beside_a_stream_runs_in_order(server: RunningServer, way: str) -> None:
    if way == "json":
        with Stream(server, "/connection/http_stream", CONNECT) as stream:
            commands = [{"id": n, "rpc": {"method": "echo", "data": n}} for n in range(2, 40)]
            assert stream.say(*commands, address="127.0.45.1") == 204
            assert [stream.next() for _ in commands] == commands_answered(commands)
        return
    octets = {"content_type": "application/octet-stream"}
    connect = bytes.fromhex("080801220422026a73")  # the protocol's own vector
    answer = ask(server, "POST", "/connection/http_stream", connect, **octets)
    reply = read_varied(answer)
    node, session = field(field(reply, 5), 10), field(field(reply, 5), 9)
    commands = b"".join(
        varied(b"\x08" + bytes([n]) + b"\x6a" + varied(b"\x0a\x01" + b"7" + b"\x12\x04echo")) for n in range(2, 40)
    )
    body = b"\x0a" + varied(node) + b"\x12" + varied(session) + b"\x1a" + varied(commands)
    assert ask(server, "POST", "/emulation", body, "127.0.45.1", **octets).status == 204
    ids = [read_varied(answer)[:2] for _ in range(2, 40)]
    assert ids == [b"\x08" + bytes([n]) for n in range(2, 40)]
    answer.close()


def test_a_text_that_was_cut_within_a_character_is_taken(server: RunningServer) -> None:
    with Stream(server, "/connection/sse", {"id": 1, "connect": {"name": "cut \ud83d"}}) as stream:
        command = json.dumps({"id": 2, "rpc": {"method": "echo", "data": "cut \ud83d"}}, ensure_ascii=False)
        body = json.dumps({"session": stream.session, "node": stream.node, "data": command})
        assert ask(server, "POST", "/emulation", body).status == 204
        assert stream.reply(2) == {"id": 2, "rpc": {"data": "cut \ufffd"}}
    connect = quote(json.dumps({"name": "cut \ud83d"}))
    answer = ask(server, "GET", f"/connection/uni_sse?cf_connect={connect}")
    assert answer.status == 200
    answer.readline()
    assert b'"connect"' in answer.readline()
    answer.close()


def commands_answered(commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": each["id"], "rpc": {"data": each["rpc"]["data"]}} for each in commands]


def varied(message: bytes) -> bytes:
    """Write a message with its length before it."""
    size, head = len(message), b""
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + message


def read_varied(answer: http.client.HTTPResponse) -> bytes:
    """Read a message with its length before it."""
    size = shift = 0
    while True:
        byte = answer.read(1)[0]
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return answer.read(size)


def field(message: bytes, number: int) -> bytes:
    """Return a field of a message that has its length before it."""
    at = 0
    while at < len(message):
        tag, at = message[at], at + 1
        if tag & 7 == 0:
            while message[at] > 127:
                at += 1
            at += 1
            continue
        size, shift = 0, 0
        while message[at] > 127:
            size, shift, at = size | (message[at] & 127) << shift, shift + 7, at + 1
        size, at = size | message[at] << shift, at + 1
        if tag >> 3 == number:
            return message[at : at + size]
        at += size
    raise AssertionError(f"there is no field {number}")


def test_malformed_commands_end_the_stream_and_say_why(server: RunningServer) -> None:
    with Stream(server, "/connection/http_stream", CONNECT) as stream:
        body = json.dumps({"session": stream.session, "node": stream.node, "data": "no json"})
        assert ask(server, "POST", "/emulation", body).status == 204
        assert stream.next() == {"push": {"disconnect": {"code": 3501, "reason": "bad request"}}}
        assert stream.response.read() == b""


def test_pages_of_allowed_origins_only(server: RunningServer) -> None:
    preflight = ask(server, "OPTIONS", "/emulation", Origin=ORIGIN, Access_Control_Request_Headers="content-type")
    assert preflight.status == 204
    assert preflight.getheader("access-control-allow-origin") == ORIGIN
    assert preflight.getheader("access-control-allow-headers") == "content-type"
    assert preflight.getheader("access-control-allow-credentials") == "true"
    assert preflight.getheader("access-control-max-age") == "300"
    assert ask(server, "OPTIONS", "/emulation", Origin="https://evil.example.com").status == 403
    assert ask(server, "OPTIONS", "/emulation", Origin="").status == 204, "an empty origin is none"
    assert ask(server, "POST", "/connection/http_stream", json.dumps(CONNECT), Origin="https://evil.org").status == 403


def test_a_client_that_goes_leaves_its_rooms(server: RunningServer) -> None:
    with Stream(server, "/connection/http_stream", CONNECT) as watcher:
        watcher.say({"id": 2, "subscribe": {"channel": "open:gone"}})
        watcher.reply(2)
        with Stream(server, "/connection/sse", CONNECT, "127.0.43.1") as stream:
            client = stream.first["connect"]["client"]
            stream.say({"id": 2, "subscribe": {"channel": "open:gone"}})
            stream.reply(2)
        while "leave" not in (push := watcher.next()["push"]):
            pass
        assert push["leave"]["info"]["client"] == client


# Who only listens


@pytest.mark.parametrize("path", ["/connection/uni_http_stream", "/connection/uni_sse"])
def test_a_one_way_client_gets_bare_pushes(server: RunningServer, path: str) -> None:
    room = f"open:{path}"
    with Stream(server, path, {"data": {"rooms": [room]}}) as stream:
        told = stream.first["connect"]
        assert room in told["subs"]
        assert told["session"], "the API finds it by that"
        assert "pong" not in told
        with Stream(server, "/connection/http_stream", CONNECT, "127.0.44.1") as other:
            other.say({"id": 2, "subscribe": {"channel": room}}, {"id": 3, "publish": {"channel": room, "data": [1]}})
            other.reply(3)
        found = [stream.next() for _ in range(4)]
        assert [next(name for name in ("join", "pub", "leave") if name in each) for each in found] == [
            "join", "join", "pub", "leave",
        ]  # fmt: skip
        assert found[2]["channel"] == room
        assert found[2]["pub"]["data"] == [1]


@pytest.mark.parametrize(
    ("connect", "end"),
    [
        ({"data": {"refuse": 109}}, (3005, "connection expired")),
        ({"data": {"refuse": 103}}, (3507, "permission denied")),
        ({"data": {"refuse": 111}}, (3013, "too many requests")),
        ({"data": {"refuse": 1500}}, (3004, "internal server error")),
        ({"data": {"close": 4500}}, (4500, "not today")),
        ({"token": "no token"}, (3500, "invalid token")),
    ],
)
def test_a_one_way_client_that_may_not_is_told_by_its_end(
    server: RunningServer, connect: dict[str, Any], end: tuple[int, str]
) -> None:
    answer = ask(server, "POST", "/connection/uni_http_stream", json.dumps(connect))
    told = json.loads(answer.read())["disconnect"]
    assert (told["code"], told["reason"]) == end


def test_a_drain_tells_every_stream_to_come_back() -> None:
    with RunningServer(APP, "--anonymous", "--drain", "10", workers=1) as server:
        server.wait_until_full()
        streams = [Stream(server, path, CONNECT) for path in ("/connection/http_stream", "/connection/sse")]
        server.send_signal(15)
        for stream in streams:
            assert stream.next() == {"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}}
            stream.response.close()
        assert server.wait() == 0
