"""
ASGI applications as what `realtime serve` serves: bare ones, and ones mounted beside rooms.

Real processes, real sockets. `tests/support/bare_asgi.py` is written by hand against the ASGI specification; an
application of Starlette's stands for the frameworks. The bare one is asked everything four times: with clients known by
address, where uvicorn reads the connection alone, and with sessions, where each request's head is looked at before the
parser sees it; and parsed by httptools and by h11.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from sticky.loop.log_lines import WORKER_READY
from tests.support.bare_asgi import BIG
from tests.support.log_lines import PID, pattern
from tests.support.server import DEADLINE_S, ROOT, RunningServer

BARE = f"{ROOT / 'tests' / 'support' / 'bare_asgi.py'}:app"


@pytest.fixture(scope="module", params=["ip httptools", "session httptools", "ip h11", "session h11"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    sticky, parser = request.param.split()
    with RunningServer(BARE, "--sticky", sticky, "--http", parser, workers=3) as server:
        server.wait_until_full()
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, path: str, method: str = "GET", **more: Any) -> tuple[int, bytes]:
    client.request(method, path, **more)
    response = client.getresponse()
    return response.status, response.read()


def ask_json(client: http.client.HTTPConnection, path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    status, body = ask(client, path, method, **more)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def open_websocket(server: RunningServer, path: str, **more: Any) -> ClientConnection:
    return connect(f"ws{server.url.removeprefix('http')}{path}", proxy=None, open_timeout=DEADLINE_S, **more)


# Requests and answers


def test_a_get_has_no_body_and_a_post_has_what_was_sent(client: http.client.HTTPConnection) -> None:
    assert ask_json(client, "/body")["length"] == 0
    body = os.urandom(300_000)
    told = ask_json(client, "/body", "POST", body=body)
    assert told == {"method": "POST", "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_reaches_the_application(client: http.client.HTTPConnection, method: str) -> None:
    assert ask_json(client, "/body", method, body=b"four")["method"] == method


def test_a_chunked_body_arrives_whole(client: http.client.HTTPConnection) -> None:
    parts = [os.urandom(size) for size in (1, 70_000, 16, 200_000)]
    told = ask_json(client, "/body", "POST", body=iter(parts), encode_chunked=True)
    assert told["sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_first_part_of_an_answer_is_here_before_the_last_is_made(client: http.client.HTTPConnection) -> None:
    client.putrequest("POST", "/parts")
    client.putheader("Transfer-Encoding", "chunked")
    client.endheaders()
    assert client.sock is not None
    client.send(b"5\r\nfirst\r\n")
    stream = client.sock.makefile("rb")
    while stream.readline() != b"\r\n":
        pass
    assert stream.readline() == b"5\r\n"
    assert stream.readline() == b"FIRST\r\n", "and what makes the last part has not been sent"
    client.send(b"4\r\nlast\r\n0\r\n\r\n")
    assert stream.readline() == b"4\r\n"
    assert stream.readline() == b"LAST\r\n"
    assert stream.readline() + stream.readline() == b"0\r\n\r\n"
    stream.close()


def test_who_expects_to_be_told_to_continue_is_told(client: http.client.HTTPConnection) -> None:
    client.putrequest("POST", "/body")
    client.putheader("Content-Length", "4")
    client.putheader("Expect", "100-continue")
    client.endheaders()
    assert client.sock is not None
    with client.sock.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        client.send(b"body")
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_connection_is_kept_for_further_requests(client: http.client.HTTPConnection) -> None:
    ports = set()
    for number in range(20):
        assert ask_json(client, "/body", "POST", body=b"x" * number)["length"] == number
        ports.add(ask_json(client, "/scope")["client"][1])
    assert len(ports) == 1


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    wanted = [f"/scope?{number}" for number in range(10)]
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in wanted))
        for number in range(10):
            head = b"".join(iter(stream.readline, b"\r\n"))
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert json.loads(stream.read(length))["query_string"] == str(number)


@pytest.mark.parametrize(
    "head", [b"GET /scope HTTP/1.0\r\n\r\n", b"GET /scope HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]
)
def test_a_connection_that_the_client_does_not_keep_ends_after_the_answer(server: RunningServer, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as sock, sock.makefile("rb") as stream:
        sock.sendall(head)
        answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["http_version"] == head.split()[2][5:8].decode()


def test_a_big_answer_arrives_whole(client: http.client.HTTPConnection) -> None:
    status, body = ask(client, "/big")
    assert status == 200
    assert body == b"".join(at.to_bytes(8, "big") * 8192 for at in range(0, BIG, 65536))


def test_head_is_answered_without_a_body_and_the_connection_goes_on(client: http.client.HTTPConnection) -> None:
    length = len(ask(client, "/state")[1])
    client.request("HEAD", "/body")
    response = client.getresponse()
    assert response.status == 200
    assert int(response.headers["Content-Length"]) > length / 10
    assert response.read() == b""
    assert ask_json(client, "/body")["method"] == "GET"


def test_what_the_application_does_not_know_is_its_own_404(client: http.client.HTTPConnection) -> None:
    assert ask(client, "/nothing") == (404, b"the application has no such page")


def test_an_exception_is_a_500_and_the_server_goes_on(
    server: RunningServer, client: http.client.HTTPConnection
) -> None:
    mark = server.log.mark()
    assert ask(client, "/fail") == (500, b"Internal Server Error")
    server.log.wait_for("ZeroDivisionError: the application's own fault$", since=mark)
    assert ask(client, "/nothing")[0] == 404
    assert ask_json(client, "/body")["method"] == "GET"


def test_an_exception_midway_cuts_the_answer_so_that_nobody_takes_it_for_whole(
    client: http.client.HTTPConnection,
) -> None:
    client.request("GET", "/fail-midway")
    response = client.getresponse()
    with pytest.raises(http.client.IncompleteRead) as raised:
        response.read()
    assert raised.value.partial == b"half"
    client.close()
    assert ask_json(client, "/body")["method"] == "GET"


def test_what_is_no_http_is_refused(server: RunningServer, client: http.client.HTTPConnection) -> None:
    assert ask_json(client, "/body")["method"] == "GET", "the connection is in the worker"
    client.send(b"nonsense\r\n\r\n")
    assert client.sock is not None
    with client.sock.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        assert b"connection: close\r\n" in stream.read().lower()


def test_the_application_is_told_when_the_client_is_gone(server: RunningServer) -> None:
    mark = server.log.mark()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        server.log.wait_for(r"app \d+: waiting", since=mark)
    server.log.wait_for(r"app \d+: told http.disconnect", since=mark)


# The scope


def test_the_scope_says_what_was_asked(server: RunningServer, client: http.client.HTTPConnection) -> None:
    told = ask_json(
        client, "/scope/caf%C3%A9%20%2F%25/b?q=%C3%A9&q=2&empty=", headers={"X-Two": "a b", "Cookie": "c=1"}
    )
    assert told["type"] == "http"
    assert told["http_version"] == "1.1"
    assert told["scheme"] == "http"
    assert told["method"] == "GET"
    assert told["path"] == "/scope/café /%/b"
    assert told["raw_path"] == "/scope/caf%C3%A9%20%2F%25/b"
    assert told["query_string"] == "q=%C3%A9&q=2&empty="
    assert told["root_path"] == ""
    assert client.sock is not None
    assert told["client"] == list(client.sock.getsockname())
    assert told["server"] == ["127.0.0.1", server.port]
    assert told["asgi"]["version"] == "3.0"
    assert ["x-two", "a b"] in told["headers"]
    assert ["host", f"127.0.0.1:{server.port}"] in told["headers"]


def test_a_header_that_comes_twice_is_there_twice(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"GET /scope HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nX-B: \xe9\r\nConnection: close\r\n\r\n")
        told = json.loads(stream.read().partition(b"\r\n\r\n")[2])
    assert [each for each in told["headers"] if each[0] in ("x-a", "x-b")] == [["x-a", "1"], ["x-a", "2"], ["x-b", "é"]]


def test_the_scope_says_which_worker_serves(server: RunningServer, client: http.client.HTTPConnection) -> None:
    place = ask_json(client, "/scope")["realtime"]
    assert place["slot"] in (0, 1, 2)
    assert server.log.find_all(pattern(WORKER_READY, slot=place["slot"]))
    assert set(place) == {"slot", "worker", "node", "session"}


def test_what_a_stranger_forwards_does_not_reach_client_or_scheme(client: http.client.HTTPConnection) -> None:
    told = ask_json(client, "/scope", headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"})
    assert told["client"][0] == "127.0.0.1"
    assert told["scheme"] == "http"
    assert ["x-forwarded-for", "203.0.113.7"] in told["headers"], "the application may see what was said"


@pytest.mark.parametrize("sticky", ["ip", "session"])
def test_what_a_trusted_proxy_forwards_is_the_client_and_the_scheme(sticky: str) -> None:
    with RunningServer(BARE, "--sticky", sticky, "--trusted-proxies", "127.50.0.0/16", workers=2) as server:
        with (
            socket.create_connection(("127.0.0.1", server.port), DEADLINE_S, ("127.50.0.1", 0)) as sock,
            sock.makefile("rb") as stream,
        ):
            for number, scheme in enumerate(("https", "http", "https")):
                forwarded = f"X-Forwarded-For: 203.0.113.{number}\r\nX-Forwarded-Proto: {scheme}\r\n"
                sock.sendall(f"GET /scope HTTP/1.1\r\nHost: h\r\n{forwarded}\r\n".encode())
                head = b"".join(iter(stream.readline, b"\r\n"))
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                told = json.loads(stream.read(length))
                assert (told["client"], told["scheme"]) == ([f"203.0.113.{number}", 0], scheme)
        forwarded_by_proxy = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        with connect(
            f"ws://127.0.0.1:{server.port}/echo",
            proxy=None, additional_headers=forwarded_by_proxy, source_address=("127.50.0.1", 0),
        ) as websocket:  # fmt: skip
            websocket.send("scope")
            told = json.loads(websocket.recv(DEADLINE_S))
            assert (told["client"], told["scheme"]) == (["203.0.113.9", 0], "wss")


# WebSockets


def test_a_websocket_carries_text_and_binary_of_any_size(server: RunningServer) -> None:
    with open_websocket(server, "/echo") as websocket:
        for message in ("", "text", "ü" * 100_000, b"", b"\x00\xff", os.urandom(500_000)):
            websocket.send(message)
            assert websocket.recv(DEADLINE_S) == message
        assert websocket.response is not None
        assert websocket.response.headers["X-By"] == "the application"


def test_a_websocket_in_fragments_is_one_message(server: RunningServer) -> None:
    with open_websocket(server, "/echo") as websocket:
        websocket.send(iter(["one ", "two ", "three"]))
        assert websocket.recv(DEADLINE_S) == "one two three"


def test_the_application_chooses_the_subprotocol(server: RunningServer) -> None:
    with open_websocket(server, "/echo", subprotocols=["v1.chat", "v2.chat"]) as websocket:
        assert websocket.subprotocol == "v2.chat"
        websocket.send("scope")
        assert json.loads(websocket.recv(DEADLINE_S))["subprotocols"] == ["v1.chat", "v2.chat"]
    with open_websocket(server, "/echo") as websocket:
        assert websocket.subprotocol is None


def test_the_scope_of_a_websocket_says_what_was_asked(server: RunningServer) -> None:
    with open_websocket(server, "/echo/caf%C3%A9?q=%20") as websocket:
        websocket.send("scope")
        told = json.loads(websocket.recv(DEADLINE_S))
        assert told["path"] == "/echo/café"
        assert told["query_string"] == "q=%20"
        assert told["scheme"] == "ws"
        assert told["http_version"] == "1.1"
        assert told["root_path"] == ""
        assert told["client"] == list(websocket.local_address)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_application_closes_with_its_own_code(server: RunningServer, code: int) -> None:
    with open_websocket(server, "/echo") as websocket:
        websocket.send(f"close {code}")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "as told")


def test_the_application_is_told_the_code_with_which_the_client_left(server: RunningServer) -> None:
    mark = server.log.mark()
    with open_websocket(server, "/echo") as websocket:
        websocket.close(4321)
    server.log.wait_for(r"app \d+: websocket left with 4321", since=mark)


def test_the_application_is_told_of_a_client_that_is_cut_off(server: RunningServer) -> None:
    mark = server.log.mark()
    with open_websocket(server, "/echo") as websocket:
        websocket.socket.shutdown(socket.SHUT_RDWR)
        server.log.wait_for(r"app \d+: websocket left with 100[56]", since=mark)


def test_a_refused_websocket_is_a_403(server: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(server, "/refuse")
    assert refused.value.response.status_code == 403


def test_a_websocket_may_be_refused_with_an_answer_of_the_applications_own(server: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(server, "/refuse-politely")
    response = refused.value.response
    assert (response.status_code, response.body) == (402, b"pay first")
    assert response.headers["X-Why"] == "paid only"


def test_an_exception_in_a_websocket_is_a_500_before_the_handshake_and_a_cut_after_it(server: RunningServer) -> None:
    mark = server.log.mark()
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(server, "/fail")
    assert refused.value.response.status_code == 500
    server.log.wait_for("ZeroDivisionError: the application's own fault$", since=mark)
    with open_websocket(server, "/echo") as websocket:
        websocket.send("fail")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(DEADLINE_S)
        assert closed.value.rcvd is None, "uvicorn says no code here; a browser reads 1006"
    server.log.wait_for("ZeroDivisionError: the application's own fault, in a WebSocket", since=mark)
    with open_websocket(server, "/echo") as websocket:
        websocket.send("on we go")
        assert websocket.recv(DEADLINE_S) == "on we go"


def test_a_websocket_may_be_a_connections_second_request(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as sock:
        with sock.makefile("rb") as stream:
            sock.sendall(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n")
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(32) == b"the application has no such page"
        with connect(f"ws://127.0.0.1:{server.port}/echo", sock=sock, proxy=None) as websocket:
            websocket.send("later")
            assert websocket.recv(DEADLINE_S) == "later"


# The lifespan


def test_each_worker_starts_and_ends_the_application_once() -> None:
    with RunningServer(BARE, workers=3) as server:
        server.wait_until_full()
        workers = {match[1] for match in server.log.find_all(pattern(WORKER_READY, pid=PID))}
        begun = [match[1] for match in server.log.find_all(r"app (\d+): startup")]
        assert sorted(begun) == sorted(workers)
        assert not server.log.find_all(r"app \d+: shutdown")
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert sorted(match[1] for match in server.log.find_all(r"app (\d+): shutdown")) == sorted(begun)


def test_the_lifespans_state_is_in_every_request_and_a_requests_own_is_not(client: http.client.HTTPConnection) -> None:
    first, second = ask_json(client, "/state"), ask_json(client, "/state")
    assert first["born"] == second["born"] > 0
    assert second["shared"] == first["shared"] + 1, "the same objects"
    assert not second["own"], "the mapping itself is each request's own"


def test_a_worker_that_dies_is_replaced_by_one_that_was_started_as_well() -> None:
    with RunningServer(BARE, workers=2) as server:
        server.wait_until_full()
        pid = int(server.log.find_all(pattern(WORKER_READY, slot=0, pid=PID))[0][1])
        mark = server.log.mark()
        os.kill(pid, signal.SIGKILL)
        successor = server.log.wait_for(pattern(WORKER_READY, slot=0, pid=PID), since=mark)[1]
        server.log.wait_for(f"app {successor}: startup", since=mark)


def test_an_application_that_cannot_start_is_told_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'the database is away'})\n"
    )
    server = RunningServer(path, workers=2)
    server.start()
    try:
        assert server.wait() != 0
        server.log.wait_for("the database is away")
        server.log.wait_for("the application's startup .* failed")
    finally:
        server.stop()


def test_an_application_without_a_lifespan_is_served(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 204, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b''})\n"
    )
    with RunningServer(path, workers=2) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
        assert ask(client, "/") == ask(client, "/") == (204, b"")
        client.close()


# A framework

STARLETTE = """
import asyncio, contextlib
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


