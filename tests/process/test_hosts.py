"""`--allowed-hosts`, against real servers: whatever is asked for, and however, another host gets 421."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.transport.hosts import HOST_REFUSED
from tests.process.test_tls import make_certificate
from tests.process.test_too_many import APP, WEBSOCKET
from tests.support.log_lines import pattern
from tests.support.server import DEADLINE_S, RunningServer

KEY = "0123456789abcdef-api"
GOOD, EVIL = "chat.example.org", "evil.example"
OPTIONS = ("--allowed-hosts", "chat.example.org,*.example.net,[::1]", "--sticky", "none")


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    here = tmp_path_factory.mktemp("hosts")
    (here / "app.py").write_text(APP + '\napp.static("/files", "files")\n')
    (here / "files").mkdir()
    (here / "files" / "a.txt").write_text("a")
    env = {"REALTIME_API_KEY": KEY}
    with RunningServer("app.py", *OPTIONS, "--http", request.param, workers=1, cwd=here, env=env) as running:
        running.wait_until_full()
        yield running


class Client:
    """One connection, with answers read one by one."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.sock = sock if tls is None else tls.wrap_socket(sock)
        self.stream = self.sock.makefile("rb")

    def ask(self, request: bytes) -> int:
        """Send a request and return the status of the next answer, whose body is read."""
        self.sock.sendall(request)
        return self.status()

    def status(self) -> int:
        line = self.stream.readline()
        length = 0
        while (field := self.stream.readline()) not in (b"\r\n", b""):
            if field.lower().startswith(b"content-length:"):
                length = int(field.partition(b":")[2])
        self.stream.read(length)
        return int(line.split()[1])

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self.sock.close()


def get(path: str, host: str, method: str = "GET", extra: str = "", body: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{extra}\r\n{body}".encode()


def websocket(path: str, host: str) -> bytes:
    return WEBSOCKET.format(path).replace("Host: h\r\n", f"Host: {host}\r\n").encode()


CONNECT = json.dumps({"id": 1, "connect": {}})
PUBLISH = json.dumps({"channel": "a", "data": {}})
REQUESTS = {
    "a page": lambda host: get("/", host),
    "our client": lambda host: get("/realtime.js", host),
    "a file": lambda host: get("/files/a.txt", host),
    "a mounted application": lambda host: get("/hosted/", host),
    "a body": lambda host: get("/hosted/", host, "POST", body="x" * 5000),
    "the API": lambda host: get("/api/info", host, "POST", f"X-API-Key: {KEY}\r\n", "{}"),
    "the API, a publication": lambda host: get("/api/publish", host, "POST", f"X-API-Key: {KEY}\r\n", PUBLISH),
    "what the API is": lambda host: get("/api/openapi.json", host, extra=f"X-API-Key: {KEY}\r\n"),
    "a stream": lambda host: get("/connection/http_stream", host, "POST", body=CONNECT),
    "a one-way stream": lambda host: get("/connection/uni_sse", host),
    "beside a stream": lambda host: get("/emulation", host, "POST", body="{}"),
    "a WebSocket": lambda host: websocket("/connection/websocket", host),
    "a one-way WebSocket": lambda host: websocket("/connection/uni_websocket", host),
    "a hosted WebSocket": lambda host: websocket("/hosted/ws", host),
    "an absolute target": lambda host: get(f"http://{host}/hosted/", host),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_another_host_gets_421_whatever_is_asked_for(server: RunningServer, what: str) -> None:
    with Client(server.port) as client:
        assert client.ask(REQUESTS[what](EVIL)) == 421
    with Client(server.port) as client:
        assert client.ask(REQUESTS[what](GOOD)) != 421
    with Client(server.port) as client:  # as a later request of a connection
        assert client.ask(get("/hosted/", GOOD)) == 200
        assert client.ask(REQUESTS[what](EVIL)) == 421


def test_each_request_of_a_connection_is_looked_at_and_the_connection_goes_on(server: RunningServer) -> None:
    with Client(server.port) as client:
        assert client.ask(get("/hosted/", f"{GOOD}:{server.port}")) == 200
        for body in ("", "x" * 100_000):
            assert client.ask(get("/hosted/", EVIL, "POST", body=body)) == 421
            assert client.ask(get("/hosted/", "a.example.net")) == 200
        client.sock.sendall(get("/hosted/", "[::1]") + get("/hosted/", EVIL) + get("/hosted/", GOOD))
        assert [client.status() for _ in range(3)] == [200, 421, 200], "in one go"


def test_a_request_names_one_host(server: RunningServer) -> None:
    with Client(server.port) as client:
        assert client.ask(b"GET /hosted/ HTTP/1.0\r\n\r\n") == 421
    for first in (b"", get("/hosted/", GOOD)):
        with Client(server.port) as client:
            client.sock.sendall(first)
            if first:
                assert client.status() == 200
            assert client.ask(get("/hosted/", GOOD, extra=f"Host: {EVIL}\r\n")) == 400
        with Client(server.port) as client:
            client.sock.sendall(first)
            if first:
                assert client.status() == 200
            assert client.ask(get(f"http://{EVIL}/hosted/", GOOD)) == 400, "the target goes before it"


def test_balancers_ask_for_health_by_any_host_and_get_nothing_else(server: RunningServer) -> None:
    with Client(server.port) as client:
        assert client.ask(get("/health", "192.0.2.1")) == 200
        assert client.ask(get("/health/", "192.0.2.1")) == 421
        assert client.ask(get("/health?probe", "192.0.2.1:80")) == 200
    with Client(server.port) as client:
        assert client.ask(b"GET /health HTTP/1.0\r\n\r\n") == 200


def test_they_are_counted_and_logged_once_a_second_and_the_banner_says_what_for(server: RunningServer) -> None:
    with Client(server.port) as client:
        for _ in range(50):
            assert client.ask(get("/hosted/", EVIL)) == 421
    lines = server.log.find_all(pattern(HOST_REFUSED, address="127.0.0.1", host=EVIL, more=r"(\d+)"))
    assert 1 <= len(lines) < 50
    line = server.log.wait_for(r"^\s+hosts +chat\.example\.org, \*\.example\.net, \[::1\]; (.*)$")
    assert re.search("421.*DNS rebinding.*Host header", line[1])
    while server.status()["workers"][0]["statistics"]["misdirected"] < 50:  # the test's own deadline ends it
        pass


def test_behind_tls_and_proxies_it_is_alike(tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, "hosts")
    (tmp_path / "app.py").write_text(APP)
    tls = ssl.create_default_context(cafile=str(certfile))
    tls.check_hostname = False
    options = ("--certfile", str(certfile), "--keyfile", str(keyfile), "--allowed-hosts", GOOD)
    with (
        RunningServer("app.py", *options, "--trusted-proxies", "127.0.0.1", workers=1, cwd=tmp_path) as server,
        contextlib.ExitStack() as stack,
    ):
        server.wait_until_full()
        client = stack.enter_context(Client(server.port, tls))
        forwarded = "X-Forwarded-For: 192.0.2.9\r\n"
        assert client.ask(get("/hosted/", EVIL, extra=forwarded)) == 421
        assert client.ask(get("/hosted/", GOOD, extra=forwarded)) == 200
        assert client.ask(get("/health", EVIL)) == 200
        for path in ("/connection/websocket", "/hosted/ws"):
            assert stack.enter_context(Client(server.port, tls)).ask(websocket(path, EVIL)) == 421
            assert stack.enter_context(Client(server.port, tls)).ask(websocket(path, GOOD)) == 101
        server.log.wait_for(pattern(HOST_REFUSED, address="192.0.2.9", host="evil.example"))
