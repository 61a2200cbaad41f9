"""
Rooms of Socket.IO's clients: those of events, and declared ones that they share with clients of the other protocol.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from realtime import AnswerError, App, Connection, DeclarationError, Reject
from realtime.errors import AnswersMissing, RoomIsDeclared, UnknownChannel
from tests.realtime.protocol.socketio.in_process import EngineInProcess, IOWorker
from tests.support.aio import run_async


class Conns:
    """An application with clients that a test moves about."""

    def __init__(self) -> None:
        self.app = app = App()
        self.all: list[Connection] = []

        @app.on_connect
        async def connect(conn: Connection) -> None:
            self.all.append(conn)

        app.namespace("/admin")

    async def clients(self, worker: IOWorker, *rooms: str) -> list[EngineInProcess]:
        """Begin a client for each text, in the rooms whose letters are in it."""
        engines = []
        for each in rooms:
            engine, _ = await worker.io()
            engines.append(engine)
            for room in each:
                await self.all[-1].enter(room)
        return engines


async def got(app: App, *engines: EngineInProcess) -> list[list[str]]:
    """Return which events each client has got by now, by name. The last one to all shows that nothing is under way."""
    await app.emit("end")
    heard = []
    for engine in engines:
        names: list[str] = []
        while not names or names[-1] != "end":
            message = await engine.next()
            assert isinstance(message, str)
            names.append(json.loads(message[message.index("[") :])[0])
        heard.append(names[:-1])
    return heard


@run_async
async def test_an_emit_reaches_a_room_all_or_one_client() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        a, ab, b, none = await conns.clients(worker, "a", "ab", "b", "")
        other = worker.engine()
        await other.join("/admin")
        await app.emit("all")
        await app.to("a").emit("a")
        await app.to("nobody").emit("lost")
        await app.to(conns.all[3].id).emit("one")
        await app.to("a", "b").emit("union")
        await app.to("a").to("b").except_("b").emit("a without b")
        await app.except_("a").emit("without a")
        await app.except_(conns.all[0].id, conns.all[3].id).emit("without two")
        await app.to("a", conns.all[3].id).local.emit("local")
        assert await got(app, a, ab, b, none) == [
            ["all", "a", "union", "a without b", "local"],
            ["all", "a", "union", "without two", "local"],
            ["all", "union", "without a", "without two"],
            ["all", "one", "without a", "local"],
        ]
        assert other.rest() == []
        await conns.all[1].leave("a")
        await conns.all[1].leave("never entered")
        await app.to("a").emit("again")
        assert await got(app, a, ab) == [["again"], []]
        assert (conns.all[0].rooms, conns.all[1].rooms) == ({"a"}, {"b"})


@run_async
async def test_a_connection_emits_to_others_and_not_to_itself() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        a, also_a, ab, none = await conns.clients(worker, "a", "a", "ab", "")
        conn = conns.all[0]
        await conn.to("a").emit("to a")
        await conn.broadcast.emit("to all")
        await conn.to("a", "b").emit("union")
        await conn.to("a").except_("b").emit("without b")
        await conn.broadcast.local.volatile.emit("local")
        assert await got(app, a, also_a, ab, none) == [
            [], ["to a", "to all", "union", "without b", "local"], ["to a", "to all", "union", "local"],
            ["to all", "local"],
        ]  # fmt: skip


@run_async
async def test_namespaces_share_no_room() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        await engine.join("/admin")
        await conns.all[1].enter("a")
        await app.to("a").emit("main")
        await app.namespace("/admin").to("a").emit("admin", 1)
        await app.namespace("/admin").emit("admins")
        await conns.all[1].broadcast.emit("not itself")
        await app.emit("end")
        assert [await engine.next() for _ in range(3)] == ['42/admin,["admin",1]', '42/admin,["admins"]', '42["end"]']


@run_async
async def test_in_on_connect_a_client_gets_what_goes_to_its_rooms_after_the_answer() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        await conn.enter("a")
        await app.to("a").emit("joined", 1)
        await app.emit("joined", 2)
        conn.emit("joined", 3)

    async with IOWorker(app) as worker:
        engine = worker.engine()
        engine.say("0")
        assert str(await engine.next()).startswith('40{"sid":')
        assert sorted([str(await engine.next()) for _ in range(3)]) == [f'42["joined",{n}]' for n in (1, 2, 3)]


@run_async
async def test_events_of_one_sender_keep_their_order_whichever_way_they_take() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        (engine,) = await conns.clients(worker, "ab")
        for number in range(50):
            await app.to("a").emit("n", 4 * number)
            await app.to("a", "b").emit("n", 4 * number + 1)
            await app.emit("n", 4 * number + 2)
            await app.volatile.emit("n", 4 * number + 3)
        numbers = [json.loads(str(await engine.next())[2:])[1] for _ in range(200)]
        assert numbers == list(range(200))


@run_async
async def test_attachments_go_to_rooms_on_both_ways() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        (engine,) = await conns.clients(worker, "ab")
        await app.to("a").emit("bytes", {"x": [b"\1\2"]}, bytearray(b"\3"))
        await app.to("a", "b").emit("bytes", memoryview(b"\4"))
        two = '{"x":[{"_placeholder":true,"num":0}]},{"_placeholder":true,"num":1}'
        assert [await engine.next() for _ in range(3)] == [f'452-["bytes",{two}]', b"\1\2", b"\3"]
        assert [await engine.next() for _ in range(2)] == ['451-["bytes",{"_placeholder":true,"num":0}]', b"\4"]


@run_async
async def test_a_name_that_looks_like_an_id_may_be_a_room() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        first, second = await conns.clients(worker, "", "")
        await conns.all[1].enter(conns.all[0].id)
        await app.to(conns.all[0].id).emit("both")
        assert await got(app, first, second) == [["both"], ["both"]]


@run_async
async def test_rooms_have_names_and_targets_take_texts() -> None:
    conns = Conns()
    async with IOWorker(conns.app) as worker:
        await worker.io()
        for wrong in ("", None, ["a"]):
            with pytest.raises(TypeError, match="a room is a text that is not empty"):
                await conns.all[0].enter(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="a room is a text that is not empty"):
                conns.app.to(wrong)  # type: ignore[arg-type]


@run_async
async def test_a_client_that_goes_is_in_no_room() -> None:
    conns = Conns()
    async with IOWorker(conns.app) as worker:
        (engine,) = await conns.clients(worker, "ab")
        assert worker.hub.statistics()["memberships"] == 3
        engine.close("transport close")
        assert worker.hub.statistics()["memberships"] == 0


# Declared rooms


class Chat:
    """A chat that both protocols share."""

    def __init__(self, **options: Any) -> None:
        self.app = app = App()
        self.conns: list[Connection] = []
        self.published: list[Any] = []

        @app.on_connect
        async def connect(conn: Connection, data: Any) -> None:
            conn.user = (data or {}).get("name", "")
            self.conns.append(conn)

        published = self.published

        @app.room("chat:{name}", **{"presence": True, "history": 10, **options})
        class Room:
            async def on_subscribe(self, conn: Connection, name: str) -> None:
                if name == "closed":
                    raise Reject

            async def on_publish(self, conn: Connection, data: Any) -> Any:
                published.append(data)
                if data == "bad":
                    raise Reject("not that", 400)
                return {"text": data, "from": conn.user} if isinstance(data, str) else data

        @app.event("enter")
        async def enter(conn: Connection, room: str) -> str:
            await conn.enter(room)
            return "in"

        @app.event("say")
        async def say(conn: Connection, room: str, *args: Any) -> str:
            await conn.to(room).emit(*args)
            return "said"


async def ack(engine: EngineInProcess, *event: Any) -> Any:
    """Send an event, and return the argument of its acknowledgement."""
    engine.say(f"20{json.dumps(event)}")
    answer = await engine.next()
    assert isinstance(answer, str) and answer.startswith("430["), answer  # noqa: PT018
    return json.loads(answer.removeprefix("430"))[0]


@run_async
async def test_a_declared_room_has_members_of_both_protocols_one_order_and_one_history() -> None:
    chat = Chat()
    async with IOWorker(chat.app) as worker:
        ann = await worker.join(data={"name": "ann"})
        await ann.ask("subscribe", channel="chat:x")
        bob, bob_id = await worker.io(auth={"name": "bob"})
        carl, _ = await worker.io(auth={"name": "carl"})
        assert await ack(bob, "enter", "chat:x") == "in"
        assert await ack(carl, "enter", "chat:x") == "in"
        presence = (await ann.ask("presence", channel="chat:x"))["presence"]
        assert sorted(each["user"] for each in presence.values()) == ["ann", "bob", "carl"]
        assert bob_id in presence

        await ann.ask("publish", channel="chat:x", data="from ann")
        assert await bob.next() == '42["message",{"text":"from ann","from":"ann"}]'
        assert await ack(bob, "say", "chat:x", "message", "from bob") == "said"
        assert await chat.app.room("chat:x").publish({"text": "from the application"})
        await chat.app.to("chat:x").emit("message", {"text": "emitted"})
        await chat.app.to("chat:x").emit("typing", "bob", 1)
        assert await bob.next() == '42["message",{"text":"from the application"}]'
        assert [await carl.next() for _ in range(5)] == [
            '42["message",{"text":"from ann","from":"ann"}]',
            '42["message",{"text":"from bob","from":"bob"}]',
            '42["message",{"text":"from the application"}]',
            '42["message",{"text":"emitted"}]',
            '42["typing","bob",1]',
        ]
        history = (await ann.ask("history", channel="chat:x", limit=-1))["publications"]
        assert [each["data"] for each in history] == [
            {"text": "from ann", "from": "ann"},
            {"text": "from bob", "from": "bob"},
            {"text": "from the application"},
            {"text": "emitted"},
            {"event": "typing", "args": ["bob", 1]},
        ]
        assert history[1]["info"]["user"] == "bob"
        pushes = [each["push"]["pub"] for each in ann.heard if "pub" in each.get("push", {})]
        assert [each["offset"] for each in pushes] == [1, 2, 3, 4, 5]
        assert chat.published == ["from ann", "from bob"]


@run_async
async def test_on_subscribe_and_on_publish_hold_for_both() -> None:
    chat = Chat(rate="2/min")
    async with IOWorker(chat.app) as worker:
        bob, _ = await worker.io(auth={"name": "bob"})
        denied = {"error": {"message": "permission denied", "code": 103}}
        assert await ack(bob, "enter", "chat:closed") == denied
        assert await ack(bob, "say", "chat:x", "message", "not a member") == denied
        assert await ack(bob, "enter", "chat:x") == "in"
        assert await ack(bob, "say", "chat:x", "message", "bad") == {"error": {"message": "not that", "code": 400}}
        assert await ack(bob, "say", "chat:x", "message", "good") == "said"
        assert (await ack(bob, "say", "chat:x", "message", "too soon"))["error"]["code"] == 111


@run_async
async def test_a_declared_room_is_entered_in_on_connect_with_the_answer() -> None:
    app = App()

    @app.room("chat:{name}", presence=True)
    class Room:
        async def on_subscribe(self, conn: Connection, name: str) -> None:
            if name == "closed":
                raise Reject("closed")

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        await conn.enter(data["room"])
        conn.user = "ann"

    async with IOWorker(app) as worker:
        engine, connection_id = await worker.io(auth={"room": "chat:x"})
        await app.to("chat:x").emit("message", 1)
        assert await engine.next() == '42["message",1]'
        assert (await app.room("chat:x").presence())[connection_id].user == "ann"  # type: ignore[index]
        engine = worker.engine()
        engine.say('0{"room":"chat:closed"}')
        assert await engine.next() == '44{"message":"closed","data":{"code":103}}'


@run_async
async def test_as_event_says_name_and_arguments() -> None:
    chat = Chat(as_event=("said", "room", "data", "user", "offset"))
    async with IOWorker(chat.app) as worker:
        bob, _ = await worker.io(auth={"name": "bob"})
        carl, _ = await worker.io(auth={"name": "carl"})
        await ack(bob, "enter", "chat:x")
        await ack(carl, "enter", "chat:x")
        await ack(bob, "say", "chat:x", "said", "hello")
        assert await carl.next() == '42["said","chat:x",{"text":"hello","from":"bob"},"bob",1]'
        await ack(bob, "say", "chat:x", "message", {"n": 1}, 2)  # on_publish gets the whole event
        assert await carl.next() == '42["message",{"n":1},2]'
        assert chat.published[-1] == {"event": "message", "args": [{"n": 1}, 2]}
        await ack(bob, "say", "chat:x", "empty")
        assert await carl.next() == '42["empty"]'


@run_async
async def test_no_client_can_forge_an_event_of_a_declared_room() -> None:
    chat = Chat()
    async with IOWorker(chat.app) as worker:
        ann = await worker.join(data={"name": "ann"})
        await ann.ask("subscribe", channel="chat:x")
        bob, _ = await worker.io(auth={"name": "bob"})
        await ack(bob, "enter", "chat:x")
        await ann.ask("publish", channel="chat:x", data={"event": "admin", "args": []})
        assert await bob.next() == '42["message",{"event":"admin","args":[]}]'
        await chat.app.room("chat:x").publish({"a": 1}, tags={"event": "admin"})
        assert await bob.next() == '42["message",{"a":1}]'


@run_async
async def test_a_binary_room_has_attachments() -> None:
    app = App()

    @app.room("pixels", binary=True, as_event=("frame", "data", "room"))
    class Pixels: ...

    @app.on_connect
    async def connect(conn: Connection) -> None:
        await conn.enter("pixels")

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        await app.room("pixels").publish(b"\1\2")
        assert [await engine.next() for _ in range(2)] == [
            '451-["frame",{"_placeholder":true,"num":0},"pixels"]', b"\1\2"
        ]  # fmt: skip
        await app.to("pixels").emit("frame", b"\3")
        assert [await engine.next() for _ in range(2)][1] == b"\3"
        for args in (("frame", {"a": 1}), ("other", b"\4")):
            with pytest.raises(AnswerError, match="one argument of bytes"):
                await app.to("pixels").emit(*args)


@run_async
async def test_what_a_declared_room_cannot_take_is_refused() -> None:
    chat = Chat()
    app = chat.app
    async with IOWorker(app) as worker:
        await worker.io()
        for target in (app.to("chat:x", "b"), app.to("chat:x").except_("b"), app.to("chat:x").local):
            with pytest.raises(RoomIsDeclared, match="'chat:x' is declared, so an emit into it is a publication"):
                await target.emit("message", 1)
        with pytest.raises(AnswerError, match="JSON cannot say bytes"):
            await app.to("chat:x").emit("message", b"\1")
        await app.to("b").except_("chat:x").emit("fine")


@run_async
async def test_a_centrifuge_client_enters_declared_rooms_alone() -> None:
    chat = Chat()
    async with IOWorker(chat.app) as worker:
        ann = await worker.join(data={"name": "ann"})
        conn = chat.conns[0]
        with pytest.raises(UnknownChannel):
            await conn.enter("undeclared")
        await conn.enter("chat:x")
        assert conn.rooms == {"chat:x"}
        bob, _ = await worker.io()
        await ack(bob, "enter", "chat:x")
        await conn.to("chat:x").emit("message", "hello")
        assert await bob.next() == '42["message",{"text":"hello","from":"ann"}]'
        await conn.broadcast.emit("to every client of the main namespace")
        assert await bob.next() == '42["to every client of the main namespace"]'
        assert ["channel", "subscribe"] in [list(each["push"]) for each in ann.heard if "push" in each]


def test_events_that_no_room_can_have_are_refused() -> None:
    app = App()
    for wrong, problem in (
        ("connect", "cannot be the name of an event"),
        ("", "cannot be the name of an event"),
        ((), "cannot be the name of an event"),
        (("m", "who"), "'who' is none of"),
    ):
        with pytest.raises(DeclarationError, match=problem):
            app.room("x", as_event=wrong, open=True)


@run_async
async def test_every_room_of_the_stock_application_is_shared() -> None:
    app = App()
    app.room("{*}", open=True, history=5)
    conns: list[Connection] = []

    @app.on_connect
    async def connect(conn: Connection) -> None:
        conns.append(conn)

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        ann = await worker.join()
        await conns[0].enter("any")
        await ann.ask("subscribe", channel="any")
        await ann.ask("publish", channel="any", data=1)
        await app.emit("to all")  # its room is none that a pattern matches
        assert [await engine.next(), await engine.next()] == ['42["message",1]', '42["to all"]']
        assert await asyncio.wait_for(app.room("any").history(), 5)


# Many connections at once


@run_async
async def test_many_connections_are_found_moved_called_and_ended() -> None:
    conns = Conns()
    app = conns.app
    async with IOWorker(app) as worker:
        a, ab, none = await conns.clients(worker, "a", "ab", "")
        conns.all[1].user = "ann"
        found = await app.to("a").connections()
        assert [(each.id, each.user, each.rooms) for each in found] == [
            (conns.all[0].id, "", ("a",)), (conns.all[1].id, "ann", ("a", "b"))
        ]  # fmt: skip
        assert {(each.slot, each.namespace, each.transport) for each in found} == {(3, "/", "websocket")}
        assert await app.namespace("/admin").connections() == []
        assert len(await app.local.connections()) == 3
        assert [each.id for each in await conns.all[0].broadcast.to("a").connections()] == [conns.all[1].id]

        await app.to("a").except_("b").enter("c", "d")
        await app.to("b").leave("b", "never entered")
        while (conns.all[0].rooms, conns.all[1].rooms) != ({"a", "c", "d"}, {"a"}):  # noqa: ASYNC110
            await asyncio.sleep(0)

        assert await app.to("nothing is in it").call("question", timeout_s=5) == {}
        calling = asyncio.create_task(app.to("a").call("question", b"\1", timeout_s=5))
        for engine, answer in ((a, ["30[1]"]), (ab, ['61-0[{"_placeholder":true,"num":0},2]', b"\2"])):
            assert [await engine.next(), await engine.next()] == [
                '451-0["question",{"_placeholder":true,"num":0}]', b"\1"
            ]  # fmt: skip
            engine.say(*answer)  # type: ignore[misc]
        assert await calling == {conns.all[0].id: 1, conns.all[1].id: (b"\2", 2)}

        calling = asyncio.create_task(app.to("a").call("question", timeout_s=0.05))
        assert (await a.next(), await ab.next()) == ('421["question"]', '421["question"]')
        a.say("31[]")
        with pytest.raises(AnswersMissing, match=conns.all[1].id) as missing:
            await calling
        assert (missing.value.answers, missing.value.silent) == ({conns.all[0].id: None}, [conns.all[1].id])
        assert missing.value.workers == []

        await app.to("a").emit("last")
        await app.to("a").disconnect()
        assert [await a.next(), await a.next(), await ab.next(), await ab.next()] == ['42["last"]', "41"] * 2
        assert none.rest() == []


@run_async
async def test_a_client_that_goes_is_missing_at_once() -> None:
    conns = Conns()
    async with IOWorker(conns.app) as worker:
        (engine,) = await conns.clients(worker, "a")
        calling = asyncio.create_task(conns.app.to("a").call("question", timeout_s=30))
        assert await engine.next() == '420["question"]'
        engine.close("transport close")
        with pytest.raises(AnswersMissing):
            await calling


@run_async
async def test_a_room_that_refuses_a_connection_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chat = Chat()
    async with IOWorker(chat.app) as worker:
        await worker.io()
        await chat.app.to(chat.conns[0].id).enter("chat:closed")
        while "x room refused" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert chat.conns[0].rooms == set()
