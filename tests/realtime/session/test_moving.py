"""
A session that moves: it comes to rest within a bound, its state is bytes, and another one goes on from these.

That a client cannot tell is shown by the suites of tests/realtime/protocol, which run with sessions that move. Here is
what they do not look at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from realtime import App, Connection, ConnectionMoved
from realtime.auth.revocation import Revocation
from realtime.broker.base import Room
from realtime.errors import AnswerError
from realtime.session.plain import NotPlain
from realtime.session.session import Session
from realtime.session.state import BadState, decode, encode
from tests.support.aio import run_async
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import Client, OneWorker, until

LONG_S = 60.0
BATCH = 64  # connections in one message between two workers


async def move(worker: OneWorker, client: Client) -> Session:
    """Move a client's session at once, and return the one that serves it then."""
    session: Session = worker.session(client)
    assert await session.quiesce(LONG_S)
    exported = session.export()
    session.drop()
    transport: Any = session.transport
    moved = transport._session = await worker.protocol.restore(transport, exported)  # over the same one
    moved.resume()
    return moved


def open_app() -> App:
    app = App()
    app.room("plain", open=True)
    app.room("kept", open=True, history=10)
    app.room("delta", open=True, history=10, delta=True)
    return app


@run_async
async def test_a_difference_is_to_the_last_publication_that_the_client_got_before_it_moved() -> None:
    app = open_app()
    text = "the same in each of them, and long enough to be worth it"
    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="delta", delta="fossil")
        found = []
        for number in range(4):
            await app.room("delta").publish({"number": number, "text": text})
            found.append((await client.push("pub"))["pub"])
            await move(worker, client)
        assert [bool(pub.get("delta")) for pub in found] == [False, True, True, True]


@run_async
async def test_a_batch_that_moves_asks_the_broker_once_or_twice_for_each_room_and_not_for_each_client() -> None:
    app, broker = open_app(), LaggingBroker()
    app.room("also", open=True, history=10)
    async with OneWorker(app, broker=broker) as worker:
        clients = [await worker.join() for _ in range(BATCH)]
        for client in clients:
            for room in ("kept", "also"):
                await client.ask("subscribe", channel=room)
        sessions = [worker.session(client) for client in clients]
        assert all([await session.quiesce(LONG_S) for session in sessions])
        exported = [session.export() for session in sessions]
        for session in sessions:
            session.drop()
        await until(lambda: not worker.hub.registry.rooms)  # as in the new worker, where no client is yet
        await app.room("kept").publish("meanwhile")
        broker.lag = lambda: 3
        before = len(broker.calls)
        restored = await asyncio.gather(
            *(
                worker.protocol.restore(session.transport, each)
                for session, each in zip(sessions, exported, strict=True)
            )
        )
        assert len(restored) == BATCH
        calls = Counter(broker.calls[before:])
        assert calls["subscribe"] == calls["position"] == 2, "one for each room"
        assert calls["history"] <= 4, "two for each room"
        assert set(calls) == {"subscribe", "position", "history"}
        assert [(await client.push("pub"))["pub"]["data"] for client in clients] == ["meanwhile"] * BATCH


