"""
Offers to leave HTTP, as ordinary clients make them, against real servers: each parser, each stickiness, every path.

An offer that does not name WebSocket changes nothing. One that does is a handshake, wherever on a connection it comes,
or it is refused, and then nothing that follows is served.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.http import Client
from tests.support.sequences import H2C, KEY, OFFERS, SECRET_REQUEST, WEBSOCKET, Request, faulty_handshakes, handshake
from tests.support.server import RunningServer

API_KEY = "k" * 20
APP = """
from realtime import App
from tests.support.whose import app as whose

app = App()
app.room("chat:{name}", open=True)

@app.on_connect
async def connect(conn):
    return {}

async def choosy(scope, receive, send):
    if scope["type"] == "websocket" and scope["path"].endswith("/refused"):
        await receive()
        await send({"type": "websocket.close"})
    else:
        await whose(scope, receive, send)

app.mount("/", choosy)
"""
WAYS: list[tuple[str, ...]] = [
    ("--http", "httptools", "--sticky", "ip"),
    ("--http", "h11", "--sticky", "session", "--trusted-proxies", "127.9.0.1"),
    ("--http", "httptools", "--sticky", "none", "--trusted-proxies", "127.9.0.1"),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[1]}-{way[3]}")
def way(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(scope="module")
def server(way: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = tmp_path_factory.mktemp("offers") / "app.py"
    path.write_text(APP)
    with RunningServer(str(path), *way, "--anonymous", workers=2, env={"REALTIME_API_KEY": API_KEY}) as running:
        running.wait_until_full()
        yield running


def ask(client: Client, path: str, offer: str, body: bytes, *, chunked: bool = False) -> tuple[int, bytes]:
    """Post something, head and body apart. Return the status and the body, or the first chunk of it."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    client.send(f"POST {path} HTTP/1.1\r\nHost: h\r\n{offer}X-API-Key: {API_KEY}\r\n{length}\r\n\r\n".encode())
    client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
    status = int(client.stream.readline().split()[1])
    headers = {}
    while (line := client.stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" in headers:
        return status, client.stream.read(int(headers["content-length"]))
    return status, client.stream.read(int(client.stream.readline(), 16))


@pytest.mark.parametrize("offer", ["", *OFFERS])
def test_the_servers_own_addresses_read_the_whole_body(server: RunningServer, offer: str) -> None:
    command = json.dumps({"id": 1, "connect": {}}).encode()
    with Client(server.port) as client:
        for number in range(3):
            publish = json.dumps({"channel": "chat:a", "data": number}).encode()
            status, answer = ask(client, "/api/publish", offer, publish, chunked=number == 1)
            assert (status, "offset" in json.loads(answer)["result"]) == (200, True)
        status, answer = ask(client, "/connection/http_stream", offer, command)
        assert (status, b'"connect"' in answer) == (200, True)
    with Client(server.port) as client:
        status, _ = ask(client, "/emulation", offer, json.dumps({"session": "x", "node": "y", "data": "z"}).encode())
        assert status != 400, "the message was read, and nobody has its session"


@pytest.mark.parametrize("offer", OFFERS)
def test_an_application_gets_the_body_and_the_next_request_is_a_request(server: RunningServer, offer: str) -> None:
    sent = [
        Request(0, "POST", offer=offer, body=SECRET_REQUEST),
        Request(1, "GET", offer=offer),
        Request(2, "PUT", offer=offer, body=SECRET_REQUEST, chunks=(5,), trailers="Digest: 1\r\n"),
        Request(3, "GET"),
    ]
    with Client(server.port) as client:
        client.send(b"".join(each.data for each in sent))
        assert [(found["path"], found["body"]) for found in (client.answer() for _ in sent)] == [
            (each.path, each.body.decode()) for each in sent
        ]


def test_requests_behind_one_that_offered_something_are_their_own_clients(
    server: RunningServer, way: tuple[str, ...]
) -> None:
    with Client(server.port, "127.9.0.1") as client:
        sent = [
            Request(number, offer=H2C if number % 2 else "", client=number + 1, session=f"s{number}")
            for number in range(8)
        ]
        for each in sent:
            client.send(each.data)
            found = client.answer()
            assert found["path"] == each.path
            assert found["client"][0] == (each.address if "--trusted-proxies" in way else "127.9.0.1")
            if "session" in way:
                assert found["session"] == each.session


@pytest.mark.parametrize("path", ["/r", "/connection/websocket"])
@pytest.mark.parametrize("first", [True, False], ids=["at once", "after others"])
def test_what_names_websocket_and_is_no_handshake_gets_400(server: RunningServer, path: str, first: bool) -> None:
    for faulty in faulty_handshakes(1):
        with Client(server.port) as client:
            if not first:
                client.get("ada")
            client.send(faulty.data.replace(b" /r/1 ", f" {path} ".encode()) + SECRET_REQUEST)
            answer = client.stream.read()
            assert answer.startswith(b"HTTP/1.1 400 "), (faulty, answer)
            assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize(
    ("path", "status"),
    [("/r", 101), ("/connection/websocket", 101), ("/connection/uni_websocket", 101), ("/refused", 403)],
)
def test_a_handshake_waits_for_the_answers_before_it(
    server: RunningServer, path: str, status: int, before: int
) -> None:
    for offer in (WEBSOCKET, "Connection: upgrade\r\nUpgrade: WebSocket, h2c\r\nOrigin:\r\n"):
        for target in (path, f"http://h{path}"):
            with Client(server.port) as client:
                opening = handshake(9, session="ada", offer=offer).data.replace(b" /r/9 ", f" {target} ".encode())
                requests = b"".join(Request(number, session="ada").data for number in range(before))
                client.send(requests + opening + SECRET_REQUEST)  # which is no frame, and nobody's request
                assert [client.answer()["path"] for _ in range(before)] == [f"/r/{number}" for number in range(before)]
                assert int(client.stream.readline().split()[1]) == status
                assert b"HTTP/1.1" not in client.stream.read()


def test_an_absolute_target_is_read_as_its_path(server: RunningServer) -> None:
    with Client(server.port) as client:
        for _ in range(2):
            client.send(b"GET http://h/a%20b?c HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.answer()["path"] == "/a b"
        client.send(b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.answer()["path"] == "/"


def test_connect_is_refused_wherever_it_comes(server: RunningServer) -> None:
    with Client(server.port) as client:
        client.get("ada")
        client.send(b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n" + SECRET_REQUEST)
        answer = client.stream.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


def test_the_handshake_needs_no_key_to_be_refused_as_such(server: RunningServer) -> None:
    with Client(server.port) as client:
        client.get("ada")
        client.send(handshake(1).data.replace(KEY.encode(), b"") + SECRET_REQUEST)
        answer = client.stream.read()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
