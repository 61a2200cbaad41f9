"""
Clients that come back, rooms that the server gives, and a broker that is away: what each client is told.

Through a real WebSocket to one worker in this process, over a broker whose answers a test may hold back (Centrifuge
client protocol, sections 6.1, 6.2 and 9).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from realtime import App, Connection
from realtime.broker.base import Retention, Room
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import Client, OneWorker, until

KEPT = Retention(5, 300.0)


def make_app() -> App:
    app = App()
    app.room("kept", open=True, history=5)
    app.room("other:{name}", open=True, history=5, presence=True)
    app.room("open", open=True)
    return app


async def publish(app: App, *data: Any, room: str = "kept") -> None:
    for each in data:
        await app.room(room).publish(each)


def offsets(publications: list[dict[str, Any]]) -> list[int]:
    """Return the offsets; what was published here is its own offset."""
    assert all(pub["data"] == pub["offset"] for pub in publications)
    return [pub["offset"] for pub in publications]


# Recovery by position


@pytest.mark.parametrize(
    ("since", "missed"),
    [(3, [4, 5, 6, 7]), (2, [3, 4, 5, 6, 7]), (6, [7]), (7, []), (1, None), (0, None), (8, None), (700, None)],
)
@run_async
async def test_a_client_that_returns_gets_what_it_missed_or_is_told_that_it_cannot(
    since: int, missed: list[int] | None
) -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        epoch = (await (await worker.join()).ask("subscribe", channel="kept"))["epoch"]
        await publish(app, *range(1, 8))  # of which five are kept
        told = await (await worker.join()).ask("subscribe", channel="kept", recover=True, epoch=epoch, offset=since)
        found = {"epoch": epoch, "recoverable": True, "positioned": True, "was_recovering": True}
        publications = told.pop("publications", [])
        if missed is None:
            assert (told, publications) == ({**found, "offset": 7}, [])
        else:
            assert told == {**found, "recovered": True, "offset": since}, "the client's own position, which moves on"
            assert offsets(publications) == missed


@pytest.mark.parametrize(
    ("fields", "is_recovered"),
    [
        ({"epoch": "", "offset": 0}, True),
        ({"offset": 2}, True),
        ({"epoch": "_", "offset": 0}, False),
        ({"epoch": "another", "offset": 3}, False),
    ],
)
@run_async
async def test_an_empty_epoch_is_any_and_another_is_none(fields: dict[str, Any], is_recovered: bool) -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        await publish(app, 1, 2, 3)
        told = await (await worker.join()).ask("subscribe", channel="kept", recover=True, **fields)
        assert told["was_recovering"] is True
        assert told.get("recovered", False) is is_recovered
        assert offsets(told.get("publications", [])) == ([1, 2, 3][fields["offset"] :] if is_recovered else [])


@run_async
async def test_a_client_that_does_not_ask_gets_nothing_of_the_past() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        await publish(app, 1, 2, 3)
        told = await (await worker.join()).ask("subscribe", channel="kept", offset=1, positioned=True)
        assert told.keys() == {"epoch", "recoverable", "positioned", "offset"}
        assert told["offset"] == 3


@run_async
async def test_who_would_rather_be_refused_than_miss_something_is_refused() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        client = await worker.join()
        await publish(app, 1)
        for fields in ({"epoch": "another", "offset": 1}, {"offset": 9}):
            with pytest.raises(Refused) as refusal:
                await client.ask("subscribe", channel="kept", recover=True, flag=2, **fields)
            assert (refusal.value.code, refusal.value.message) == (112, "unrecoverable position")
        assert worker.hub.statistics()["memberships"] == 0
        assert (await client.ask("subscribe", channel="kept", recover=True, flag=2, offset=1))["recovered"] is True
        assert await client.ask("subscribe", channel="open", recover=True, flag=2, offset=1) == {}


@run_async
async def test_what_is_published_while_a_client_returns_comes_once_and_in_order() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client, other = await worker.join(), await worker.join()
        await other.ask("subscribe", channel="kept")
        await publish(app, 1, 2)
        for moment in ("before", "after"):
            top = (await other.ask("history", channel="kept"))["offset"]
            hold = broker.hold_before if moment == "before" else broker.hold_after
            gate = hold("history")
            entering = asyncio.create_task(client.ask("subscribe", channel="kept", recover=True, offset=top - 1))
            await gate.reached.wait()
            await publish(app, top + 1, top + 2)
            for _ in range(2):
                await other.push("pub")
            broker.let_pass()
            told = await entering
            assert (told["offset"], told["recovered"]) == (top - 1, True)
            assert offsets(told["publications"]) == [top, top + 1, top + 2]
            await publish(app, top + 3)
            assert (await client.push("pub"))["pub"]["offset"] == top + 3
            await client.ask("unsubscribe", channel="kept")
        assert [reply["push"]["pub"]["offset"] for reply in client.heard if "push" in reply] == [5, 8]


# Publications that are lost on the way


@run_async
async def test_a_hole_is_filled_before_what_follows_it() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="kept")
        await publish(app, 1)
        await broker.publish_unheard("kept", b"2", b"3", retention=KEPT)
        await publish(app, 4, 5)
        assert offsets([(await client.push("pub"))["pub"] for _ in range(5)]) == [1, 2, 3, 4, 5]


@run_async
async def test_who_cannot_be_given_everything_is_sent_to_subscribe_again() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        epoch = (await client.ask("subscribe", channel="kept"))["epoch"]
        await publish(app, 1)
        await broker.publish_unheard("kept", *[b"%d" % n for n in range(2, 12)], retention=KEPT)
        await publish(app, 12)
        assert await client.push("unsubscribe") == {
            "channel": "kept",
            "unsubscribe": {"code": 2500, "reason": "insufficient state"},
        }
        told = await client.ask("subscribe", channel="kept", recover=True, epoch=epoch, offset=1)
        assert (told["offset"], told["was_recovering"], told.get("recovered", False)) == (12, True, False)
        await publish(app, 13)
        assert (await client.push("pub"))["pub"]["offset"] == 13


@run_async
async def test_who_is_sent_to_subscribe_again_is_told_to_try_again_until_then_and_no_longer() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()

        async def refused(method: str = "publish", **fields: Any) -> tuple[int, bool]:
            with pytest.raises(Refused) as refusal:
                await client.ask(method, channel="other:x", **fields)
            return refusal.value.code, refusal.value.temporary

        async def loses() -> None:
            await client.ask("subscribe", channel="other:x")
            await publish(app, 1, room="other:x")
            broker.lose_stream("other:x")
            await publish(app, 1, 2, room="other:x")
            assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2500

        assert await refused(data=1) == (103, False), "it never was in the room"
        await loses()
        for method, fields in (("publish", {"data": 1}), ("presence", {}), ("history", {})):
            assert await refused(method, **fields) == (100, True)
        await client.ask("subscribe", channel="other:x")
        assert await client.ask("publish", channel="other:x", data=1) == {}
        await client.ask("unsubscribe", channel="other:x")
        assert await refused(data=1) == (103, False), "it left"
        await loses()
        await client.ask("unsubscribe", channel="other:x")
        assert await refused(data=1) == (103, False), "it does not come back"
        await loses()
        assert await refused("subscribe", recover=True, flag=2, epoch="no", offset=9) == (112, False)
        assert await refused(data=1) == (100, True), "an SDK asks again then, from the top"


@run_async
async def test_a_stream_that_was_lost_is_no_stream_to_go_on_with() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        epoch = (await client.ask("subscribe", channel="kept"))["epoch"]
        await publish(app, 1)
        await client.push("pub")
        broker.lose_stream("kept")
        await publish(app, 1, 2, 3)
        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2500
        told = await client.ask("subscribe", channel="kept", recover=True, epoch=epoch, offset=1)
        assert told["epoch"] != epoch
        assert (told["offset"], told.get("recovered", False)) == (3, False)


async def held_at_the_door(client: Client, broker: LaggingBroker, *, offset: int) -> asyncio.Task[Any]:
    """Have a client ask for what came after an offset, and the broker hold back what it read."""
    gate = broker.hold_after("history")
    entering = asyncio.create_task(client.ask("subscribe", channel="kept", recover=True, offset=offset))
    await gate.reached.wait()
    return entering


@run_async
async def test_a_hole_that_is_filled_while_a_client_is_let_in_is_filled_for_it_too() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        await publish(app, 1)
        entering = await held_at_the_door(client, broker, offset=0)
        await broker.publish_unheard("kept", b"2", retention=KEPT)
        await publish(app, 3)
        await until(lambda: worker.hub.statistics()["received"])
        broker.let_pass()
        told = await entering
        assert told["recovered"]
        assert [each["offset"] for each in told["publications"]] == [1, 2, 3]


@run_async
async def test_a_loss_while_a_client_is_let_in_ends_its_connection_so_that_it_comes_again() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        await publish(app, 1)
        entering = await held_at_the_door(client, broker, offset=1)
        broker.lose_stream("kept")
        await publish(app, 1, 2)
        await until(lambda: worker.hub.statistics()["received"])
        broker.let_pass()
        with pytest.raises(ConnectionResetError):
            await entering
        assert await client.wait_closed() == (3010, "insufficient state")


# Rooms that the server gives


@run_async
async def test_rooms_of_a_token_and_of_on_connect_stand_in_the_answer_before_everything_of_theirs() -> None:
    app = make_app()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        await conn.subscribe("other:b")
        await conn.subscribe("kept")

    async with OneWorker(app) as worker:
        await publish(app, 1, 2)
        client = await worker.join(token=worker.token(sub="42", channels=["other:a", "kept"]))
        subs = client.connected["subs"]
        assert subs.keys() == {"kept", "other:a", "other:b"}
        assert {name: sub.get("offset", 0) for name, sub in subs.items()} == {"kept": 2, "other:a": 0, "other:b": 0}
        assert all(sub["recoverable"] and sub["positioned"] and sub["epoch"] for sub in subs.values())
        assert {(await client.push("join"))["channel"] for _ in range(2)} == {"other:a", "other:b"}
        await publish(app, 3)
        assert (await client.push("pub"))["pub"]["offset"] == 3
        assert "connect" in client.heard[0]
        with pytest.raises(Refused) as refusal:
            await client.ask("subscribe", channel="kept")
        assert refusal.value.code == 105
        assert await client.ask("unsubscribe", channel="kept") == {}
        assert (await client.ask("subscribe", channel="kept"))["offset"] == 3


@run_async
async def test_a_returning_client_recovers_them_and_wishes_for_no_others() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        token = worker.token(channels=["kept"])
        epoch = (await worker.join(token=token)).connected["subs"]["kept"]["epoch"]
        await publish(app, 1, 2, 3)
        wishes = {
            "kept": {"recover": True, "epoch": epoch, "offset": 1},
            "other:a": {"recover": True, "epoch": epoch, "offset": 0},
        }
        subs = (await worker.join(token=token, subs=wishes)).connected["subs"]
        assert subs.keys() == {"kept"}
        assert (subs["kept"]["offset"], subs["kept"]["recovered"]) == (1, True)
        assert offsets(subs["kept"]["publications"]) == [2, 3]
        wishes["kept"]["epoch"] = "another"
        told = (await worker.join(token=token, subs=wishes)).connected["subs"]["kept"]
        assert (told["offset"], told["was_recovering"], told.get("recovered", False)) == (3, True, False)


@run_async
async def test_a_room_given_later_is_told_by_a_push_and_so_is_its_end() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        client = await worker.join(user="42")
        connection = worker.session(client).connection
        await publish(app, 1, 2)
        await connection.subscribe("kept")
        told = await client.push("subscribe")
        assert told["channel"] == "kept"
        assert told["subscribe"].pop("epoch")
        assert told["subscribe"] == {"recoverable": True, "positioned": True, "offset": 2}
        await publish(app, 3)
        assert (await client.push("pub"))["pub"]["offset"] == 3
        await connection.subscribe("kept")
        await connection.unsubscribe("kept")
        await connection.unsubscribe("kept")
        end = {"channel": "kept", "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
        assert await client.push("unsubscribe") == end
        await publish(app, 4)
        await client.ask("subscribe", channel="open")
        heard = [reply["push"].keys() - {"channel"} for reply in client.heard if "push" in reply]
        assert heard == [{"subscribe"}, {"pub"}, {"unsubscribe"}], "each once"


@run_async
async def test_a_loss_in_a_room_that_the_server_gave_ends_the_connection() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join(token=worker.token(channels=["kept"]))
        broker.lose_stream("kept")
        await publish(app, 1)
        assert await client.wait_closed() == (3010, "insufficient state")


@run_async
async def test_rooms_that_the_server_gives_are_entered_at_a_time_and_answered_in_order() -> None:
    app, broker = make_app(), LaggingBroker()
    rooms = ["other:c", "kept", "open", "other:a"]
    async with OneWorker(app, broker=broker) as worker:
        gate = broker.hold_before("subscribe")
        joining = asyncio.create_task(worker.join(token=worker.token(channels=rooms)))
        await gate.reached.wait()
        await until(lambda: broker.calls.count("subscribe") >= len(rooms))
        broker.let_pass()
        client = await joining
        assert list(client.connected["subs"]) == rooms
        assert worker.hub.statistics()["memberships"] == len(rooms)


@pytest.mark.parametrize("how", ["a room fails", "the client goes"])
@run_async
async def test_of_rooms_that_are_entered_at_a_time_all_or_none_is_entered(how: str) -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        gate = broker.hold_after("history" if how == "a room fails" else "position")
        client = await worker.open()
        subs = {"kept": {"recover": True, "epoch": "e", "offset": 1}}
        joining = asyncio.create_task(
            client.ask("connect", token=worker.token(channels=["open", "other:a", "kept"]), subs=subs)
        )
        await gate.reached.wait()
        if how == "a room fails":
            broker.away = True
        else:
            client.abort()
            await client.wait_closed()
            await until(lambda: not len(worker.registry))
        broker.let_pass()
        with pytest.raises(Refused if how == "a room fails" else ConnectionResetError):
            await joining
        broker.away = False
        worker.hub.on_link_restored()  # what could not be undone is undone
        await until(lambda: not worker.hub.registry.rooms and not worker.hub.statistics()["departures_pending"])
        assert await broker.members(Room("other:a")) == {}


@run_async
async def test_a_loss_that_ends_the_connection_ends_its_presence_too() -> None:
    app, broker = App(), LaggingBroker()
    app.room("seen", open=True, history=5, presence=True)
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join(token=worker.token(channels=["seen"]))
        assert len(await broker.members(Room("seen"))) == 1
        broker.lose_stream("seen")
        await publish(app, 1, room="seen")
        assert await client.wait_closed() == (3010, "insufficient state")
        await until(lambda: worker.hub.statistics()["departures_pending"] == 0)
        assert await broker.members(Room("seen")) == {}


@pytest.mark.parametrize("room", ["nowhere", "x" * 300, ""])
@run_async
async def test_a_room_that_is_not_declared_is_refused_to_a_token_too(room: str) -> None:
    async with OneWorker(make_app()) as worker:
        with pytest.raises(Refused) as refusal:
            await worker.join(token=worker.token(channels=["kept", room]))
        assert (refusal.value.code, refusal.value.message) == (102, "unknown channel")
        assert worker.hub.statistics()["memberships"] == 0


# A broker that is away


@run_async
async def test_while_the_broker_is_away_commands_fail_for_now_and_nobody_is_put_out() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client, new = await worker.join(), await worker.join()
        for room in ("kept", "other:a"):
            await client.ask("subscribe", channel=room)
        await publish(app, 1)
        broker.lose_link()
        replies = await new.say(
            {"id": 2, "subscribe": {"channel": "other:a"}},
            {"id": 3, "subscribe": {"channel": "kept", "recover": True, "offset": 1}},
            {"id": 4, "subscribe": {"channel": "open"}},
        )
        replies += await client.say(
            {"id": 5, "publish": {"channel": "kept", "data": 2}},
            {"id": 6, "history": {"channel": "kept"}},
            {"id": 7, "presence": {"channel": "other:a"}},
            {"id": 8, "presence_stats": {"channel": "other:a"}},
        )
        away = {"code": 100, "message": "temporarily unavailable", "temporary": True}
        fails = {reply["id"]: reply["error"] for reply in replies if "id" in reply and "error" in reply}
        assert fails == dict.fromkeys(range(2, 9), away)
        await broker.publish_unheard("kept", b"2", b"3", retention=KEPT)
        assert client.closed is None
        broker.restore_link()
        assert offsets([(await client.push("pub"))["pub"] for _ in range(3)]) == [1, 2, 3]
        assert await new.ask("subscribe", channel="open") == {}
        told = await new.ask("subscribe", channel="kept", recover=True, offset=1)
        assert offsets(told["publications"]) == [2, 3]


@run_async
async def test_who_cannot_be_given_its_rooms_is_told_to_try_again() -> None:
    broker = LaggingBroker()
    async with OneWorker(make_app(), broker=broker) as worker:
        broker.lose_link()
        with pytest.raises(Refused) as refusal:
            await worker.join(token=worker.token(channels=["kept"]))
        assert (refusal.value.code, refusal.value.message) == (100, "temporarily unavailable")
        broker.restore_link()
        assert (await worker.join(token=worker.token(channels=["kept"]))).connected["subs"].keys() == {"kept"}


# Ends in the middle


@pytest.mark.parametrize("held", ["subscribe", "add_member", "position"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("is_given", [False, True], ids=["asked for", "given"])
@run_async
async def test_who_goes_while_it_is_let_in_leaves_nothing_behind(held: str, when: str, is_given: bool) -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.open()
        gate = (broker.hold_before if when == "before" else broker.hold_after)(held)
        token = worker.token(channels=["other:a"] if is_given else [])
        asked = {"id": 1, "connect": {"token": token}}
        await client.send_raw(json.dumps(asked) + ("" if is_given else '\n{"id":2,"subscribe":{"channel":"other:a"}}'))
        await gate.reached.wait()
        client.abort()
        await client.wait_closed()
        await until(lambda: not worker.registry)
        broker.let_pass()
        await until(lambda: not worker.hub.statistics()["rooms"])
        other = await worker.join()
        await other.ask("subscribe", channel="other:a")
        assert (await other.ask("presence_stats", channel="other:a"))["num_clients"] == 1
