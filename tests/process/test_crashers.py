"""
A client whose request ends its worker, and that comes back at once and for ever, takes down three and no more.

The crash is an application that ends its own process in the middle of a request. Others are served all the time, and
none of them is refused, whatever of theirs was in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.process.test_tls import make_certificate
from tests.support.aio import run_async_for
from tests.support.server import DEADLINE_S, RunningServer
from tests.support.tiny_cluster import TinyCluster, answer, read_all

CRASHER, OTHER, NAT = "127.0.66.1", "127.0.66.2", "127.0.66.3"
REFUSED = b"requests of this client have crashed the server"
REFUSED_LINE = r'key refused key="{}" for_s=60 reason="its requests were in flight at 3 crashes of workers within 60 s"'
PROXY, TRUSTED = "127.50.0.1", "127.50.0.0/16"


def ask(cluster: TinyCluster, path: str, client: str, headers: str = "") -> bytes:
    with cluster.connect(client) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: tiny\r\n{headers}\r\n".encode())
        return read_all(sock)


def crash_until_refused(cluster: TinyCluster, path: str, client: str = CRASHER, headers: str = "") -> int:
    """Come back until that is refused. Return how many workers it took."""
    for count in range(10):
        if REFUSED in ask(cluster, path, client, headers):
            return count
    raise AssertionError(f"{client} is never refused")


def work(cluster: TinyCluster, client: str) -> socket.socket:
    """Have a request that is never answered."""
    sock = cluster.connect(client)
    sock.sendall(b"GET /work HTTP/1.1\r\nHost: tiny\r\n\r\n")
    return sock


def counters(cluster: TinyCluster) -> dict[str, int]:
    found: dict[str, int] = cluster.status()["counters"]
    return found


@pytest.mark.parametrize(("sticky", "path"), [("ip", "/exit/70"), ("none", f"/signal/{signal.SIGSEGV.value}")])
def test_a_client_whose_requests_crash_workers_is_refused_after_three(sticky: str, path: str) -> None:
    with TinyCluster(workers=4, sticky=sticky) as cluster:
        assert crash_until_refused(cluster, path) == 3
        cluster.log.wait_for(REFUSED_LINE.format(f"client {CRASHER}"))
        for _ in range(20):
            assert ask(cluster, path, CRASHER).startswith(b"HTTP/1.1 503 ")
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        assert ask(cluster, path, CRASHER, upgrade).startswith(b"HTTP/1.1 503 "), (
            "by a worker, which has no better word"
        )
        assert ask(cluster, "/", OTHER).startswith(b"HTTP/1.1 200 ")
        found = counters(cluster)
        assert (found["died"], found["crashed"], found["keys_refused"]) == (3, 3, 1)


def test_only_the_session_is_refused_that_does_it_and_not_its_address() -> None:
    with TinyCluster(workers=4, sticky="session") as cluster:
        one, other = (cluster.get(client=CRASHER)["new_session"] for _ in range(2))
        assert crash_until_refused(cluster, "/exit/0", headers=f"Cookie: rt_session={one}\r\n") == 3
        cluster.log.wait_for(REFUSED_LINE.format(f"sticky id {one}"))
        assert ask(cluster, "/", CRASHER, f"Cookie: rt_session={other}\r\n").startswith(b"HTTP/1.1 200 ")
        assert ask(cluster, "/", CRASHER).startswith(b"HTTP/1.1 200 ")
        assert REFUSED in ask(cluster, "/", OTHER, f"Cookie: rt_session={one}\r\n"), "wherever it is used"


def test_behind_a_proxy_it_is_the_client_and_never_the_proxy_that_is_refused() -> None:
    with TinyCluster(workers=4, trusted=[TRUSTED]) as cluster:
        theirs = "X-Forwarded-For: 203.0.113.5\r\n"
        assert crash_until_refused(cluster, "/exit/70", PROXY, theirs) == 3
        cluster.log.wait_for(REFUSED_LINE.format("client 203.0.113.5"))
        assert ask(cluster, "/", PROXY, "X-Forwarded-For: 203.0.113.6\r\n").startswith(b"HTTP/1.1 200 ")
        assert ask(cluster, "/", PROXY).startswith(b"HTTP/1.1 200 ")


def test_a_proxy_whose_own_requests_crash_workers_goes_on() -> None:
    with TinyCluster(workers=5, trusted=[TRUSTED]) as cluster:
        for _ in range(4):
            assert REFUSED not in ask(cluster, "/exit/70", PROXY)
        assert ask(cluster, "/", PROXY).startswith(b"HTTP/1.1 200 ")
        assert counters(cluster)["crashed"] == 4


def test_many_people_behind_one_address_are_not_refused_for_what_one_elsewhere_does() -> None:
    with TinyCluster(workers=1) as cluster:
        for _ in range(3):
            held, busy = [cluster.connect(client) for client in (OTHER, NAT)], work(cluster, NAT)
            for sock in held:
                sock.sendall(b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n")
                answer(sock)
            cluster.wait_until(lambda status: status["workers"][-1]["adopted"] >= 3, "all are there")
            ask(cluster, "/exit/70", CRASHER)
            for sock in [*held, busy]:
                assert REFUSED not in read_all(sock)
                sock.close()
            cluster.wait_for_live([0])
        assert REFUSED in ask(cluster, "/", CRASHER)
        for client in (NAT, OTHER):
            assert ask(cluster, "/", client).startswith(b"HTTP/1.1 200 "), client
        assert counters(cluster)["keys_refused"] == 1


def test_workers_that_an_operator_kills_are_nobodys_crashes() -> None:
    with TinyCluster(workers=4) as cluster:
        for _ in range(3):
            slot = cluster.get(client=OTHER)["slot"]
            sock = work(cluster, OTHER)
            cluster.wait_until(
                lambda status, slot=slot: any(
                    each["slot"] == slot and each["adopted"] == 2 for each in status["workers"]
                ),
                "it is there",
            )
            os.kill(cluster.pids()[slot], signal.SIGKILL)
            read_all(sock)
            sock.close()
        assert ask(cluster, "/", OTHER).startswith(b"HTTP/1.1 200 ")
        cluster.wait_until(lambda status: status["counters"]["died"] == 3, "three are lost")
        assert "crashed" not in counters(cluster)


# Native and hosted connections of `realtime serve`

APP = """
import asyncio, os

