"""
Each limit that is a setting, at its least and at its most, on each kind of connection: our own WebSockets, a hosted
application's, its HTTP, streams, the API, and what is built in; over both parsers, as a connection's first request and
as a later one. What waits for a client is in test_limits_backlog.py, times are in test_limits_times.py, and what is
counted, such as rooms and commands, is in test_limits_counts.py.

Nothing here says how long something took: what is awaited is an answer, the end of a stream or a line in the log.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from realtime.transport.client_log import SLOW_CLIENT
from tests.process.test_tls import make_certificate, trusting_anybody
from tests.support.log_lines import pattern
from tests.support.server import DEADLINE_S, RunningServer
from tests.support.wire import (
    APP,
    CLOSE,
    CONNECT,
    ENV,
    KEY,
    KINDS,
    PARSERS,
    PING,
    PONG,
    STREAMS,
    TEXT,
    UPGRADE,
    Wire,
    ask,
    of,
)

LEAST = ("--head-bytes", "1KiB", "--head-headers", "10", "--message-bytes", "1KiB", "--hosted-message-bytes", "1KiB",
         "--outbound-bytes", "16KiB", "--outbound", "500ms")  # fmt: skip
MOST = ("--head-bytes", "64KiB", "--head-headers", "1000", "--message-bytes", "64MiB", "--hosted-message-bytes",
        "1GiB", "--outbound-bytes", "256MiB", "--outbound", "5m", "--handshake", "5m", "--keep-alive", "1h",
        "--ping", "10m", "--pong", "5m")  # fmt: skip
QUICK = ("--handshake", "100ms", "--keep-alive", "100ms", "--ping", "100ms", "--pong", "50ms")
BOUNDS = {"least": (1024, 10), "most": (65536, 1000)}


@pytest.fixture(scope="module", params=list(itertools.product(BOUNDS, PARSERS)), ids="-".join)
def bounded(request: pytest.FixtureRequest) -> Iterator[tuple[RunningServer, str]]:
    """A server with every size at its least or at its most."""
    bound, parser = request.param
    options = LEAST if bound == "least" else MOST
    with RunningServer(APP, "--http", parser, *options, workers=1, env=ENV) as server:
        yield server, bound


@pytest.fixture(scope="module", params=PARSERS)
def quick(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server with every time at its least, and debug lines."""
    with RunningServer(APP, "--http", request.param, *QUICK, workers=1, env=ENV) as server:
        yield server


