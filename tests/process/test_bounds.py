"""
What one client may take of a worker, against real servers: each bound with its code, its line in the log, its count.

What waits for a client, by bytes and by time, over WebSocket and over both streams; the size of what it sends; its
rooms; its commands. Whoever goes over a bound is named once, with the reason; others notice nothing. Numbers are
counted, never times. What many slow ones cost in memory is in test_slow_readers.py.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from realtime.auth.tokens import sign
from realtime.transport.client_log import MESSAGE_TOO_LARGE, SLOW_CLIENT
from tests.sdk.conftest import APP, SECRET
from tests.support.aio import run_async
from tests.support.client import ProtocolClient, Refused
from tests.support.log_lines import pattern
from tests.support.server import DEADLINE_S, RunningServer
from tests.support.streams import CONNECT, Stream, ask

WEBSOCKET = "/connection/websocket"
STREAMS = ("/connection/http_stream", "/connection/sse")
FLOOD = ("--ping", "300", "--commands-per-second", "0")
PAYLOAD = "x" * 20_000
MOST = 3_000  # publications; kernels take some megabytes before anything waits in the worker


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """All bounds as they are by default."""
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
    with RunningServer(APP, "--anonymous", workers=1, env=env) as running:
        running.wait_until_full()
        yield running


def told(server: RunningServer) -> dict[str, Any]:
    """Return what the only worker last told of itself."""
    [worker] = server.status()["workers"]
    found: dict[str, Any] = worker["statistics"]
    return found


def wait_for_count(server: RunningServer, name: str, count: int) -> None:
    """Wait until the worker tells this number; it tells once a second."""
    wait_until(server, lambda found: found.get(name) == count, f"{name} is {count}")


def wait_until(server: RunningServer, is_so: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """Wait until the worker tells that it is so, and return what it told then."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        if is_so(found := told(server)):
            return found
        assert time.monotonic() < give_up_at, f"not told within {DEADLINE_S:g} s that {what}: {found}"


def overruns(server: RunningServer, limit: str) -> int:
    return int(told(server)["overruns"].get(limit, 0))


def lines_of(server: RunningServer, client: str, why: str, since: int = 0) -> list[re.Match[str]]:
    """Return the lines that name a client and a reason."""
    server.log.wait_for(rf"[x!] .*{client}.*{why}")
    return server.log.find_all(rf"[x!] .*{client}.*{why}")


