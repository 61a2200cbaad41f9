"""Django with Channels on four workers: sessions in memory, a chat through Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from httpx import AsyncClient
from websockets.asyncio.client import ClientConnection, connect

from tests.support.aio import run_async
from tests.support.redis_server import RedisServer
from tests.support.server import ROOT, RunningServer

APP = ROOT / "examples" / "django" / "app.py"


def serve(sticky: str, **env: str) -> RunningServer:
    return RunningServer(APP, "--sticky", sticky, "--balance", "round-robin", workers=4, env=env)


class Visitor:
    """Somebody with cookies, as a browser keeps them for requests and for WebSockets."""

    def __init__(self, server: RunningServer) -> None:
        self.url = server.url
        self.http = AsyncClient(base_url=server.url, trust_env=False, timeout=30, headers={"Connection": "close"})

    async def visit(self, times: int) -> list[dict[str, int]]:
        return [(await self.http.get("/")).json() for _ in range(times)]

    def enter(self, room: str) -> connect:
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        url = f"{self.url.replace('http', 'ws')}/chat/{room}"
        return connect(url, additional_headers={"Cookie": cookies}, proxy=None, open_timeout=30)


async def hear(socket: ClientConnection) -> dict[str, object]:
    found: dict[str, object] = json.loads(await asyncio.wait_for(socket.recv(), 30))
    return found


@run_async
async def test_sessions_in_memory_are_whole_and_the_websocket_finds_them() -> None:
    with serve("session") as server:
        await asyncio.to_thread(server.wait_until_full)
        pids = set()
        for _ in range(12):
            visitor = Visitor(server)
            async with visitor.http:
                told = await visitor.visit(5)
                assert [each["visits"] for each in told] == [1, 2, 3, 4, 5]
                [pid] = {each["pid"] for each in told}
                async with visitor.enter("lobby") as socket:
                    assert await hear(socket) == {"visits": 5, "pid": pid}
            pids.add(pid)
        assert len(pids) > 1, "they are on several workers"


@run_async
async def test_without_stickiness_sessions_in_memory_are_lost() -> None:
    with serve("none") as server:
        await asyncio.to_thread(server.wait_until_full)
        for _ in range(3):  # one after another: twelve at once would fall into step with four workers in turn
            visitor = Visitor(server)
            async with visitor.http:
                told = await visitor.visit(5)
            assert len({each["pid"] for each in told}) == 4, "each visit is for the next worker"
            assert [each["visits"] for each in told] != [1, 2, 3, 4, 5]


@pytest.mark.redis
@run_async
async def test_through_redis_a_room_is_one_on_all_workers() -> None:
    with RedisServer() as redis, serve("session", CHANNELS_REDIS=redis.url) as server:
        await asyncio.to_thread(server.wait_until_full)
        async with contextlib.AsyncExitStack() as stack:
            sockets = []
            for room in ["lobby"] * 8 + ["attic"]:
                visitor = Visitor(server)
                await stack.enter_async_context(visitor.http)
                await visitor.visit(1)
                sockets.append(await stack.enter_async_context(visitor.enter(room)))
            pids = {(await hear(socket))["pid"] for socket in sockets}
            assert len(pids) > 1, "they are on several workers"
            lobby, attic = sockets[:-1], sockets[-1]
            for text in ("one", "two"):
                await lobby[0].send(json.dumps({"text": text}))
            for socket in lobby:
                assert [await hear(socket), await hear(socket)] == [{"text": "one"}, {"text": "two"}]
            await attic.send(json.dumps({"text": "three"}))
            assert await hear(attic) == {"text": "three"}, "and of the lobby it heard nothing"
