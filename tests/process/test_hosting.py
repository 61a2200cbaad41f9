"""What an operator can say of a hosted application: a line for each request, the path under which a proxy serves it."""

from __future__ import annotations

import json
import re

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from realtime.transport.access import REQUEST_SERVED
from tests.support.http import Client
from tests.support.log_lines import pattern
from tests.support.server import ROOT, RunningServer

BARE = f"{ROOT / 'tests' / 'support' / 'bare_asgi.py'}:app"
MOUNTED = """
from realtime import App
from tests.support.bare_asgi import app as bare

app = App()
app.mount("/below", bare)
"""


def served(**fields: object) -> str:
    return pattern(REQUEST_SERVED, **fields)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_each_request_is_a_line_without_its_query(http: str) -> None:
    with RunningServer(BARE, "--access-log", "--http", http, workers=1) as server:
        with Client(server.port, "127.5.6.7") as client:
            client.send(b"GET /scope?token=hushhush HTTP/1.1\r\nHost: h\r\n\r\n")
            client.answer()
            client.send(b"POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nfour")
            length = int(client.answer()["headers"]["content-length"])
            client.send(b"GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            client.stream.read()
        of = {"address": "127.5.6.7"}
        end = {"bytes": r"\d+", "ms": r"[\d.]+"}
        server.log.wait_for(r"0/\d+ +" + served(**of, method="GET", path="/scope", status=200, **end) + "$")
        server.log.wait_for(served(**of, method="POST", path="/body", status=200, bytes=length, ms=r"[\d.]+") + "$")
        server.log.wait_for(served(**of, method="GET", path="/nowhere", status=404, **end))
        assert not server.log.find_all("hushhush")


def test_websockets_and_failures_are_lines_too() -> None:
    with RunningServer(BARE, "--access-log", workers=1) as server:
        with connect(f"{server.url.replace('http', 'ws')}/echo", proxy=None) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"
        server.log.wait_for(
            served(address="127.0.0.1", method="WEBSOCKET", path="/echo", status=101, bytes=5, closed=1000)
        )
        with pytest.raises(InvalidStatus):
            connect(f"{server.url.replace('http', 'ws')}/refuse", proxy=None)
        server.log.wait_for(served(method="WEBSOCKET", path="/refuse", status=403, bytes=0, closed=r"\d+"))
        with Client(server.port) as client:
            client.send(b"GET /fail HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert client.stream.readline().split()[1] == b"500"
        server.log.wait_for(served(method="GET", path="/fail", status=500, bytes=0))


def test_a_program_reads_the_same_as_fields() -> None:
    with RunningServer(BARE, "--access-log", "--log-format", "json", workers=1) as server:
        with Client(server.port) as client:
            client.send(b"GET /scope HTTP/1.1\r\nHost: h\r\n\r\n")
            client.answer()
        line = json.loads(server.log.wait_for(r'^{.*"logger": "realtime.access".*}$')[0])
        assert (line["process"], line["address"], line["method"], line["path"]) == ("0", "127.0.0.1", "GET", "/scope")
        assert line["status"] == 200
        assert line["bytes"] > 0
        assert line["ms"] >= 0


def test_without_being_asked_no_request_is_a_line() -> None:
    with RunningServer(BARE, workers=1) as server, Client(server.port) as client:
        client.send(b"GET /scope HTTP/1.1\r\nHost: h\r\n\r\n")
        client.answer()
        client.send(b"GET /scope HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        client.stream.read()
        assert not server.log.find_all("/scope")


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_the_path_that_a_proxy_takes_off_is_where_the_application_knows_it(http: str, tmp_path: object) -> None:
    path = f"{tmp_path}/app.py"
    with open(path, "w") as file:
        file.write(MOUNTED)
    with (
        RunningServer(path, "--root-path", "/chat/v1", "--http", http, workers=1) as server,
        Client(server.port) as client,
    ):
        client.send(b"GET /below/scope?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        scope = client.answer()
        assert (scope["root_path"], scope["path"]) == ("/chat/v1/below", "/chat/v1/below/scope")
        assert re.fullmatch(r"/chat/v1/below/scope", scope["raw_path"])
        client.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.answer()["status"] == "ok", "what is built in is where the proxy sends it"
