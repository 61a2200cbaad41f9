"""FastAPI on four workers: requests, server-sent events, a WebSocket, and a route that publishes into a room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import centrifuge
import httpx
import pytest
from httpx import AsyncClient
from websockets.asyncio.client import connect

from tests.support.aio import run_async
from tests.support.server import ROOT, RunningServer

# What centrifuge-python leaves to the garbage collector is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

APP = ROOT / "examples" / "fastapi" / "app.py"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(APP, "--sticky", "session", workers=4) as server:
        server.wait_until_full()
        yield server


def visitor(server: RunningServer) -> AsyncClient:
    """A browser's stand-in: it keeps its cookies, and opens a connection for each request that would wait."""
    return AsyncClient(base_url=server.url, trust_env=False, timeout=30)


class Listener(centrifuge.ClientEventHandler, centrifuge.SubscriptionEventHandler):
    """Keeps what a room's publications say."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.heard: asyncio.Queue[object] = asyncio.Queue()

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        self.entered.set()

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.heard.put_nowait(ctx.pub.data)


@run_async
async def test_every_request_of_a_visitor_meets_the_same_worker(server: RunningServer) -> None:
    slots = set()
    for _ in range(12):
        async with visitor(server) as client:
            places = [(await client.get("/whereami")).json() for _ in range(5)]
            assert len({place["worker"] for place in places}) == 1
            assert len({place["session"] for place in places}) == 1
            slots.add(places[0]["slot"])
    assert len(slots) > 1, "they are on several workers"


@run_async
async def test_bad_input_is_refused_by_fastapi_itself(server: RunningServer) -> None:
    async with visitor(server) as client:
        refused = await client.post("/chat/lobby", json={"txt": "misspelt"})
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["body", "text"]


@run_async
async def test_a_route_publishes_into_a_room_and_all_workers_hear_it(server: RunningServer) -> None:
    listeners = [Listener() for _ in range(8)]
    clients = [centrifuge.Client(f"{server.url.replace('http', 'ws')}/connection/websocket") for _ in listeners]
    try:
        for client, listener in zip(clients, listeners, strict=True):
            await client.connect()
            await client.new_subscription("chat:lobby", events=listener).subscribe()
            await asyncio.wait_for(listener.entered.wait(), 30)
        async with visitor(server) as http:
            said = await http.post("/chat/lobby", json={"text": "hello", "sender": "a route"})
            assert said.status_code == 201
            assert said.json() == {"offset": 1}
        for listener in listeners:
            assert await asyncio.wait_for(listener.heard.get(), 30) == {"from": "a route", "text": "hello"}
    finally:
        for client in clients:
            await client.disconnect()


@run_async
async def test_server_sent_events_come_one_by_one(server: RunningServer) -> None:
    async with visitor(server) as client, client.stream("GET", "/count/5") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        chunks = [chunk async for chunk in answer.aiter_text() if chunk]
    assert len(chunks) >= 3, "they are not kept until there are many"
    numbers = [json.loads(line[6:])["number"] for line in "".join(chunks).splitlines() if line.startswith("data: ")]
    assert numbers == [1, 2, 3, 4, 5]


@run_async
async def test_a_listener_who_leaves_ends_the_generator(server: RunningServer) -> None:
    mark = server.log.mark()
    async with visitor(server) as client, client.stream("GET", "/count/100000") as answer:
        async for line in answer.aiter_lines():
            if line == "id: 3":
                break
    ended = await asyncio.to_thread(server.log.wait_for, r"counted to (\d+) of 100000", since=mark)
    assert 3 <= int(ended[1]) < 100000


@run_async
async def test_a_websocket_is_with_the_worker_of_its_session(server: RunningServer) -> None:
    for _ in range(4):
        async with visitor(server) as client:
            place = (await client.get("/whereami")).json()
            cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        mark = server.log.mark()
        url = f"{server.url.replace('http', 'ws')}/upper"
        async with connect(url, additional_headers={"Cookie": cookies}, proxy=None) as socket:
            await socket.send("grüße")
            assert json.loads(await socket.recv()) == {"text": "GRÜSSE", "slot": place["slot"]}
        await asyncio.to_thread(server.log.wait_for, "a socket is gone: 1000", since=mark)


@run_async
async def test_what_fastapi_makes_of_itself_is_there(server: RunningServer) -> None:
    async with visitor(server) as client:
        found = (await client.get("/openapi.json")).json()
        assert found["info"]["title"] == "FastAPI on sticky workers"
        assert (await client.get("/no-such-page")).status_code == httpx.codes.NOT_FOUND
