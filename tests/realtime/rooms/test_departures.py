"""
Departures on one worker: what is owed while the broker is away, and what a grace does by the clock of one process.

That departures are heard after a crash is shown with real workers in tests/process/test_farewells.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from realtime import App, Connection
from realtime.broker.base import Room
from tests.support.aio import run_async
from tests.support.hub_client import HubClient
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import OneWorker, until


def make_app(heard: list[tuple[Any, ...]], **options: Any) -> App:
    app = App()

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.user = data or ""

    @app.on_disconnect
    async def disconnect(conn: Connection, code: int) -> None:
        heard.append(("end", conn.user, code))

    @app.room("r:{name}", presence=True, **options)
    class R:
        async def on_leave(self, member: Any, name: str) -> None:
            heard.append(("leave", member.user, name))
            if name == "broken":
                raise RuntimeError("the handler's own fault")

        async def on_empty(self, name: str) -> None:
            heard.append(("empty", name))

    return app


async def records(worker: OneWorker, room: str, user: str) -> int:
    names = [f"\0l:{room}", f"\0e:{room}", f"\0d:{user}", f"\0a:{len(user)}:{user}{room}"]
    return sum([len(await worker.broker.members(Room(name))) for name in names])


@run_async
async def test_who_was_in_a_room_first_and_unseen_takes_no_farewell_from_those_who_came_later() -> None:
    heard: list[tuple[Any, ...]] = []
    async with OneWorker(make_app(heard)) as worker:
        options = worker.hub.declarations.room_options(Room("r:a"))
        assert options is not None
        unseen = HubClient(worker.hub, "unseen", options.unseen())
        unseen.activate(await unseen.ask(Room("r:a")))
        client = await worker.join(data="ana")
        await client.ask("subscribe", channel="r:a")
        await client.close()
        await until(lambda: ("leave", "ana", "a") in heard and ("empty", "a") in heard)
        assert await worker.hub.members.all(Room("r:a")) == {}
        assert await records(worker, "r:a", "ana") == 0


@run_async
async def test_a_departure_is_heard_while_the_broker_is_away_and_its_record_is_removed_later() -> None:
    heard: list[tuple[Any, ...]] = []
    broker = LaggingBroker()
    async with OneWorker(make_app(heard), broker=broker) as worker:
        client = await worker.join(data="ana")
        await client.ask("subscribe", channel="r:a")
        assert await records(worker, "r:a", "ana") == 2
        broker.away = True
        await client.close()
        await until(lambda: {each[0] for each in heard} == {"leave", "end"})
        assert worker.hub.statistics()["departures_pending"] > 0
        broker.away = False
        await worker.hub.departures.flush()
        await until(lambda: ("empty", "a") in heard)
        assert worker.hub.statistics()["departures_pending"] == 0
        assert await records(worker, "r:a", "ana") == 0
        assert await broker.members(Room("r:a")) == {}


@run_async
async def test_a_handler_that_fails_was_called_and_is_not_called_again() -> None:
    heard: list[tuple[Any, ...]] = []
    async with OneWorker(make_app(heard)) as worker:
        client = await worker.join(data="ana")
        await client.ask("subscribe", channel="r:broken")
        await client.ask("unsubscribe", channel="r:broken")
        await until(lambda: ("empty", "broken") in heard)
        await worker.hub.departures.flush()
        assert heard.count(("leave", "ana", "broken")) == 1


@run_async
async def test_nobody_comes_back_who_has_no_name_and_nobody_who_said_goodbye() -> None:
    heard: list[tuple[Any, ...]] = []
    async with OneWorker(make_app(heard, grace_s=3600.0)) as worker:
        watcher = await worker.join(data="wim")
        await watcher.ask("subscribe", channel="r:a")
        nameless, polite, broken = [await worker.join(data=user) for user in ("", "ana", "ben")]
        for client in (nameless, polite, broken):
            await client.ask("subscribe", channel="r:a")
        broken.abort()
        nameless.abort()
        await polite.close()
        left = {(await watcher.push("leave"))["leave"]["info"]["client"] for _ in range(2)}
        assert left == {nameless.connected["client"], polite.connected["client"]}
        await until(lambda: worker.hub.statistics()["in_grace"] == 1)
        assert ("leave", "ben", "a") not in heard


@run_async
async def test_when_the_only_worker_ends_nobody_is_waited_for() -> None:
    heard: list[tuple[Any, ...]] = []
    async with OneWorker(make_app(heard, grace_s=3600.0)) as worker:
        client = await worker.join(data="ana")
        await client.ask("subscribe", channel="r:a")
        client.abort()
        await until(lambda: worker.hub.statistics()["in_grace"] == 1)
    assert heard.count(("leave", "ana", "a")) == 1
    assert heard[-1] == ("empty", "a")


@run_async
async def test_who_goes_before_it_is_admitted_leaves_nothing_behind() -> None:
    heard: list[tuple[Any, ...]] = []
    app, broker = make_app(heard), LaggingBroker()
    app.room("plain:{name}", open=True)
    async with OneWorker(app, broker=broker) as worker:
        recorded = broker.hold_after("add_member")
        client = await worker.open()
        token = worker.token(sub="ana", channels=["plain:a"])
        await client.send_raw(json.dumps({"id": 1, "connect": {"token": token, "data": "ana"}}))
        await recorded.reached.wait()
        assert worker.hub.statistics()["rooms"] == 1
        client.abort()
        await until(lambda: not worker.registry)
        broker.let_pass()
        await until(lambda: worker.hub.statistics()["rooms"] == 0)
        while await records(worker, "plain:a", "ana"):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert heard == [], "it was never there"


@run_async
async def test_who_goes_while_it_waits_for_another_tabs_entry_takes_nothing_from_the_next() -> None:
    heard: list[tuple[Any, ...]] = []
    broker = LaggingBroker()
    async with OneWorker(make_app(heard, grace_s=3600.0), broker=broker) as worker:
        watcher = await worker.join(data="wim")
        first, second, third = [await worker.join(data="ana") for _ in range(3)]
        for client in (watcher, first):
            await client.ask("subscribe", channel="r:a")
        entry = broker.hold_before("add_member")
        first.abort()
        await entry.reached.wait()
        session = worker.session(second)
        await second.send_raw(json.dumps({"id": 9, "subscribe": {"channel": "r:a"}}))
        await until(lambda: session.entering)
        second.abort()
        await until(lambda: session not in worker.registry)
        broker.let_pass()
        await third.ask("subscribe", channel="r:a")
        there = await broker.members(Room("r:a"))
        assert set(there) == {watcher.connected["client"], first.connected["client"]}, "it goes on as the first"
        assert worker.hub.statistics()["in_grace"] == 0
