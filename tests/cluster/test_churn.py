"""
Twenty thousand connections come and go, in three rounds, while workers are killed and replaced: what primary, workers
and local broker hold afterwards is the same after each round.

Every connection has an address and rooms of its own, so that whatever is kept by address, client or room would show.
Slot 1's worker is killed in each round and slot 0's is replaced, as a reload does; slot 2's lives through all of them,
and is counted to the last object. A round before those that count has everything grow that grows once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from realtime.auth.tokens import sign
from realtime.cli.servers import CONTROL_SOCKET
from sticky.process.control import send_request
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

ROUNDS, EACH, WARM_UP, AT_ONCE = 3, 6_000, 2_000, 60
SURVIVOR = 2  # the slot whose worker lives through all rounds
SECRET = "the secret of tokens in a test, of 32 bytes and more"
KEY = "a key of sixteen bytes"
ENV = {"REALTIME_API_KEY": KEY, "REALTIME_TOKEN_HMAC_SECRET": SECRET}
PUBLISHED = 50  # rooms in which something is published; their positions are kept, and no other's
LOOKS = 12
OBJECTS_MAX = EACH // 10  # a third of a round is this worker's: one object left of each would be three times as much
GROWTH_MAX_KIB = 8 * 1024  # between the first and the last round: what allocators keep, and half a KiB of a connection

APP = """
import asyncio, gc, os
from collections import Counter

from realtime import App

app = App()
left = 0


@app.on_disconnect
async def gone(conn, code, reason):
    global left
    left += 1


@app.room("own:{name}", presence=True, history=10, history_ttl_s=1, open=True)
class Own:
    async def on_leave(self, member, name): ...
    async def on_empty(self, name): ...


app.room("away:{name}", presence=True, grace_s=1, history=10, history_ttl_s=1, open=True)
app.room("$private:{name}", presence=True, open=True)
app.room("shared:{name}", presence=True, history=10, history_ttl_s=1, open=True)