def deaf(port: int, path: str, room: str) -> tuple[socket.socket, str]:
    """Join a room and read nothing after the answer. Return the socket and the client's id."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    connect = json.dumps({"id": 1, "connect": {"data": {"rooms": [room]}}}).encode()
    if path == WEBSOCKET:
        head = (
            f"GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        sock.sendall(head.encode() + bytes([0x81, 0x80 | len(connect)]) + b"\0\0\0\0" + connect)
    elif path.endswith("sse"):
        sock.sendall(f"GET {path}?cf_connect={quote(connect)} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    else:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(connect)))
        sock.sendall(connect)
    received = b""
    while not (found := re.search(rb'"client":"([^"]+)"', received)):
        received += sock.recv(256)
    return sock, found[1].decode()


@pytest.mark.parametrize("path", [WEBSOCKET, *STREAMS])
@pytest.mark.parametrize(
    "options",
    [("--outbound-bytes", "1048576", "--outbound", "300"), ("--outbound-bytes", "268435456", "--outbound", "0.5")],
    ids=["bytes", "time"],
)
@run_async
async def test_who_reads_nothing_is_closed_and_the_others_get_everything(path: str, options: tuple[str, ...]) -> None:
    """Closed means that its connection is gone as well, and nothing of it is kept."""
    with RunningServer(APP, "--anonymous", *options, *FLOOD, workers=1) as server:
        server.wait_until_full()
        quick = await ProtocolClient.join(server.websocket_url, data={"name": "quick"})
        await quick.ask("subscribe", channel="open:r")
        sock, client = deaf(server.port, path, "open:r")
        slow = re.compile(pattern(SLOW_CLIENT, connection=client, address="127.0.0.1", waiting_bytes=r"(\d+)"))
        for number in range(MOST):
            await quick.ask("publish", channel="open:r", data=[number, PAYLOAD])
            assert (await quick.push("pub"))["pub"]["data"][0] == number
            if server.log.find_all(slow):
                break
        [line] = server.log.find_all(slow)
        if "1048576" in options:
            assert int(line[1]) <= 1048576
        wait_for_count(server, "open", 1)
        wait_for_count(server, "slow", 1)
        for more in range(20):
            await quick.ask("publish", channel="open:r", data=[number + 1 + more, PAYLOAD])
            assert (await quick.push("pub"))["pub"]["data"][0] == number + 1 + more
        assert len(server.log.find_all(slow)) == 1, "told once"
        assert not server.log.find_all("Traceback")
        sock.close()
        await quick.close()


@run_async
async def test_a_stream_that_was_too_slow_for_a_while_is_told_so_at_its_end() -> None:
    with RunningServer(APP, "--anonymous", *FLOOD, workers=1) as server:
        server.wait_until_full()
        quick = await ProtocolClient.join(server.websocket_url)
        await quick.ask("subscribe", channel="open:r")
        sock, client = deaf(server.port, "/connection/http_stream", "open:r")
        for number in range(MOST):
            await quick.ask("publish", channel="open:r", data=[number, PAYLOAD])
            if server.log.find_all(pattern(SLOW_CLIENT, connection=client)):
                break
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # it is slow no more
        received = b""
        while not received.endswith(b"0\r\n\r\n") and (piece := sock.recv(65536)):
            received += piece
        assert b'{"push":{"disconnect":{"code":3008,"reason":"slow"}}}' in received
        assert received.endswith(b"0\r\n\r\n"), "the answer has an end"
        numbers = [int(each) for each in re.findall(rb'"data":\[(\d+),"x+"\]', received.replace(b"\r\n", b""))]
        sock.close()
        await quick.close()
        assert numbers == list(range(len(numbers))), "what it got has no hole"


# What a client sends


@run_async
async def test_a_message_has_64_kib(server: RunningServer) -> None:
    before = told(server).get("too_big", 0)
    client = await ProtocolClient.join(server.websocket_url)
    head = '{"id":9,"rpc":{"method":"echo","data":""}}'
    whole = client.expect(9)
    await client.send_raw(head.replace('""', f'"{"x" * (65536 - len(head))}"'))
    assert "rpc" in await whole
    assert (await client.ask("rpc", method="echo", data=1))["data"] == 1
    await client.send_raw(head.replace('""', f'"{"x" * (65537 - len(head))}"'))
    assert (await client.wait_closed())[0] == 1009
    line = pattern(MESSAGE_TOO_LARGE, connection=client.connected["client"], limit_bytes=65536)
    server.log.wait_for(line)
    assert len(server.log.find_all(line)) == 1
    wait_for_count(server, "too_big", before + 1)


@pytest.mark.parametrize("path", ["/emulation", *STREAMS])
def test_so_has_a_request(server: RunningServer, path: str) -> None:
    before, mark = told(server).get("too_big", 0), server.log.mark()
    assert ask(server, "POST", path, b" " * 65536).status in (400, 200)
    assert ask(server, "POST", path, b" " * 65537).status == 413
    server.log.wait_for(pattern(MESSAGE_TOO_LARGE, address="127.0.0.1", limit_bytes=65536), since=mark)
    wait_for_count(server, "too_big", before + 1)


# Rooms


@run_async
async def test_a_connection_may_be_in_128_rooms(server: RunningServer) -> None:
    before = overruns(server, "rooms")
    client = await ProtocolClient.join(server.websocket_url)
    for number in range(128):  # as many commands as may come at once
        await client.ask("subscribe", channel=f"open:{number}")
    for number in range(3):
        with pytest.raises(Refused) as refused:
            await client.ask("subscribe", channel=f"open:more {number}")
        assert (refused.value.code, refused.value.message) == (106, "limit exceeded")
    await client.ask("unsubscribe", channel="open:0")
    await client.ask("subscribe", channel="open:more")
    assert len(lines_of(server, client.connected["client"], "more than 128 rooms")) == 1, "told once"
    token = sign({"sub": "ana", "channels": [f"open:{number}" for number in range(129)]}, SECRET)
    given = await ProtocolClient.open(server.websocket_url)
    with pytest.raises(ConnectionResetError):
        await given.ask("connect", token=token)
    assert await given.wait_closed() == (3505, "channel limit")
    wait_until(server, lambda found: found["overruns"].get("rooms", 0) >= before + 4, "all four are counted")
    await client.close()
    wait_for_count(server, "clients", 0)
    assert overruns(server, "rooms") == before + 4


# Commands


@run_async
async def test_a_client_has_100_commands_a_second(server: RunningServer) -> None:
    before = overruns(server, "commands")
    client, other = [await ProtocolClient.join(server.websocket_url) for _ in range(2)]
    burst = "\n".join(json.dumps({"id": 1000 + n, "rpc": {"method": "echo", "data": n}}) for n in range(600))
    answers = {n: client.expect(1000 + n) for n in range(600)}
    await client.send_raw(burst)
    replies = [await answers[n] for n in range(600)]
    assert [reply["id"] for reply in replies] == list(range(1000, 1600)), "each is answered"
    refused = [reply["error"] for reply in replies if "error" in reply]
    assert refused == [{"code": 111, "message": "too many requests", "temporary": True}] * len(refused)
    assert len(refused) > 200, "at once as many as a client with all its rooms begins with, and those of a second"
    assert "error" not in replies[227], "228 at once are within it"
    assert len(lines_of(server, client.connected["client"], "more than 100 commands a second")) == 1
    assert (await other.ask("rpc", method="echo", data=1))["data"] == 1, "another's commands are its own"
    await client.send_raw("\n".join(['{"send":{"data":1}}'] * 300))
    assert await client.wait_closed() == (3013, "too many requests"), "a message is not lost in silence"
    await other.close()
    wait_until(server, lambda found: found["overruns"].get("commands", 0) > before + 200, "they are counted")


def test_commands_beside_a_stream_are_counted_alike(server: RunningServer) -> None:
    with Stream(server, "/connection/http_stream", CONNECT) as stream:
        commands = [{"id": n, "rpc": {"method": "echo", "data": n}} for n in range(2, 602)]
        assert stream.say(*commands) == 204
        replies = [stream.reply(each["id"]) for each in commands]
        assert sum(reply.get("error", {}).get("code") == 111 for reply in replies) > 200
        assert lines_of(server, stream.first["connect"]["client"], "more than 100 commands a second")
