"""
What may wait for a client, by bytes and by time: each limit at its least while the other is at its most, and both at
their most; on each kind of connection for which something can wait, over both parsers.

Nothing here says how long something took. A client that takes nothing is begun with both limits at their most. After
it, another of the same kind is begun with one limit at its least, and gets the same. Once that one was closed as slow,
the first one reads, and everything arrives.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from realtime.transport.client_log import SLOW_CLIENT
from tests.support.limits_app import MANY
from tests.support.log_lines import pattern
from tests.support.server import RunningServer
from tests.support.wire import ENV, KEY, OF_ROOMS, PARSERS, TEXT, UPGRADE, Wire, ask, join, publish_request

SIZE = 256 * 1024
COUNT = 64  # of this size: 16 MiB, several times what the kernels take
QUIET = ("--message-bytes", "64MiB", "--ping", "10m", "--pong", "5m")
MOST = ("--outbound", "5m", "--outbound-bytes", "256MiB")
LITTLE_TIME = ("--outbound", "500ms", "--outbound-bytes", "256MiB")
FEW_BYTES = ("--outbound", "5m", "--outbound-bytes", "16KiB")
SLOW = pattern(SLOW_CLIENT, address="127.0.0.1", waiting_bytes=r"\d+")

PIPELINED = 1000  # requests for the browser client, of 20 KiB and more
HOSTED = {
    "a hosted WebSocket": ask("GET", "/web/many", *UPGRADE),
    "hosted HTTP": ask("GET", "/web/endless"),
    "a static file": ask("GET", "/large/file"),
    "the API": ask("POST", "/api/history", f"X-API-Key: {KEY}", body='{"channel":"kept:a","limit":300}'),
    "what is built in": ask("GET", "/realtime.js") * PIPELINED,
}


@dataclass(frozen=True)
class Servers:
    """One server with both limits at their most, and one for each with that one at its least."""

    most: RunningServer
    little_time: RunningServer
    few_bytes: RunningServer


@pytest.fixture(scope="module", params=PARSERS)
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("app")
    (directory / "large").mkdir()
    (directory / "large" / "file").write_bytes(b"x" * (COUNT * SIZE))
    path = directory / "app.py"
    path.write_text(f"from tests.support.limits_app import app\napp.static('/large', {str(directory / 'large')!r})\n")
    with contextlib.ExitStack() as stack:
        yield Servers(*[
            stack.enter_context(
                RunningServer(f"{path}:app", "--http", request.param, *QUIET, *options, workers=1, env=ENV)
            )
            for options in (MOST, LITTLE_TIME, FEW_BYTES)
        ])  # fmt: skip


def publish(server: RunningServer, room: str, *, until: str | None = None, since: int = 0) -> None:
    """Publish more than the kernels take, and then a last word; or until the log has a line."""
    with Wire(server) as wire:
        for data in (*([number, "x" * SIZE] for number in range(COUNT)), "the last"):
            assert wire.send(publish_request(room, data)).answer() == 200
            if until is not None and any(re.search(until, line) for line in server.log.lines[since:]):
                return


def read_to_the_end(wire: Wire) -> None:
    """Take what comes, up to the end of the connection or of a stream."""
    with contextlib.suppress(ConnectionResetError):
        while not wire.got.endswith(b"0\r\n\r\n") and (data := wire.sock.recv(65536)):
            wire.got += data


@pytest.mark.parametrize("kind", OF_ROOMS)
def test_what_waits_for_a_client_of_rooms_arrives_where_both_limits_are_at_their_most(
    servers: Servers, kind: str
) -> None:
    room = f"plain:{kind}"
    with join(servers.most, kind, room, receive_buffer=4096) as patient:
        publish(servers.most, room)
        for server in (servers.little_time, servers.few_bytes):
            mark = server.log.mark()
            with join(server, kind, room, receive_buffer=4096) as cut:
                publish(server, room, until=SLOW, since=mark)
                server.log.wait_for(SLOW, since=mark)
                if "WebSocket" not in kind:  # its end waits for the goodbye of a client that reads
                    read_to_the_end(cut)
        received = patient.until(b'"the last"')
    assert [int(each) for each in re.findall(rb'"data":\[(\d+), "x', received)] == list(range(COUNT))
    assert not servers.most.log.find_all(SLOW_CLIENT)


@pytest.mark.parametrize("kind", HOSTED)
def test_what_a_client_of_http_or_of_an_application_takes_late_arrives_where_the_time_is_at_its_most(
    servers: Servers, kind: str
) -> None:
    if kind == "the API":
        for server in (servers.most, servers.little_time):
            publish(server, "kept:a")
    with Wire(servers.most, receive_buffer=4096) as patient:
        head = patient.send(HOSTED[kind]).head()
        mark = servers.little_time.log.mark()
        with Wire(servers.little_time, receive_buffer=4096) as cut:
            cut.send(HOSTED[kind]).head()
            servers.little_time.log.wait_for(SLOW, since=mark)
            read_to_the_end(cut)
        read_late(patient, kind, head)
    assert not servers.most.log.find_all(SLOW_CLIENT)


def read_late(wire: Wire, kind: str, head: str) -> None:
    """Read all of an answer whose head was read."""
    if kind == "a hosted WebSocket":
        wire.frame_of(TEXT)
        assert sum(len(wire.frame()[1]) for _ in range(MANY)) == MANY * 65536
    elif kind == "hosted HTTP":
        assert wire.until(b"0\r\n\r\n").count(b"x") == MANY * 65536
    elif kind == "a static file":
        assert wire.exactly(COUNT * SIZE) == b"x" * (COUNT * SIZE)
    elif kind == "the API":
        assert wire.until(b'"the last"').count(b"x" * SIZE) == COUNT
    else:
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None
        wire.exactly(int(length[1]))
        for _ in range(PIPELINED - 1):
            assert wire.answer() == 200