@contextlib.asynccontextmanager
async def lifespan(app):
    print("framework: startup", flush=True)
    yield {"greeting": "hello"}
    print("framework: shutdown", flush=True)


async def item(request):
    body = await request.json() if request.method == "POST" else None
    url = str(request.url_for("item", name=request.path_params["name"]))
    return JSONResponse({"greeting": request.state.greeting, "body": body, "url": url, **request.path_params})


async def stream(request):
    async def parts():
        for number in range(5):
            yield f"{number};"
            await asyncio.sleep(0)
    return StreamingResponse(parts())


async def teapot(request):
    raise HTTPException(418, "short and stout")


async def broken(request):
    raise LookupError("in the framework's route")


async def chat(websocket):
    await websocket.accept(subprotocol="chat")
    async for text in websocket.iter_text():
        await websocket.send_json({"text": text, "greeting": websocket.state.greeting})


app = Starlette(lifespan=lifespan, routes=[
    Route("/items/{name}", item, methods=["GET", "POST"], name="item"),
    Route("/stream", stream), Route("/teapot", teapot), Route("/broken", broken), WebSocketRoute("/chat/{name}", chat),
])
"""


@pytest.fixture(scope="module", params=["", "/deep/api"], ids=["bare", "mounted"])
def framework(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A Starlette application, once as TARGET itself and once below a path beside rooms. `url` ends where it begins."""
    directory = tmp_path_factory.mktemp("framework")
    (directory / "framework_site.py").write_text(STARLETTE)
    target = directory / "framework_site.py"
    if request.param:
        target = directory / "app.py"
        target.write_text(
            "from realtime import App\nimport framework_site\n"
            f"app = App()\napp.room('room', open=True)\napp.mount({request.param!r}, framework_site.app)\n"
        )
    with RunningServer(target, workers=2) as server:
        server.wait_until_full()
        server.url += request.param
        yield server