@pytest.fixture(scope="module", params=PARSERS)
def usual(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server with all limits as they are by default."""
    with RunningServer(APP, "--http", request.param, workers=1, env=ENV) as server:
        yield server


# Heads


def sized(kind: str, size: int) -> bytes:
    """Make a request whose head has so many bytes, in one line as far as it can."""
    room = size - len(of(kind, "X: ").partition(b"\r\n\r\n")[0]) - 4
    assert room >= 0
    return of(kind, f"X: {'v' * room}")


def with_headers(kind: str, count: int) -> bytes:
    have = of(kind).partition(b"\r\n\r\n")[0].count(b"\r\n")
    return of(kind, *(f"X{at}: v" for at in range(count - have)))


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_may_have_what_the_settings_say_and_no_more(
    bounded: tuple[RunningServer, str], kind: str, later: bool
) -> None:
    server, bound = bounded
    most_bytes, most_headers = BOUNDS[bound]
    expected = KINDS[kind][0]
    for request, status in (
        (sized(kind, most_bytes), expected),
        (sized(kind, most_bytes + 1), 431),
        (with_headers(kind, most_headers), expected),
        (with_headers(kind, most_headers + 1), 431),
    ):
        with Wire(server) as wire:
            if later:
                assert wire.send(of("what is built in")).answer() == 200
            wire.send(request)
            assert wire.status() == status, (len(request), request[:60])


@pytest.mark.parametrize(
    "part", [b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: v\r\n" * 20_000]
)
def test_a_later_head_that_does_not_end_is_refused_at_the_limit(
    bounded: tuple[RunningServer, str], part: bytes
) -> None:
    server, _ = bounded
    with Wire(server) as wire:
        assert wire.send(of("what is built in")).answer() == 200
        with contextlib.suppress(OSError):  # it may be refused before all was sent
            wire.send(part + b"v" * 300_000)
        assert wire.status() in (400, 431)


def test_trailers_of_a_body_are_bounded_as_well(bounded: tuple[RunningServer, str]) -> None:
    server, _ = bounded
    with Wire(server) as wire:
        head = "POST /web/page HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.send(f"{head}3\r\nabc\r\n0\r\nX: ".encode())
        with contextlib.suppress(OSError):
            for _ in range(40):
                wire.send(b"v" * 32_768)
        with contextlib.suppress(ConnectionResetError):
            assert wire.rest()[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")


def test_a_later_head_has_to_come_in_time(quick: RunningServer) -> None:
    for request in (of("hosted HTTP"), of("our WebSocket")):
        with Wire(quick) as wire:
            wire.send(of("what is built in") + request[:20])
            assert wire.answer() == 200
            assert wire.status() == 408
            wire.rest()


@pytest.fixture(scope="module", params=PARSERS)
def encrypted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose primary sees no head: its workers end TLS."""
    certfile, keyfile = make_certificate(tmp_path_factory.mktemp("tls"), "first")
    tls = ("--certfile", str(certfile), "--keyfile", str(keyfile), "--handshake", "2s")
    with RunningServer(APP, "--http", request.param, *tls, *LEAST, workers=1, env=ENV) as server:
        yield server


@pytest.mark.parametrize("kind", ["our WebSocket", "a hosted WebSocket", "hosted HTTP", "a stream"])
def test_so_has_a_head_within_tls(encrypted: RunningServer, kind: str) -> None:
    for request, status in (
        (sized(kind, 1024), KINDS[kind][0]),
        (sized(kind, 1025), 431),
        (with_headers(kind, 10), KINDS[kind][0]),
        (with_headers(kind, 11), 431),
    ):
        with Wire(encrypted) as wire:
            assert wire.encrypt(trusting_anybody()).send(request).status() == status, (len(request), request[:60])


@pytest.mark.parametrize("part", [b"", b"GET / HT"])
def test_a_head_within_tls_has_to_come_in_time(encrypted: RunningServer, part: bytes) -> None:
    with Wire(encrypted) as wire:
        assert wire.encrypt(trusting_anybody()).send(part).answer() == 408
        assert wire.rest() == b""


# Messages


def test_a_message_to_each_kind_of_websocket_may_have_what_the_settings_say(bounded: tuple[RunningServer, str]) -> None:
    server, bound = bounded
    size = 1024 if bound == "least" else 17 * 1024**2
    with Wire(server) as wire:
        assert wire.send(of("a hosted WebSocket")).status() == 101
        wire.frame_of(TEXT)
        wire.say(b"v" * size)
        assert json.loads(wire.frame_of(TEXT)) == {"size": size}
    command = '{"id":1,"connect":{"name":"%s"}}'
    with Wire(server) as wire:
        assert wire.send(of("our WebSocket")).status() == 101
        wire.say((command % ("v" * (size - len(command) + 2))).encode())
        assert b'"connect"' in wire.frame_of(TEXT)


@pytest.mark.parametrize("kind", ["our WebSocket", "a hosted WebSocket"])
def test_one_byte_more_is_1009_and_read_though_the_message_is_still_on_its_way(
    bounded: tuple[RunningServer, str], kind: str
) -> None:
    server, bound = bounded
    most = 64 * 1024**2 if kind == "our WebSocket" else 1024**3
    size = 1025 if bound == "least" else most + 1
    with Wire(server) as wire:
        assert wire.send(of(kind)).status() == 101
        wire.send(struct.pack("!BBQ", 0x82, 0xFF, size) + bytes(4))
        for _ in range(8):
            wire.send(bytes(128))
        assert struct.unpack("!H", wire.frame_of(CLOSE)[:2]) == (1009,)
        wire.say(struct.pack("!H", 1009), CLOSE).finish()
        assert wire.rest() == b"", "the end, and no reset"


def test_a_message_by_http_may_have_what_the_settings_say(bounded: tuple[RunningServer, str]) -> None:
    server, bound = bounded
    size = 1024 if bound == "least" else 5 * 1024**2
    for kind in STREAMS:
        _, method, path, _, _ = KINDS[kind]
        command = '{"id":1,"connect":{"name":"%s"}}'
        for more, status in ((0, 200), (1, 413)) if bound == "least" else ((0, 200),):
            body = command % ("v" * (size + more - len(command) + 2))
            with Wire(server) as wire:
                assert wire.send(ask(method, path, body=body)).status() == status, (kind, more)
    for more, status in ((0, 404), (1, 413)) if bound == "least" else ((0, 404),):
        data = json.dumps('"' * (size + more))  # of which each is two within a text
        body = f'{{"node":"n","session":"s","data":{data}}}'
        with Wire(server) as wire:
            assert wire.send(ask("POST", "/emulation", body=body)).status() == status, more
    if bound == "most":
        body = json.dumps({"channel": "chat:a", "data": "v" * size})
        with Wire(server) as wire:
            assert wire.send(ask("POST", "/api/publish", f"X-API-Key: {KEY}", body=body)).answer() == 200


# Times


def test_a_hosted_application_has_to_answer_a_handshake_in_time(quick: RunningServer) -> None:
    mark = quick.log.mark()
    with Wire(quick) as wire:
        assert wire.send(ask("GET", "/web/never?token=hush", *UPGRADE)).answer() == 503
        assert wire.rest() == b""
    quick.log.wait_for(pattern("x handshake not answered", address="127.0.0.1", within_s=0.1), since=mark)
    quick.log.wait_for("never accepted, and told 1006", since=mark)


@pytest.mark.parametrize("kind", ["hosted HTTP", "what is built in", "a static file", "the API"])
def test_a_connection_without_a_request_is_kept_for_as_long_as_the_setting_says(
    quick: RunningServer, kind: str
) -> None:
    with Wire(quick) as wire:
        assert wire.send(of(kind)).answer() == 200
        assert wire.rest() == b"", "it ends by itself"


def test_a_hosted_websocket_is_pinged_and_closed_when_it_does_not_answer(quick: RunningServer) -> None:
    with Wire(quick) as wire:
        assert wire.send(of("a hosted WebSocket")).status() == 101
        wire.frame_of(PING)
        assert struct.unpack("!H", wire.frame_of(CLOSE)[:2]) == (1011,)


def test_so_is_a_client_of_rooms(quick: RunningServer) -> None:
    with Wire(quick) as wire:
        assert wire.send(of("our WebSocket")).status() == 101
        assert b'"connect"' in wire.say(CONNECT.encode()).frame_of(TEXT)
        assert wire.frame_of(TEXT) == b"{}"
        assert struct.unpack("!H", wire.frame_of(CLOSE)[:2]) == (3012,)


def test_a_pong_that_waits_behind_what_the_application_does_not_read_is_not_missing(quick: RunningServer) -> None:
    with Wire(quick) as wire:
        assert wire.send(of("a hosted WebSocket").replace(b"/echo", b"/deaf")).status() == 101
        wire.frame_of(TEXT)
        wire.say(b"four", TEXT)
        wire.say(wire.frame_of(PING), PONG)
        test_a_hosted_websocket_is_pinged_and_closed_when_it_does_not_answer(quick)  # by then it would have been too
        with Wire(quick) as other:
            assert other.send(ask("GET", "/web/wake")).answer() == 200
        assert json.loads(wire.frame_of(TEXT)) == {"size": 4}


@pytest.mark.parametrize("bounded", [("least", parser) for parser in PARSERS], indirect=True, ids="-".join)
@pytest.mark.parametrize("kind", ["hosted HTTP", "a hosted WebSocket"])
def test_a_hosted_client_that_takes_nothing_is_cut_off(bounded: tuple[RunningServer, str], kind: str) -> None:
    server, _ = bounded
    mark = server.log.mark()
    with Wire(server, receive_buffer=4096) as wire:
        wire.send(of(kind).replace(b"/page", b"/endless").replace(b"/echo", b"/endless"))
        server.log.wait_for(pattern(SLOW_CLIENT, address="127.0.0.1", waiting_bytes=r"\d+"), since=mark)
        with contextlib.suppress(ConnectionResetError):
            wire.rest()


# What is said of a request


def test_cookies_of_several_lines_are_one_list(usual: RunningServer) -> None:
    lines, whole = ("Cookie: a=1; b=2", "Cookie: c=3"), "a=1; b=2; c=3"
    for kind in ("our WebSocket", "a hosted WebSocket", "hosted HTTP", *STREAMS):
        with Wire(usual) as wire:
            wire.send(of(kind, *lines))
            assert wire.status() == KINDS[kind][0]
            if kind == "our WebSocket":
                wire.say(CONNECT.encode())
            wire.until(f'"{whole}"'.encode())
    for path in ("/connection/uni_sse", "/connection/uni_http_stream", "/connection/uni_websocket"):
        is_websocket = path.endswith("socket")
        with Wire(usual) as wire:
            wire.send(
                ask(
                    *(("GET", path, *UPGRADE) if is_websocket else ("POST", path)),
                    *lines,
                    body="{}" * (not is_websocket),
                )
            )
            wire.head()
            if is_websocket:
                wire.say(b"{}")
            wire.until(f'"{whole}"'.encode())


@pytest.mark.parametrize("kind", ["hosted HTTP", "what is built in", "a static file", "the API", *STREAMS])
def test_http_1_0_has_no_chunks(usual: RunningServer, kind: str) -> None:
    _, method, path, fields, body = KINDS[kind]
    for path_, expects in ((path, ()), (path.replace("page", "unsized"), ("Expect: 100-continue",))):
        with Wire(usual) as wire:
            wire.send(ask(method, path_, *fields, *expects, body=body, version="1.0"))
            head = wire.head()
            assert " 200 " in head.splitlines()[0]
            assert "transfer-encoding" not in head
            if kind in STREAMS:
                assert wire.until(b'"connect"').strip().startswith((b'{"id":1', b'data: {"id":1')), "no chunk's size"
            elif kind == "hosted HTTP":
                assert json.loads(wire.rest()) == {"cookies": [], "body": 0}
            else:
                length = re.search(r"content-length: (\d+)", head)
                assert length is not None
                assert len(wire.rest()) == int(length[1])


# Half-closed clients


@pytest.mark.parametrize("kind", ["hosted HTTP", "what is built in", "a static file", "the API"])
def test_a_client_that_has_said_all_gets_its_answer_and_the_end(usual: RunningServer, kind: str) -> None:
    for path in ("/web/slow", "/web/unsized") if kind == "hosted HTTP" else ("",):
        request = of(kind).replace(b"/web/page", path.encode())
        with Wire(usual) as wire:
            assert wire.send(request).finish().status() == 200
            wire.rest()
        with Wire(usual) as wire:
            wire.send(request * 3).finish()
            assert wire.rest().count(b"HTTP/1.1 200 ") == 3, "each of those that it sent"


def test_the_rest_of_a_half_closed_clients_requests_is_nothing(usual: RunningServer) -> None:
    slow = ask("GET", "/web/slow")
    for behind in (b"GET /web", ask("POST", "/web/page", body="12345")[:-2]):
        with Wire(usual) as wire:
            wire.send(slow + behind).finish()
            assert wire.rest().count(b"HTTP/1.1 200 ") == 1
    with Wire(usual) as wire:
        assert wire.send(ask("POST", "/web/page", body="12345")[:-2]).finish().rest() == b""


@pytest.mark.parametrize("kind", ["our WebSocket", "a hosted WebSocket", *STREAMS])
def test_a_half_closed_stream_is_gone(usual: RunningServer, kind: str) -> None:
    with Wire(usual) as wire:
        wire.send(of(kind)).head()
        if "WebSocket" not in kind:
            wire.until(b'"connect"')
        wire.finish().rest()


def test_no_connection_is_left(usual: RunningServer) -> None:
    """Comes last of those with this server."""
    with Wire(usual) as wire:
        wire.send(ask("GET", "/health", "Connection: close"))
        assert json.loads(wire.rest().partition(b"\r\n\r\n")[2])["connections"] == 1


# Logs and goodbyes

LOGGING = """
import logging, sys
from tests.support.limits_app import app

for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "websockets", "websockets.server"):
    logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
    logging.getLogger(name).setLevel(logging.DEBUG)
"""


@pytest.mark.parametrize("parser", PARSERS)
def test_no_query_is_logged_whatever_handlers_the_application_has(parser: str, tmp_path: Any) -> None:
    path = tmp_path / "app.py"
    path.write_text(LOGGING)
    with RunningServer(f"{path}:app", "--http", parser, "--log-level", "debug", workers=1, env=ENV) as server:
        for kind in KINDS:
            request = of(kind).replace(b" HTTP/1.1", b"?token=hushhush HTTP/1.1")
            with Wire(server) as wire:
                assert wire.send(request).status() == KINDS[kind][0]
        with Wire(server) as wire:
            refused = of("a hosted WebSocket").replace(b"/web/echo", b"/nowhere?token=hushhush")
            assert wire.send(refused).status() == 403
    assert not server.log.find_all("hushhush")


def test_a_drain_closes_a_hosted_websocket_and_waits_for_its_goodbye(tmp_path: Any) -> None:
    with (
        RunningServer(APP, "--drain", "20", workers=1, env=ENV) as server,
        Wire(server) as silent,
        Wire(server) as polite,
    ):
        for wire in (silent, polite):
            assert wire.send(of("a hosted WebSocket")).status() == 101
            wire.frame_of(TEXT)
        server.process.terminate()
        for wire in (silent, polite):
            assert struct.unpack("!H", wire.frame_of(CLOSE)[:2]) == (1012,)
        polite.say(struct.pack("!H", 1012), CLOSE)
        assert polite.rest() == b""
        silent.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.sock.recv(1)
        silent.sock.settimeout(DEADLINE_S)
        with contextlib.suppress(ConnectionResetError):
            assert silent.rest() == b"", "it is not waited for without end"
        assert server.wait() == 0
