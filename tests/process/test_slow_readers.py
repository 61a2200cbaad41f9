"""
A few members of a crowd stop reading: they cost what they may, are closed under that name, and the others get it all.

Five of five hundred. What the worker's memory may grow by is the limit of what waits for one connection, times the
slow ones, and what an allocator keeps. In a room that conflates, whoever takes what it can is served on, with little of
what is old; the kernel, which holds more than such a client takes in a second, hides from the process what it takes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from realtime.transport.client_log import SLOW_CLIENT
from tests.support.aio import run_async_for
from tests.support.client import ProtocolClient
from tests.support.log_lines import pattern
from tests.support.server import RunningServer

MEMBERS, SLOW = 500, 5
PUBLICATIONS_MAX = 3_000  # kernels take some megabytes before anything waits in the worker
LIMIT_KIB = 1024
KEPT_KIB = 24 * 1024  # by allocators, and by what is on its way to the quick ones
TAKEN_AT_ONCE, PAUSE_S = 2_000, 0.05
STREAMED = "POST /connection/http_stream HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
HEAD = (
    "GET /connection/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def stubborn(port: int, transport: str = "websocket") -> socket.socket:
    """Join the room, and never read again."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    said = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"crowd"}}'
    if transport == "websocket":
        sock.sendall(HEAD.encode() + bytes([0x81, 0x80 | len(said)]) + b"\0\0\0\0" + said)
    else:
        sock.sendall(STREAMED.format(length=len(said)).encode() + said)
    received = b""
    while b'"id":2' not in received:
        received += sock.recv(4096)
    return sock


def slow_of(server: RunningServer) -> int:
    """Return how many connections the worker has counted as slow, as of its last word."""
    [worker] = server.status()["workers"]
    found = re.search(r"'slow': (\d+)", str(worker))
    assert found is not None, worker
    return int(found[1])


@pytest.mark.slow
@run_async_for(240)
async def test_who_stops_reading_costs_its_limit_and_nobody_else_anything(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from realtime import App\napp = App()\napp.room('crowd', open=True, history=1)\n")
    with RunningServer(tmp_path / "app.py", "--anonymous", workers=1) as server:
        server.wait_until_full()
        [worker] = [each["pid"] for each in server.status()["workers"]]
        quick = []
        for begin in range(0, MEMBERS - SLOW, 50):
            numbers = range(begin, min(begin + 50, MEMBERS - SLOW))
            joins = [ProtocolClient.join(server.websocket_url, f"127.0.{81 + n // 250}.{n % 250 + 1}") for n in numbers]
            quick += await asyncio.gather(*joins)
        await asyncio.gather(*[each.ask("subscribe", channel="crowd") for each in quick])
        slow = [await asyncio.to_thread(stubborn, server.port) for _ in range(SLOW)]
        before, most = resident_kib(worker), 0
        for number in range(PUBLICATIONS_MAX):
            await quick[0].ask("publish", channel="crowd", data=[number, "x" * 10_000])
            got = [(await each.push("pub"))["pub"]["data"][0] for each in quick]
            assert got == [number] * len(quick), "each has it, and in order"
            most = max(most, resident_kib(worker))
            if number % 50 == 0 and slow_of(server) == SLOW:
                break
        print(f"{number + 1} publications, {before} KiB, at most {most} KiB")
        assert most - before < SLOW * LIMIT_KIB + KEPT_KIB
        assert slow_of(server) == SLOW
        assert [each["pid"] for each in server.status()["workers"]] == [worker]
        lines = server.log.find_all(pattern(SLOW_CLIENT, waiting_bytes=r"\d+"))
        assert len(lines) == SLOW, "each is told once"
        for sock in slow:
            sock.close()
        await asyncio.gather(*[each.close() for each in quick])


@pytest.mark.parametrize("transport", ["websocket", "http_stream"])
@run_async_for(60)
async def test_who_takes_what_it_can_of_a_room_that_conflates_is_served_on(tmp_path: Path, transport: str) -> None:
    (tmp_path / "app.py").write_text(
        "from realtime import App\napp = App()\napp.room('crowd', open=True, conflate=True)\n"
    )
    with RunningServer(tmp_path / "app.py", "--anonymous", "--outbound", "3s", workers=1) as server:
        server.wait_until_full()
        slow = await asyncio.to_thread(stubborn, server.port, transport)
        still = await asyncio.to_thread(stubborn, server.port, transport)
        publisher = await ProtocolClient.join(server.websocket_url, "127.0.83.1")
        await publisher.ask("subscribe", channel="crowd")
        with slow, still:
            slow.setblocking(False)
            left = 200  # times: several limits
            while left or slow_of(server) == 0:
                await publisher.ask("publish", channel="crowd", data="x" * 50_000)
                await publisher.push("pub")
                await asyncio.sleep(PAUSE_S)  # the client is slow: that is what is tested
                taken = await asyncio.get_running_loop().sock_recv(slow, TAKEN_AT_ONCE)
                assert taken, "it is not closed"
                left = max(left - 1, 0)
            assert len(server.log.find_all(SLOW_CLIENT)) == 1, "who takes nothing is closed"
            await publisher.close()


@pytest.mark.parametrize("transport", ["websocket", "http_stream"])
@run_async_for(60)
async def test_little_that_is_old_waits_for_who_has_not_read_for_a_while(tmp_path: Path, transport: str) -> None:
    (tmp_path / "app.py").write_text(
        "from realtime import App\napp = App()\napp.room('crowd', open=True, conflate=True)\n"
    )
    with RunningServer(tmp_path / "app.py", "--anonymous", workers=1) as server:
        server.wait_until_full()
        publisher = await ProtocolClient.join(server.websocket_url, "127.0.83.1")
        await publisher.ask("subscribe", channel="crowd")
        with await asyncio.to_thread(stubborn, server.port, transport) as slow:
            for number in range(100):
                await publisher.ask("publish", channel="crowd", data=f"number {number}, {'x' * 50_000}")
                await publisher.push("pub")
            received = b""
            while b"number 99" not in received:
                received += await asyncio.to_thread(slow.recv, 1_000_000)
            assert received.count(b'"number ') < 20, "the rest was replaced by what came later"
        await publisher.close()
