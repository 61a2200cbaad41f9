"""One user, wherever connected: the handle that an application has of it, on one worker (several: test_api.py)."""

from __future__ import annotations

import asyncio

import pytest

from realtime import App, Connection
from realtime.application.room import Rooms
from realtime.cluster.messages import DisconnectUser
from realtime.errors import ClientError, UnknownRoom
from tests.support.aio import run_async
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import OneWorker


@run_async
async def test_a_user_is_online_where_there_is_a_connection() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        assert not await app.user("ana").is_online()
        tabs = [await worker.join(user="ana") for _ in range(2)]
        await worker.join(user="ben")
        await tabs[0].ask("subscribe", channel="r")
        places = await app.user("ana").connections()
        assert {place.connection_id for place in places} == {tab.connected["client"] for tab in tabs}
        assert {place.rooms for place in places} == {("r",), ()}
        assert {(place.address, place.slot, place.worker, place.node) for place in places} == {
            ("127.0.0.1", 3, "w", "n")
        }


@run_async
async def test_a_user_is_brought_in_taken_out_and_disconnected() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        one, other, ben = [await worker.join(user=user) for user in ("ana", "ana", "ben")]
        await app.user("ana").subscribe("r")
        for tab in (one, other):
            assert (await tab.push("subscribe"))["channel"] == "r"
        await app.user("ana").unsubscribe("r", connection_id=one.connected["client"])
        assert (await one.push("unsubscribe"))["channel"] == "r"
        await app.user("ana").disconnect(4001, "moved", connection_id=one.connected["client"])
        assert await one.wait_closed() == (4001, "moved")
        await app.user("ana").disconnect()
        assert await other.wait_closed() == (3503, "force disconnect")
        assert await app.user("ben").is_online()
        assert ben.closed is None


@run_async
async def test_a_user_is_disconnected_also_while_the_application_thinks_of_letting_it_in() -> None:
    app, asked = App(), asyncio.Event()

    @app.on_connect
    async def on_connect(conn: Connection) -> None:
        if conn.user == "ana":
            asked.set()
            await asyncio.Event().wait()

    async with OneWorker(app) as worker:
        ben = await worker.join(user="ben")
        coming = asyncio.create_task(worker.join(user="ana"))
        await asked.wait()
        await app.user("ana").disconnect()
        with pytest.raises(ConnectionResetError, match="3503"):
            await coming
        assert ben.closed is None


@run_async
async def test_who_is_let_in_just_now_is_not_meant_by_the_session_of_another() -> None:
    app, asked, let_in = App(), asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def on_connect(conn: Connection) -> None:
        asked.set()
        await let_in.wait()

    async with OneWorker(app) as worker:
        coming = asyncio.create_task(worker.join(user="ana"))
        await asked.wait()
        await worker.bus.send_all(DisconnectUser("ana", stream_id="no-such"))
        await app.user("ana").connections()  # what was said before is heard
        let_in.set()
        assert (await coming).closed is None


@run_async
async def test_without_a_worker_nobody_can_be_asked() -> None:
    with pytest.raises(RuntimeError, match="no worker runs this application"):
        await App().user("ana").is_online()


UNDECLARED = "room 'rr' is not declared; declared: r"


@run_async
async def test_a_user_is_subscribed_to_declared_rooms_only() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        await worker.join(user="ana")
        for call in (app.user("ana").subscribe("rr"), app.user("ana").unsubscribe("rr")):
            with pytest.raises(UnknownRoom) as found:
                await call
            assert str(found.value) == UNDECLARED
        await app.user("ana").unsubscribe("r")  # in which the user is not: harmless


@run_async
async def test_a_connection_is_subscribed_to_declared_rooms_only() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        conn = worker.session(await worker.join(user="ana")).connection
        for call in (conn.subscribe("rr"), conn.unsubscribe("rr")):
            with pytest.raises(UnknownRoom) as found:
                await call
            assert isinstance(found.value, ClientError), "a handler that does not catch it answers its client"
            assert (found.value.code, found.value.message, str(found.value)) == (102, "unknown channel", UNDECLARED)
        await conn.unsubscribe("r")  # in which it is not: harmless


@run_async
async def test_a_connection_is_given_no_undeclared_room_before_it_is_admitted() -> None:
    app, refused = App(), []
    app.room("r", open=True)

    @app.on_connect
    async def on_connect(conn: Connection) -> None:
        with pytest.raises(UnknownRoom) as found:
            await conn.subscribe("rr")
        refused.append(str(found.value))
        with pytest.raises(UnknownRoom):
            await conn.unsubscribe("rr")
        await conn.subscribe("r")
        await conn.unsubscribe("r")

    async with OneWorker(app) as worker:
        client = await worker.join(user="ana")
        assert client.connected.get("subs", {}) == {}
    assert refused == [UNDECLARED]


@run_async
async def test_a_user_leaves_a_room_that_is_declared_no_more() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        tabs = [await worker.join(user="ana") for _ in range(2)]
        await tabs[0].ask("subscribe", channel="r")
        app.rooms = Rooms()  # as newer code has it, on a worker that took the connection over
        await app.user("ana").unsubscribe("r")
        assert (await tabs[0].push("unsubscribe"))["channel"] == "r"
        with pytest.raises(UnknownRoom, match="room 'r' is not declared; declared: none"):
            await app.user("ana").unsubscribe("r")
        assert tabs[1].closed is None


@run_async
async def test_who_is_brought_in_and_taken_out_at_once_is_out() -> None:
    app, broker = App(), LaggingBroker()
    app.room("r", open=True)
    async with OneWorker(app, broker=broker) as worker:
        tab = await worker.join(user="ana")
        gate = broker.hold_after("subscribe")
        await app.user("ana").subscribe("r")
        await gate.reached.wait()
        await app.user("ana").unsubscribe("r")
        await app.user("ana").connections()  # what was said before is heard
        broker.let_pass()
        assert (await tab.push("subscribe"))["channel"] == "r"
        assert (await tab.push("unsubscribe"))["channel"] == "r"
        assert worker.session(tab).connection.rooms == frozenset()


@run_async
async def test_who_is_brought_in_taken_out_and_brought_in_again_at_once_is_in() -> None:
    app, broker = App(), LaggingBroker()
    app.room("r", open=True)
    async with OneWorker(app, broker=broker) as worker:
        tab = await worker.join(user="ana")
        gate = broker.hold_after("subscribe")
        await app.user("ana").subscribe("r")
        await gate.reached.wait()
        await app.user("ana").unsubscribe("r")
        await app.user("ana").subscribe("r")
        await app.user("ana").connections()
        broker.let_pass()
        await tab.push("subscribe")
        [place] = await app.user("ana").connections()
        assert place.rooms == ("r",)


@run_async
async def test_who_is_taken_out_while_coming_in_is_told_that_it_was_in_and_is_out() -> None:
    app, broker = App(), LaggingBroker()
    app.room("r", open=True)
    async with OneWorker(app, broker=broker) as worker:
        tab = await worker.join(user="ana")
        gate = broker.hold_after("subscribe")
        coming = asyncio.create_task(tab.ask("subscribe", channel="r"))
        await gate.reached.wait()
        await app.user("ana").unsubscribe("r")
        await app.user("ana").connections()  # what was said before is heard
        broker.let_pass()
        await coming
        assert (await tab.push("unsubscribe"))["channel"] == "r"
        assert worker.session(tab).connection.rooms == frozenset()