@app.rpc("count")
async def count(conn, data):
    app.rooms._found.clear()  # names of rooms that it remembers: as many as its bound, not as there were clients
    gc.collect()
    return {
        "kinds": Counter(type(each).__name__ for each in gc.get_objects()),
        "slot": conn.slot,
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


async def hosted(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


app.mount("/", hosted)
"""


@dataclass(frozen=True)
class Held:
    """What is held when nobody is there."""

    descriptors: dict[str, int]
    resident_kib: dict[str, int]
    tasks: int
    objects: int
    kinds: dict[str, int]
    broker: dict[str, int]


class Churn:
    """Clients that come and go."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.done: Counter[str] = Counter()
        self._number = itertools.count()
        self._began = 0

    async def run(self, count: int, at_a_third: Callable[[], None], at_two_thirds: Callable[[], None]) -> None:
        """Have so many connections, some at once, and do something in between."""
        gate = asyncio.Semaphore(AT_ONCE)
        due = {count // 3: at_a_third, 2 * count // 3: at_two_thirds}

        async def one(number: int) -> None:
            async with gate:
                if number in due:
                    due[number]()
                kind = KINDS[number % len(KINDS)]
                try:
                    async with asyncio.timeout(60):
                        await kind(self, next(self._number))
                    self.done[kind.__name__] += 1
                except (OSError, EOFError, asyncio.IncompleteReadError):
                    self.done["cut"] += 1  # by the end of its worker

        await asyncio.gather(*[one(number) for number in range(count)])

    async def open(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = f"127.{70 + number // 40_000}.{number // 200 % 200}.{number % 200 + 1}"
        return await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(address, 0), limit=2**20)

    # Each kind of connection

    async def native(self, number: int) -> None:
        """A WebSocket in rooms of its own; every other one says no goodbye."""
        reader, writer = await self.open(number)
        name = f"{number}-{os.getpid()}"
        user = f"user {number}"
        token = sign({"sub": user, "exp": time.time() + 86400}, SECRET)
        private = sign({"sub": user, "channel": f"$private:{name}", "exp": time.time() + 86400}, SECRET)
        try:
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            commands = [
                {"connect": {"token": token}},
                {"subscribe": {"channel": f"own:{name}"}},
                {"subscribe": {"channel": f"away:{name}"}},
                {"subscribe": {"channel": f"$private:{name}", "token": private}},
                {"subscribe": {"channel": f"shared:{number % PUBLISHED}"}},
                {"history": {"channel": f"own:{name}", "limit": 10}},
                {"presence": {"channel": f"own:{name}"}},
                {"publish": {"channel": f"shared:{number % PUBLISHED}", "data": number}},
                {"sub_refresh": {"channel": f"$private:{name}", "token": private}},
                {"unsubscribe": {"channel": f"own:{name}"}},
            ]
            for id, command in enumerate(commands, 1):
                writer.write(frame(json.dumps({"id": id, **command}).encode()))
            await reader.readuntil(b'"id":%d,' % len(commands))
            if number % 2:
                writer.write(b"\x88\x82\0\0\0\0\x03\xe8")
                await reader.read()
        finally:
            cut(writer)

    async def stream(self, number: int) -> None:
        """A stream of events, of somebody who only listens."""
        reader, writer = await self.open(number)
        token = sign({"sub": f"user {number}", "exp": time.time() + 86400, "channels": [f"own:s{number}"]}, SECRET)
        body = json.dumps({"token": token}).encode()
        try:
            writer.write(request("POST", "/connection/uni_sse", body, "content-type: application/json"))
            await reader.readuntil(b'"client"')
        finally:
            cut(writer)

    async def emulated(self, number: int) -> None:
        """A stream with commands beside it."""
        reader, writer = await self.open(number)
        token = sign({"sub": f"user {number}", "exp": time.time() + 86400}, SECRET)
        body = json.dumps({"id": 1, "connect": {"token": token}}).encode()
        try:
            writer.write(request("POST", "/connection/http_stream", body))
            await reader.readuntil(b'"client"')
        finally:
            cut(writer)

    async def look(self, number: int) -> None:
        """A program that looks at rooms of which nobody ever heard, over the API."""
        reader, writer = await self.open(number)
        try:
            for method in ("presence", "presence_stats", "history"):
                body = json.dumps({"channel": f"own:looked at {number}", "limit": 10}).encode()
                writer.write(request("POST", f"/api/{method}", body, f"x-api-key: {KEY}"))
                await reader.readuntil(b"}}")
        finally:
            cut(writer)

    async def visit(self, number: int) -> None:
        """A request of the hosted application."""
        reader, writer = await self.open(number)
        try:
            writer.write(request("GET", f"/page/{number}", b""))
            await reader.readuntil(b"\r\n\r\nok")
        finally:
            cut(writer)

    async def mumble(self, number: int) -> None:
        """Half a request, and nothing more."""
        _, writer = await self.open(number)
        writer.write(b"GET /half HTTP/1.1\r\nHost: x\r\n")
        await writer.drain()
        cut(writer)


KINDS: tuple[Callable[[Churn, int], Awaitable[None]], ...] = (
    Churn.native, Churn.visit, Churn.native, Churn.look, Churn.native, Churn.stream, Churn.native, Churn.mumble,
    Churn.emulated,
)  # fmt: skip
HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def frame(text: bytes) -> bytes:
    """Return a text frame of a client, masked with zeros."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + text


def request(method: str, path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


# What is held


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def is_quiet(server: RunningServer) -> bool:
    """Say whether all workers serve, nobody is connected, and the broker has forgotten what it should."""
    status = server.status()
    workers = status["workers"]
    if sorted(each["slot"] for each in workers) != [0, 1, 2] or any(each["state"] != "ready" for each in workers):
        return False
    for worker in workers:
        found = worker["statistics"]
        broker = found.get("hub", {}).get("broker", {})
        if worker["connections"] or found.get("sessions") or not broker.get("all_workers"):
            return False
        hub = found["hub"]
        if hub["rooms"] or hub["memberships"] or hub["departures_pending"] or hub["in_grace"] or broker["own_members"]:
            return False
        if broker["all_members"] or broker["all_kept"] or broker["all_streams"] > PUBLISHED + 1:
            return False
    return True


async def held(server: RunningServer, broker: int) -> Held:
    """Wait until nobody is there, and count."""
    await eventually(lambda: is_quiet(server), every_s=0.25)
    status = server.status()
    pids = {f"slot {each['slot']}": each["pid"] for each in status["workers"]} | {
        "primary": server.pid,
        "broker": broker,
    }
    own = {}
    for number in itertools.count(1):  # whoever is served by the worker that is asked
        client = await ProtocolClient.join(server.websocket_url, f"127.90.0.{number}", token=sign({"sub": "x"}, SECRET))
        own = (await client.ask("rpc", method="count", data={}))["data"]
        await client.close()
        if own["slot"] == SURVIVOR:
            break
    await eventually(lambda: is_quiet(server), every_s=0.25)
    survivor = next(each for each in status["workers"] if each["slot"] == SURVIVOR)
    kept = survivor["statistics"]["hub"]["broker"]
    # The least of some looks: a copy that is about to be given up, or who asks for the status, is no leak.
    least = {name: descriptors(pid) for name, pid in pids.items()}
    for _ in range(LOOKS):
        await asyncio.sleep(0.25)
        least = {name: min(count, descriptors(pids[name])) for name, count in least.items()}
    return Held(
        least,
        {name: resident_kib(pid) for name, pid in pids.items()},
        own["tasks"],
        own["objects"],
        own["kinds"],
        {name: kept[name] for name in ("all_streams", "all_members", "all_subscribed", "all_keys")},
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_thousand_connections_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--anonymous", "--sticky", "ip", "--drain", "1s", "--commands-per-second", "0")
    with RunningServer("app.py", *options, workers=3, cwd=tmp_path, env=ENV) as server:
        server.wait_until_full()
        churn_in_rounds(server)


@run_async_for(1100)
async def churn_in_rounds(server: RunningServer) -> None:
    broker, churn = server.local_broker(), Churn(server)
    control = server.directory / CONTROL_SOCKET

    def kill() -> None:
        victims = [each["pid"] for each in server.status()["workers"] if each["slot"] == 1]
        os.kill(victims[0], signal.SIGKILL)

    def replace() -> None:
        send_request(control, {"command": "drain", "slot": 0})

    survivor = next(each["pid"] for each in server.status()["workers"] if each["slot"] == SURVIVOR)
    await churn.run(WARM_UP, kill, replace)
    await held(server, broker)
    found = []
    for _ in range(ROUNDS):
        await churn.run(EACH, kill, replace)
        found.append(await held(server, broker))
        print(found[-1].descriptors, found[-1].resident_kib, found[-1].tasks, found[-1].objects, found[-1].broker)
    print(churn.done)
    assert {kind.__name__ for kind in KINDS} <= churn.done.keys(), "each kind was served"
    assert survivor in [each["pid"] for each in server.status()["workers"]]
    first, last = found[0], found[-1]
    for name in ("primary", "broker", f"slot {SURVIVOR}"):
        assert last.descriptors[name] <= first.descriptors[name], name
        assert last.resident_kib[name] - first.resident_kib[name] < GROWTH_MAX_KIB, name
    for name in ("slot 0", "slot 1"):  # their workers began in this round or the one before
        assert abs(last.descriptors[name] - first.descriptors[name]) <= 1, name
        assert last.resident_kib[name] - first.resident_kib[name] < GROWTH_MAX_KIB, name
    assert last.tasks <= first.tasks
    more = Counter(last.kinds) - Counter(first.kinds)
    assert last.objects - first.objects < OBJECTS_MAX, more.most_common(10)
    assert last.broker == first.broker
