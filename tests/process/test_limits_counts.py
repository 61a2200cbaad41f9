"""
Each limit that counts, at its least, at its most and, where 0 means that there is none, at 0: rooms of a connection,
its commands, what it is answered, its control frames, fragments and segments, the members that make a room large, and
the connections of an address; on each kind of connection that has it, over both parsers.

At its most a limit is shown by what the default refuses, and lets through what is beyond it nowhere. Nothing here says
how long something took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.flooder import OURS, flood
from tests.support.server import RunningServer
from tests.support.wire import (
    APP,
    CLOSE,
    ENV,
    KINDS,
    OF_ROOMS,
    PARSERS,
    TEXT,
    Wire,
    ask_in,
    join,
    of,
    publish_request,
    say,
)

QUIET = ("--ping", "10m", "--pong", "5m")
RATES = ("commands", "control-frames", "fragments", "segments")
MANY_ROOMS = 1_000  # the default refuses 129
MANY_COMMANDS = 1_500  # the default answers 228 at once, and closes a client that sends ten times as many
MANY_FRAMES = 12_000  # the default closes at 1,001 control frames, and at 10,001 fragments
ONE_WAY = OF_ROOMS["a one-way WebSocket"]
TWO_WAY = [kind for kind in OF_ROOMS if "one-way" not in kind]
BOUNDS = {  # rooms, and each rate
    "least": ("1", "1"),
    "most": ("100000", "1000000"),
    "none": ("100000", "0"),
}


@pytest.fixture(scope="module", params=[(bound, parser) for parser in PARSERS for bound in BOUNDS], ids="-".join)
def counting(request: pytest.FixtureRequest) -> Iterator[tuple[RunningServer, str]]:
    """A server with every count at its least or its most; the rates are 0 beside some of the latter."""
    bound, parser = request.param
    rooms, rate = BOUNDS[bound]
    rates = [text for each in RATES for text in (f"--{each}-per-second", rate)]
    with RunningServer(
        APP, "--http", parser, *QUIET, "--rooms-per-connection", rooms, *rates, workers=1, env=ENV
    ) as server:
        yield server, bound


def code_of(wire: Wire, kind: str) -> int:
    """Return the code with which a connection to rooms is closed."""
    if "WebSocket" in kind:
        return int(struct.unpack("!H", wire.frame_of(CLOSE)[:2])[0])
    wire.until(b'"disconnect":{"code":')
    return int(wire.until(b",")[:-1])


def is_served(server: RunningServer, wire: Wire, room: str) -> None:
    """See that what is published in a room arrives."""
    with Wire(server) as other:
        assert other.send(publish_request(room, "still here")).answer() == 200
    wire.until(b'"still here"')


# Rooms


@pytest.mark.parametrize("kind", OF_ROOMS)
def test_a_connection_may_be_given_as_many_rooms_as_the_setting_says(
    counting: tuple[RunningServer, str], kind: str
) -> None:
    server, bound = counting
    count = 1 if bound == "least" else MANY_ROOMS
    with join(server, kind, *(f"plain:{number}" for number in range(count))) as wire:
        is_served(server, wire, f"plain:{count - 1}")
    beyond = 2 if bound == "least" else 100_001
    with ask_in(server, kind, {"many": beyond}) as wire:
        assert code_of(wire, kind) == 3505


@pytest.mark.parametrize("kind", TWO_WAY)
def test_it_may_enter_no_more_than_these(counting: tuple[RunningServer, str], kind: str) -> None:
    server, bound = counting
    count = 1 if bound == "least" else 129
    with join(server, kind, *(f"plain:{number}" for number in range(count - 1))) as wire:
        for number in range(count, count + 2):
            say(server, wire, kind, {"id": number, "subscribe": {"channel": f"plain:also {number}"}})
            wire.until(b'{"id":%d,' % number)
            answer = wire.until(b"}")
            assert (b'"code":106' in answer) is (bound == "least" and number > count), answer


def commands(count: int) -> list[dict[str, Any]]:
    return [{"id": 10 + number, "unsubscribe": {"channel": "plain:elsewhere"}} for number in range(count)]


# Commands


@pytest.mark.parametrize("kind", TWO_WAY)
def test_a_connection_may_send_as_many_commands_as_the_setting_says(
    counting: tuple[RunningServer, str], kind: str
) -> None:
    server, bound = counting
    with join(server, kind, "plain:a") as wire:
        if bound == "least":
            say(server, wire, kind, *commands(60))
            if kind == "our WebSocket":
                assert b'"code":111' in b"".join(wire.frame_of(TEXT) for _ in range(3)), "the third is refused"
            else:
                wire.until(b'"code":111')
            assert code_of(wire, kind) == 3013, "and it is closed for many more"
            return
        for _ in range(MANY_COMMANDS // 500):
            say(server, wire, kind, *commands(500))
            answers = wire.until(b'{"id":509,') + wire.until(b"}")
            assert len(re.findall(rb'{"id":\d+,"unsubscribe":{}', answers)) == 500
        is_served(server, wire, "plain:a")


def test_a_one_way_client_may_send_as_much_as_the_setting_says(counting: tuple[RunningServer, str]) -> None:
    server, bound = counting
    kind = "a one-way WebSocket"
    with join(server, kind, "plain:a") as wire:
        for _ in range(60 if bound == "least" else MANY_COMMANDS):
            with contextlib.suppress(ConnectionError):
                wire.say(b"{}")
        if bound == "least":
            assert code_of(wire, kind) == 3013
        else:
            is_served(server, wire, "plain:a")


# Frames and segments

PARTS = {  # how a message begins, what it then has many of, and how it ends
    "pongs": (b"", b"\x8a\x80" + bytes(4), b"\x81"),
    "empty fragments": (b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4), b"\x80"),
    "one-byte segments": (b"", b"", b"\x81"),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", ["our WebSocket", "a one-way WebSocket", "a hosted WebSocket"])
def test_a_websocket_may_send_as_much_that_is_short_as_the_setting_says(
    counting: tuple[RunningServer, str], kind: str, name: str
) -> None:
    server, bound = counting
    if bound == "least":
        path = {"our WebSocket": OURS, "a hosted WebSocket": "/web/echo"}.get(kind, f"{ONE_WAY}?cf_connect=%7B%7D")
        assert flood(server.port, path, name)[0] == 1008
        return
    begin, part, end = PARTS[name]
    with of_websocket(server, kind) as wire:
        text = json.dumps({"id": 9, "unsubscribe": {"channel": "plain:x"}}).encode()
        last = end + bytes([0x80 | len(text)]) + bytes(4) + text
        if name == "one-byte segments":
            wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            text += b" " * MANY_FRAMES
            for byte in b"\x81\xfe" + struct.pack("!H", len(text)) + bytes(4) + text:
                wire.send(bytes([byte]))
        else:
            wire.send(begin + part * MANY_FRAMES + last)
        if kind == "a hosted WebSocket":
            assert json.loads(wire.frame_of(TEXT)) == {"size": len(text)}
        elif kind == "our WebSocket":
            assert json.loads(wire.frame_of(TEXT))["id"] == 9
        is_open(server, wire, kind)


def of_websocket(server: RunningServer, kind: str) -> Wire:
    if kind != "a hosted WebSocket":
        return join(server, kind, "plain:a")
    wire = Wire(server)
    assert wire.send(of(kind)).status() == 101
    wire.frame_of(TEXT)
    return wire


def is_open(server: RunningServer, wire: Wire, kind: str) -> None:
    if kind != "a hosted WebSocket":
        is_served(server, wire, "plain:a")
    else:
        wire.say(b"four")
        assert json.loads(wire.frame_of(TEXT)) == {"size": 4}


# What is answered


@pytest.mark.parametrize("answer_bytes", ["1", "1GiB", "0"])
def test_a_connection_is_answered_as_many_bytes_as_the_setting_says(answer_bytes: str) -> None:
    options = ("--answer-bytes", answer_bytes, "--commands-per-second", "0", "--message-bytes", "1MiB",
               "--outbound-bytes", "256MiB")  # fmt: skip
    with RunningServer(APP, *QUIET, *options, workers=1, env=ENV) as server:
        with Wire(server) as wire:
            for number in range(8):
                assert wire.send(publish_request("kept:a", [number, "x" * 1_000_000])).answer() == 200
        for kind, room in itertools.product(TWO_WAY, ("chat:a", "kept:a")):
            with join(server, kind, room) as wire:
                what = "presence" if room == "chat:a" else "history"
                asked = {what: {"channel": room, **({"limit": 8} if what == "history" else {})}}
                for number in (10, 11):
                    say(server, wire, kind, {"id": number, **asked})
                    wire.until(b'{"id":%d,' % number)
                    answer = wire.until(b'"')[:-1] + wire.until(b'"')[:-1]
                    assert (answer == b"error") is (answer_bytes == "1" and number == 11), (kind, room, answer)
                    if answer == b"error":
                        assert wire.until(b",") == b':{"code":111,'


# Large rooms


@pytest.mark.parametrize("large", ["1", "10000000"])
def test_the_members_of_a_room_are_told_of_each_other_as_the_setting_says(large: str) -> None:
    """Of a client that leaves and comes back at once a large room is told once a second, and another one each time."""
    flaps, others = 15, 3 if large == "1" else 201  # with these, the room is a large one by default
    with contextlib.ExitStack() as stack:
        options = ("--large-room", large, "--commands-per-second", "0")
        server = stack.enter_context(RunningServer(APP, *QUIET, *options, workers=1, env=ENV))
        watchers = {kind: stack.enter_context(join(server, kind, "chat:a")) for kind in TWO_WAY}
        for _ in range(others):
            stack.enter_context(join(server, "our WebSocket", "chat:a"))
        restless = stack.enter_context(join(server, "our WebSocket"))
        client = restless.told["client"].encode()
        flap = [{"subscribe": {"channel": "chat:a"}}, {"unsubscribe": {"channel": "chat:a"}}] * flaps
        say(server, restless, "our WebSocket", *({"id": 10 + at, **each} for at, each in enumerate(flap)))
        restless.until(b'{"id":%d,' % (9 + 2 * flaps))
        last = stack.enter_context(join(server, "our WebSocket", "chat:a")).told["client"].encode()
        for kind, watcher in watchers.items():
            told = watcher.until(b'"join":{"info":{"user":"","client":"' + last)
            counts = [
                told.count(b'"%b":{"info":{"user":"","client":"%b"' % (each, client)) for each in (b"join", b"leave")
            ]
            if large == "1":
                assert max(counts) < flaps, kind
            else:
                assert counts == [flaps, flaps], kind


# Connections of an address


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("most", ["1", "1000000"])
def test_an_address_may_have_as_many_connections_as_the_setting_says(most: str, parser: str) -> None:
    options = ("--connections-per-address", most, "--http", parser)
    with RunningServer(APP, *QUIET, *options, workers=1, env=ENV) as server, contextlib.ExitStack() as stack:
        if most != "1":
            for _, kind in itertools.product(range(30), KINDS):
                assert stack.enter_context(Wire(server)).send(of(kind)).status() == KINDS[kind][0]
            return
        for kind, other in itertools.pairwise((*KINDS, *KINDS)):
            with served(server, kind), Wire(server) as refused:
                assert refused.send(of(other)).status() == 503, f"{other} beside {kind}"


@contextlib.contextmanager
def served(server: RunningServer, kind: str) -> Iterator[None]:
    """Hold a connection that is served, once the one before it has ended for the server, too."""
    while True:  # the deadline of the test ends it
        with Wire(server) as wire:
            if (status := wire.send(of(kind)).status()) != 503:
                assert status == KINDS[kind][0]
                yield
                return
