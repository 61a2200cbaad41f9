"""
`?cf_ws_frame_ping_pong=true`: pings are frames of the WebSocket, in place of the protocol's empty messages.

One worker behind a real socket. Its client is raw, so that it answers a ping or does not; one test has a library's. The
wheel turns when the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from websockets.asyncio.client import connect

from realtime import App
from tests.realtime.transport.wire import CONT, FIN, HEAD, PING, PONG, TEXT, Client, frame, text
from tests.support.aio import run_async
from tests.support.one_worker import OneWorker

PATHS = ["/connection/websocket", "/connection/uni_websocket"]
ASKED = "?cf_ws_frame_ping_pong=true"
PINGED = (FIN | PING, b"")
NO_PONG = (3012, "no pong")


def pinging(**limits: Any) -> OneWorker:
    app = App()
    app.room("open", open=True)
    return OneWorker(app, **{"ping_s": 25, "pong_s": 8, **limits})


@contextlib.asynccontextmanager
async def joined(worker: OneWorker, target: str) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
    """Connect to a path with a query; give the client, and what it was told when it was admitted."""
    there = urlsplit(worker.url)
    reader, writer = await asyncio.open_connection(there.hostname, there.port)
    client = Client(reader, writer)
    client.send(HEAD.replace(b"/connection/websocket", target.encode()))
    try:
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        client.send(text("{}" if "/uni_" in target else '{"id":1,"connect":{}}'))
        first, payload = await client.frame()
        assert first == FIN | TEXT
        yield client, json.loads(payload)["connect"]
    finally:
        writer.transport.abort()


async def nothing_new(client: Client) -> None:
    """See that everything was read which the client sent, and that nothing was written but the proof of it."""
    client.send(frame(FIN | PING, b"proof"))
    assert await client.frame() == (FIN | PONG, b"proof")


@pytest.mark.parametrize("path", PATHS)
@run_async
async def test_who_asks_is_pinged_by_frames_and_stays_as_long_as_it_answers_them(path: str) -> None:
    async with pinging() as worker, joined(worker, path + ASKED) as (client, told):
        assert not told.keys() & {"ping", "pong"}
        worker.pass_time(12.25)
        await nothing_new(client)
        worker.pass_time(13)
        for _ in range(4):
            assert await client.frame() == PINGED
            client.send(frame(FIN | PONG))
            await nothing_new(client)
            worker.pass_time(8.25)
            await nothing_new(client)
            worker.pass_time(17.25)


@pytest.mark.parametrize("path", PATHS)
@run_async
async def test_who_does_not_answer_is_closed(path: str) -> None:
    async with pinging() as worker, joined(worker, path + ASKED) as (client, _):
        worker.pass_time(25.25)
        assert await client.frame() == PINGED
        worker.pass_time(7)
        await nothing_new(client)
        worker.pass_time(1.5)
        assert await client.close_frame() == NO_PONG


@pytest.mark.parametrize("path", PATHS)
@run_async
async def test_a_library_answers_by_itself(path: str) -> None:
    async with pinging() as worker, connect(urljoin(worker.url, path + ASKED), ping_interval=None) as client:
        await client.send("{}" if "/uni_" in path else '{"id":1,"connect":{}}')
        assert '"connect":{' in str(await client.recv())
        worker.pass_time(25.25)
        for _ in range(3):
            for _ in range(2):  # once it has the ping; once we have its answer
                await (await client.ping())
            worker.pass_time(8.25)
            worker.pass_time(17.25)
        session = next(iter(worker.registry))
        await session.connection.send("next")
        assert '"message":{"data":"next"}' in str(await client.recv()), "no empty message before it"


@run_async
async def test_a_late_answer_counts_and_so_does_one_within_a_message() -> None:
    async with pinging() as worker, joined(worker, PATHS[0] + ASKED) as (client, _):
        worker.pass_time(25.25)
        assert await client.frame() == PINGED
        worker.pass_time(7.5)
        client.send(frame(TEXT, b'{"id":2,"subscribe":'), frame(FIN | PONG), frame(FIN | CONT, b'{"channel":"open"}}'))
        assert await client.frame() == (FIN | TEXT, b'{"id":2,"subscribe":{}}')
        worker.pass_time(8)
        client.send(frame(FIN | PONG, b"once more"))
        await nothing_new(client)


@run_async
async def test_an_empty_message_is_a_mistake_there_and_no_answer() -> None:
    async with pinging() as worker, joined(worker, PATHS[0] + ASKED) as (client, _):
        worker.pass_time(25.25)
        assert await client.frame() == PINGED
        client.send(text("{}"))
        assert await client.close_frame() == (3501, "bad request")


@run_async
async def test_of_who_only_listens_an_empty_message_is_ignored_and_no_answer() -> None:
    async with pinging() as worker, joined(worker, PATHS[1] + ASKED) as (client, _):
        worker.pass_time(25.25)
        assert await client.frame() == PINGED
        client.send(text("{}"))
        await nothing_new(client)
        worker.pass_time(8.5)
        assert await client.close_frame() == NO_PONG


@pytest.mark.parametrize("path", PATHS)
@run_async
async def test_without_pings_there_are_no_frames_either(path: str) -> None:
    async with pinging(ping_s=0) as worker, joined(worker, path + ASKED) as (client, told):
        assert not told.keys() & {"ping", "pong"}
        worker.pass_time(3600)
        await nothing_new(client)


@pytest.mark.parametrize("query", ["", *(f"?cf_ws_frame_ping_pong={other}" for other in ("", "false", "1"))])
@run_async
async def test_who_does_not_ask_is_pinged_by_messages_which_no_frame_answers(query: str) -> None:
    async with pinging() as worker, joined(worker, PATHS[0] + query) as (client, told):
        assert (told["ping"], told["pong"]) == (25, True)
        worker.pass_time(25.25)
        assert await client.frame() == (FIN | TEXT, b"{}")
        client.send(frame(FIN | PONG))
        await nothing_new(client)
        worker.pass_time(8.5)
        assert await client.close_frame() == NO_PONG