@run_async
async def test_a_gap_that_cannot_be_filled_is_told() -> None:
    app = open_app()
    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="kept")
        session = worker.session(client)
        assert await session.quiesce(LONG_S)
        exported = session.export()
        session.drop()
        for number in range(20):  # more than the room keeps
            await app.room("kept").publish(number)
        moved = await worker.protocol.restore(session.transport, exported)
        assert (await client.push("unsubscribe"))["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}
        assert moved.connection.rooms == frozenset()
        assert worker.hub.registry.sizes() == {}


@run_async
async def test_what_the_application_keeps_comes_with_it() -> None:
    app = open_app()
    seen: list[Any] = []

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.user = "ann"
        conn.info = {"name": "Ann"}
        conn.state["seen"] = {(1, 2), (3, 4)}

    @app.rpc("look")
    async def look(conn: Connection, data: Any) -> None:
        seen.append((conn.user, conn.info, conn.state))

    async with OneWorker(app) as worker:
        client = await worker.join()
        await move(worker, client)
        await client.ask("rpc", method="look")
    assert seen == [("ann", {"name": "Ann"}, {"seen": {(1, 2), (3, 4)}})]


@run_async
async def test_what_is_no_plain_data_any_more_does_not_move_and_the_log_names_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with OneWorker(open_app()) as worker:
        client = await worker.join()
        session = worker.session(client)
        session.connection.state["cart"] = []
        session.connection.state["cart"].append(object())
        assert await session.quiesce(LONG_S)
        with caplog.at_level(logging.WARNING, "realtime.session"), pytest.raises(NotPlain):
            session.export()
        assert "conn.state['cart'][0]: object is not plain data" in caplog.text
        session.connection.state = {}
        session.connection.info = {"photos": []}
        session.connection.info["photos"].append(object())
        with caplog.at_level(logging.WARNING, "realtime.session"), pytest.raises(AnswerError):
            session.export()
        assert "conn.info: JSON cannot say a `object` at `$.photos[0]`" in caplog.text
        session.connection.info = None
        session.resume()
        assert await client.ask("subscribe", channel="plain") == {}, "it is served on"


@run_async
async def test_a_session_whose_handler_does_not_end_is_not_at_rest_and_goes_on() -> None:
    app = open_app()
    begun, may_end = asyncio.Event(), asyncio.Event()

    @app.rpc("slow")
    async def slow(conn: Connection, data: Any) -> str:
        begun.set()
        await may_end.wait()
        return "done"

    async with OneWorker(app) as worker:
        client = await worker.join()
        asking = asyncio.create_task(client.ask("rpc", method="slow"))
        await begun.wait()
        session = worker.session(client)
        assert await session.quiesce(0.0) is False
        coming = asyncio.create_task(session.quiesce(LONG_S))
        may_end.set()
        assert await coming is True
        assert await asking == {"data": "done"}
        session.resume()
        assert await client.ask("subscribe", channel="plain") == {}


@run_async
async def test_a_subscription_under_way_is_waited_for() -> None:
    app = open_app()
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Gate:
        async def on_subscribe(self, conn: Connection) -> None:
            begun.set()
            await may_end.wait()

    app.room("gated")(Gate)
    async with OneWorker(app) as worker:
        client = await worker.join()
        asking = asyncio.create_task(client.ask("subscribe", channel="gated"))
        await begun.wait()
        session = worker.session(client)
        coming = asyncio.create_task(session.quiesce(LONG_S))
        await asyncio.sleep(0)
        assert (coming.done(), session.is_idle) == (False, False)
        may_end.set()
        assert await coming is True
        await asking
        assert set(decode(session.export()).subscriptions) == {"gated"}


@run_async
async def test_others_learn_nothing_of_a_move() -> None:
    app = App()
    app.room("seen", open=True, presence=True)
    async with OneWorker(app) as worker:
        client, other = await worker.join(), await worker.join()
        for each in (client, other):
            await each.ask("subscribe", channel="seen")
        await other.push("join")
        await move(worker, client)
        assert len((await other.ask("presence", channel="seen"))["presence"]) == 2
        await client.ask("unsubscribe", channel="seen")
        pushes = [next(iter(each["push"].keys() - {"channel"})) for each in other.heard if "push" in each]
        assert pushes.count("leave") <= 1
        left = await other.push("leave")
        assert left["leave"]["info"]["client"] == client.connected["client"]
        await until(lambda: sum("leave" in each.get("push", {}) for each in other.heard) == 1)


@run_async
async def test_a_session_that_has_moved_writes_nothing_and_leaves_no_room() -> None:
    app = open_app()
    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="kept")
        session = worker.session(client)
        assert await session.quiesce(LONG_S)
        exported = session.export()
        session.drop()
        old = session.connection
        for call in (old.send("of the old session"), old.unsubscribe("kept"), old.subscribe("plain")):
            with pytest.raises(ConnectionMoved, match=old.id):
                await call
        with pytest.raises(ConnectionMoved):
            old.disconnect()
        await session.grant(Room("plain"))
        session.refresh(0.0)
        session.insufficient(Room("kept"))
        session.drained()
        moved = session.transport._session = await worker.protocol.restore(session.transport, exported)
        moved.resume()
        await app.room("kept").publish(1)
        await client.push("pub")
        await client.ask("unsubscribe", channel="plain")
        assert [reply["push"].keys() - {"channel"} for reply in client.heard if "push" in reply] == [{"pub"}]
        assert (moved.connection.rooms, worker.hub.registry.sizes()) == ({"kept"}, {"kept": 1})


@run_async
async def test_a_token_that_is_revoked_while_its_client_moves_ends_the_connection() -> None:
    async with OneWorker(open_app()) as worker:
        client = await worker.join(user="ann")
        await client.ask("subscribe", channel="kept")
        session = worker.session(client)
        assert await session.quiesce(LONG_S)
        exported = session.export()
        session.drop()
        now_s = time.time()
        worker.bus.receive_revocation(Revocation(now_s + 60, "", "ann", now_s))
        await worker.protocol.restore(session.transport, exported)
        assert await client.wait_closed() == (3005, "connection expired")
        assert (worker.registry.statistics()["sessions"], worker.hub.registry.sizes()) == (0, {})


@pytest.mark.parametrize("lost", [("first",), ("second",), ("first", "second")])
@run_async
async def test_a_loss_on_the_way_that_ends_the_connection_leaves_no_member_behind(lost: tuple[str, ...]) -> None:
    app = App()
    for room in ("first", "second"):
        app.room(room, open=True, history=2, presence=True)
    async with OneWorker(app) as worker:
        client = await worker.join(token=worker.token(channels=["first", "second"]))
        session = worker.session(client)
        assert await session.quiesce(LONG_S)
        exported = session.export()
        session.drop()
        for room in lost:
            for number in range(3):  # more than the room keeps
                await app.room(room).publish(number)
        await worker.protocol.restore(session.transport, exported)
        assert await client.wait_closed() == (3010, "insufficient state")
        await until(lambda: worker.hub.statistics()["departures_pending"] == 0)
        for room in ("first", "second"):
            assert await worker.broker.members(Room(room)) == {}
        assert worker.hub.registry.sizes() == {}


@run_async
async def test_an_encoding_that_a_worker_does_not_speak_is_refused() -> None:
    async with OneWorker(open_app()) as worker:
        session = worker.session(await worker.join())
        state = decode(session.export())
        state.wire = msgspec.structs.replace(state.wire, encoding="cbor")
        with pytest.raises(BadState, match="in the encoding 'cbor'; this worker has json, protobuf, uni"):
            await worker.protocol.restore(session.transport, encode(state))