@pytest.fixture
def visitor(framework: RunningServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", framework.port, timeout=DEADLINE_S)
    yield connection
    connection.close()


def test_a_frameworks_routes_streams_and_errors_work(
    framework: RunningServer, visitor: http.client.HTTPConnection
) -> None:
    prefix = framework.url.partition(str(framework.port))[2]
    told = ask_json(visitor, f"{prefix}/items/caf%C3%A9", "POST", body=json.dumps({"n": 1}))
    assert told["greeting"] == "hello", "the lifespan's state"
    assert told["body"] == {"n": 1}
    assert told["name"] == "café"
    assert told["url"] == f"{framework.url}/items/café"
    assert ask(visitor, f"{prefix}/stream") == (200, b"0;1;2;3;4;")
    assert ask(visitor, f"{prefix}/teapot") == (418, b"short and stout")
    assert ask(visitor, f"{prefix}/items/x", "DELETE")[0] == 405
    assert ask(visitor, f"{prefix}/broken") == (500, b"Internal Server Error")
    visitor.close()  # uvicorn does not keep a connection after an exception
    assert ask_json(visitor, f"{prefix}/items/after")["name"] == "after"
    framework.log.wait_for("LookupError: in the framework's route")


def test_a_frameworks_websocket_works(framework: RunningServer) -> None:
    with connect(f"ws{framework.url.removeprefix('http')}/chat/x", subprotocols=["chat"], proxy=None) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "chat"
        websocket.send("hi")
        assert json.loads(websocket.recv(DEADLINE_S)) == {"text": "hi", "greeting": "hello"}


# Mounts and static files beside rooms

BESIDE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from realtime import App
from tests.support import bare_asgi

HERE = Path(__file__).parent


async def inner(scope, receive, send):
    await bare_asgi.app(scope, receive, send)


app = App()
app.room("room", open=True)
app.mount("/api", bare_asgi.app)
app.mount("/api/inner/", inner)
app.static("/files", HERE / "public")
app.static("/files/more", str(HERE / "more"))
app.static("/api/inner", HERE / "public")
"""


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("beside")
    for name in ("public", "more"):
        (directory / name).mkdir()
        (directory / name / "a.txt").write_text(f"a file in {name}")
    (directory / "public" / "b.txt").write_text("only in public")
    (directory / "app.py").write_text(BESIDE)
    with RunningServer(directory / "app.py", workers=2) as server:
        server.wait_until_full()
        yield server


@pytest.fixture
def guest(beside: RunningServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", beside.port, timeout=DEADLINE_S)
    yield connection
    connection.close()


def test_a_mounted_application_sees_the_whole_path_and_where_it_is_mounted(guest: http.client.HTTPConnection) -> None:
    told = ask_json(guest, "/api/scope/x%20y?q")
    assert (told["path"], told["root_path"], told["query_string"]) == ("/api/scope/x y", "/api", "q")
    assert ask(guest, "/api/nothing") == (404, b"the application has no such page")


def test_the_longest_mount_serves(guest: http.client.HTTPConnection) -> None:
    assert ask_json(guest, "/api/inner/scope")["root_path"] == "/api/inner"
    assert ask_json(guest, "/api/scope/inner")["root_path"] == "/api"


@pytest.mark.parametrize("path", ["/apiary/scope", "/ap", "/API/scope", "/", "//api/scope"])
def test_a_path_that_only_looks_like_a_mounts_is_elsewhere(guest: http.client.HTTPConnection, path: str) -> None:
    assert b"the application" not in ask(guest, path)[1]


def test_each_mounted_application_has_a_lifespan_and_a_state_of_its_own(
    beside: RunningServer, guest: http.client.HTTPConnection
) -> None:
    assert len(beside.log.find_all(r"app \d+: startup")) == 2 * 2, "two applications in two workers"
    outer, inner = ask_json(guest, "/api/state"), ask_json(guest, "/api/inner/state")
    assert (outer["shared"], inner["shared"]) == (1, 1)


def test_a_mounted_websocket_and_the_rooms_are_beside_each_other(beside: RunningServer) -> None:
    with open_websocket(beside, "/api/echo") as websocket:
        websocket.send("scope")
        told = json.loads(websocket.recv(DEADLINE_S))
        assert (told["path"], told["root_path"]) == ("/api/echo", "/api")
    with connect(beside.websocket_url, proxy=None) as websocket:
        for command in ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "room"}}):
            websocket.send(json.dumps(command))
            assert json.loads(websocket.recv(DEADLINE_S))["id"] == command["id"]


def test_a_websocket_that_nobody_serves_is_a_403(beside: RunningServer) -> None:
    for path in ("/elsewhere", "/files/a.txt", "/health"):
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(beside, path)
        assert refused.value.response.status_code == 403


def test_static_files_are_found_by_the_longest_path_and_then_by_the_next(guest: http.client.HTTPConnection) -> None:
    assert ask(guest, "/files/a.txt") == (200, b"a file in public")
    assert ask(guest, "/files/more/a.txt") == (200, b"a file in more")
    assert ask(guest, "/files/more/b.txt")[0] == 404
    assert ask(guest, "/files/c.txt")[0] == 404


def test_a_mount_comes_before_static_files(guest: http.client.HTTPConnection) -> None:
    assert ask(guest, "/api/inner/a.txt") == (404, b"the application has no such page")


def test_mounted_applications_end_before_the_workers_do(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BESIDE.partition("app.static")[0])
    with RunningServer(tmp_path / "app.py", workers=2) as server:
        server.wait_until_full()
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert len(server.log.find_all(r"app \d+: shutdown")) == 2 * 2