from realtime import App

app = App()
tasks = set()


def die():
    os._exit(70)


async def die_later():
    await asyncio.sleep(0.01)
    die()


@app.room("at-once", open=True)
class Room:
    async def on_publish(self, conn, data):
        die()


@app.rpc("in-a-thread")
def in_a_thread(conn, data):
    die()


async def hosted(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "in-a-task":
                tasks.add(asyncio.create_task(die_in_a_task()))
            else:
                await asyncio.to_thread(die)
        return
    if scope["path"] == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if scope["path"] == "/in-the-answer":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await asyncio.sleep(0.01)
        die()
    if scope["path"] == "/die":
        await die_later()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def die_in_a_task():
    die()


app.mount("/", hosted)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    app = tmp_path_factory.mktemp("crashers") / "app.py"
    app.write_text(APP)
    with RunningServer(app, "--anonymous", workers=5) as server:
        yield server


@pytest.fixture
def server(running: RunningServer) -> RunningServer:
    """Return it with so many workers that one is left after three crashes."""
    give_up_at = time.monotonic() + 2 * DEADLINE_S
    while len(running.status()["live"]) < 4:
        assert time.monotonic() < give_up_at, "they do not come back"
        threading.Event().wait(0.05)
    return running


@contextlib.contextmanager
def open_native(server: RunningServer, client: str) -> Iterator[None]:
    """Be connected, and idle."""
    with connect(server.websocket_url, source_address=(client, 0), open_timeout=DEADLINE_S) as sock:
        sock.send('{"id":1,"connect":{}}')
        assert '"connect"' in str(sock.recv(DEADLINE_S))
        yield


def publish(room: str) -> str:
    return f'{{"id":2,"subscribe":{{"channel":"{room}"}}}}\n{{"id":3,"publish":{{"channel":"{room}","data":1}}}}'


IN_A_THREAD = '{"id":2,"rpc":{"method":"in-a-thread","data":{}}}'


def crash(server: RunningServer, path: str, client: str, message: str) -> int:
    """Say over a WebSocket what ends the worker, and read until it is closed. Return the code."""
    url = server.websocket_url if path == "native" else f"ws{server.url.removeprefix('http')}{path}"
    try:
        with connect(url, source_address=(client, 0), open_timeout=DEADLINE_S) as sock:
            if path == "native":
                sock.send('{"id":1,"connect":{}}')
            sock.send(message)
            while True:
                sock.recv(DEADLINE_S)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 1006


@pytest.mark.parametrize(
    ("client", "path", "message"),
    [
        ("127.0.67.1", "native", publish("at-once")),
        ("127.0.67.2", "native", IN_A_THREAD),
        ("127.0.67.3", "/socket", "in-a-task"),
    ],
)
def test_a_websocket_whose_messages_crash_workers_is_closed_with_1013(
    server: RunningServer, client: str, path: str, message: str
) -> None:
    assert [crash(server, path, client, message) for _ in range(4)] == [1006, 1006, 1006, 1013]
    server.log.wait_for(REFUSED_LINE.format(f"client {client}"))
    with open_native(server, OTHER):
        pass


def get(server: RunningServer, path: str, client: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S, source_address=(client, 0)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {sock.getpeername()[0]}\r\nConnection: close\r\n\r\n".encode())
        return read_all(sock)


@pytest.mark.parametrize(("client", "path"), [("127.0.67.4", "/die"), ("127.0.67.5", "/in-the-answer")])
def test_a_hosted_request_that_crashes_workers_is_refused_and_who_only_listens_is_not(
    server: RunningServer, client: str, path: str
) -> None:
    before = server.status()["counters"].get("keys_refused", 0)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S, source_address=(OTHER, 0)) as listener:
            listener.sendall(b"GET /events HTTP/1.1\r\nHost: tiny\r\n\r\n")
            while b"hello" not in listener.recv(4096):
                pass
            with open_native(server, NAT):
                assert REFUSED not in get(server, path, client)
    assert REFUSED in get(server, path, client)
    assert get(server, "/", OTHER).startswith(b"HTTP/1.1 200 ")
    with open_native(server, NAT):
        pass
    assert server.status()["counters"]["keys_refused"] == before + 1


@pytest.mark.slow
def test_a_connection_that_is_kept_alive_elsewhere_is_no_way_round(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    with RunningServer(app, "--sticky", "none", workers=4) as server:
        server.wait_until_full()
        kept = socket.create_connection(("127.0.0.1", server.port), DEADLINE_S, source_address=(CRASHER, 0))
        kept.sendall(b"GET / HTTP/1.1\r\nHost: tiny\r\n\r\n")
        received = b""
        while not received.endswith(b"ok"):
            received += kept.recv(4096)
        for _ in range(3):  # each goes to a worker that has fewer connections
            assert REFUSED not in get(server, "/die", CRASHER)
        server.log.wait_for(REFUSED_LINE.format(f"client {CRASHER}"))
        kept.sendall(b"GET /die HTTP/1.1\r\nHost: tiny\r\n\r\n")
        assert read_all(kept).startswith(b"HTTP/1.1 503 ")
        kept.close()
        assert server.status()["counters"]["crashed"] == 3


@pytest.mark.slow
@run_async_for(120)
async def test_over_tls_a_worker_says_it(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    certificate, key = make_certificate(tmp_path, "one")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    codes = []
    with RunningServer(app, "--certfile", str(certificate), "--keyfile", str(key), workers=4) as server:
        await asyncio.to_thread(server.wait_until_full)
        url = f"wss{server.url.removeprefix('https')}/socket"
        for _ in range(4):
            async with connect_async(url, ssl=context, open_timeout=DEADLINE_S) as sock:
                with contextlib.suppress(ConnectionClosed):
                    await sock.send("in-a-task")
                    await sock.recv()
            codes.append(sock.close_code)
        with context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), DEADLINE_S)) as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\nHost: tiny\r\n\r\n")
            assert wrapped.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert codes == [1006, 1006, 1006, 1013]
