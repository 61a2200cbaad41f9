"""What one client may do where the settings say the most: commands in one message, and silence between two pings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from realtime import App
from realtime.session.session import QUEUE_END
from realtime.transport.websocket_endpoint import WebSocketLimits
from tests.support.aio import run_async_for
from tests.support.one_worker import Client, OneWorker

MOST = WebSocketLimits(message_bytes=64 * 1024**2, outbound_bytes=256 * 1024**2, outbound_s=300)
COMMANDS = QUEUE_END + 1000
SEND = '{"send":{"data":1}}'  # has no answer
MANY = "\n".join([SEND] * COMMANDS)  # in one message: more than may wait of earlier ones


@run_async_for(60)
async def test_one_message_may_hold_as_many_commands_as_it_has_room_for() -> None:
    app, taken = App(), []

    @app.on_message
    async def message(conn: Any, data: Any) -> None:
        taken.append(data)

    async with OneWorker(app, sockets=MOST, commands_per_second=1_000_000) as worker:
        client = await worker.join()
        await client.send_raw(MANY)
        await client.ask("unsubscribe", channel="x")
        assert len(taken) == COMMANDS
        assert worker.registry.statistics()["overruns"] == {}


@run_async_for(60)
async def test_a_client_that_cannot_be_paused_is_closed_when_that_many_wait_and_it_sends_another_message() -> None:
    app, may_go_on = App(), asyncio.Event()

    @app.rpc("wait")
    async def wait(conn: Any, data: Any) -> None:
        await may_go_on.wait()

    async with OneWorker(app, sockets=MOST, commands_per_second=0) as worker:
        client = await worker.join()
        [session] = worker.registry
        session.receive(json.dumps({"id": 2, "rpc": {"method": "wait"}}))  # as `/emulation` does, whatever waits
        session.receive(MANY)
        assert client.closed is None
        assert session.is_open
        session.receive(SEND)
        assert await client.wait_closed() == (3013, "too many requests")
        assert worker.registry.statistics()["overruns"] == {"commands": 1}
        may_go_on.set()


async def silent(worker: OneWorker, client: Client, seconds: float) -> None:
    """Let time pass in which nothing happens to a client."""
    before = len(client.heard)
    worker.pass_time(seconds)
    assert len(await client.say({"id": 9, "unsubscribe": {"channel": "x"}})) == 1
    assert client.heard[before:][0]["id"] == 9, "it is neither pinged nor closed"


@run_async_for(60)
async def test_ping_and_pong_at_their_most_close_a_client_only_once_both_have_passed() -> None:
    async with OneWorker(App(), ping_s=600, pong_s=300) as worker:
        client = await worker.join()
        assert (client.connected["ping"], client.connected["pong"]) == (600, True)
        client.answers_pings = False
        await silent(worker, client, 299)  # the first ping comes after half an interval at the earliest
        worker.pass_time(302)
        assert (await client.hear(3))[2] == {}
        await silent(worker, client, 299)
        worker.pass_time(2)
        assert await client.wait_closed() == (3012, "no pong")
