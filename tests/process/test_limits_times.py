"""
Each time that is a limit, at its least and at its most, on each kind of connection, over both parsers: for a head, for
an application's answer to a handshake, without a request, between pings and for their answers.

Nothing here says how long something took. A connection is begun with all times at their most. After it, another of the
same kind is begun with all at their least, and does nothing. Once that one was closed for it, the first one is served.
What waits for a client, and for how long, is in test_limits_backlog.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.server import RunningServer
from tests.support.wire import (
    APP,
    CLOSE,
    ENV,
    KINDS,
    OF_ROOMS,
    PARSERS,
    PING,
    TEXT,
    UPGRADE,
    Wire,
    ask,
    join,
    of,
    publish_request,
)

LEAST = ("--handshake", "100ms", "--keep-alive", "100ms", "--ping", "100ms", "--pong", "50ms")
MOST = ("--handshake", "5m", "--keep-alive", "1h", "--ping", "10m", "--pong", "5m")


@dataclass(frozen=True)
class Servers:
    """One server with all times at their most, and one with all at their least."""

    most: RunningServer
    least: RunningServer


@pytest.fixture(scope="module", params=PARSERS)
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with (
        RunningServer(APP, "--http", request.param, *MOST, workers=1, env=ENV) as most,
        RunningServer(APP, "--http", request.param, *LEAST, workers=1, env=ENV) as least,
    ):
        yield Servers(most, least)


# Heads, and what is between requests


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_may_take_as_long_as_the_setting_says(servers: Servers, kind: str, later: bool) -> None:
    request = of(kind)
    with Wire(servers.most) as patient, Wire(servers.least) as late:
        if later:
            assert patient.send(of("what is built in")).answer() == 200
        patient.send(request[:20])
        late.send(of("what is built in") + request[:20] if later else request[:20])
        if later:
            assert late.answer() == 200
        assert late.status() == 408
        late.rest()
        assert patient.is_quiet()
        assert patient.send(request[20:]).status() == KINDS[kind][0]


@pytest.mark.parametrize("kind", ["hosted HTTP", "what is built in", "a static file", "the API"])
def test_a_connection_without_a_request_is_kept_as_long_as_the_setting_says(servers: Servers, kind: str) -> None:
    with Wire(servers.most) as patient, Wire(servers.least) as idle:
        assert patient.send(of(kind)).answer() == 200
        assert idle.send(of(kind)).answer() == 200
        assert idle.rest() == b"", "it ends by itself"
        assert patient.is_quiet()
        assert patient.send(of(kind)).answer() == 200


def test_an_application_may_take_as_long_for_a_handshake_as_the_setting_says(servers: Servers) -> None:
    request = ask("GET", "/web/late", *UPGRADE)
    with Wire(servers.most) as patient, Wire(servers.least) as late:
        patient.send(request)
        assert late.send(request).answer() == 503
        assert patient.is_quiet()
        with Wire(servers.most) as other:
            assert other.send(ask("GET", "/web/wake")).answer() == 200
        assert patient.status() == 101


# Pings


@pytest.mark.parametrize("kind", OF_ROOMS)
def test_a_client_of_rooms_is_pinged_as_often_as_it_was_announced(servers: Servers, kind: str) -> None:
    room, is_one_way = f"plain:{kind}", "one-way" in kind
    with join(servers.most, kind, room) as patient, join(servers.least, kind, room) as silent:
        assert (patient.told["ping"], patient.told.get("pong", False)) == (600, not is_one_way)
        assert (silent.told["ping"], silent.told.get("pong", False)) == (1, not is_one_way), "whole seconds"
        for _ in range(3 if is_one_way else 1):
            silent.until(b"{}")
        if kind == "our WebSocket":
            assert struct.unpack("!H", silent.frame_of(CLOSE)[:2]) == (3012,)
        elif not is_one_way:
            silent.until(b'"code":3012')
        assert patient.is_quiet(), "it was neither pinged nor closed"
        with Wire(servers.most) as wire:
            assert wire.send(publish_request(room, "still here")).answer() == 200
        assert b"{}" not in patient.until(b'"still here"')


def test_a_hosted_websocket_is_pinged_as_often_as_the_setting_says(servers: Servers) -> None:
    with Wire(servers.most) as patient, Wire(servers.least) as silent:
        for wire in (patient, silent):
            assert wire.send(of("a hosted WebSocket")).status() == 101
            wire.frame_of(TEXT)
        silent.frame_of(PING)
        assert struct.unpack("!H", silent.frame_of(CLOSE)[:2]) == (1011,)
        assert patient.is_quiet(), "it was neither pinged nor closed"
        patient.say(b"four")
        assert json.loads(patient.frame_of(TEXT)) == {"size": 4}
