"""Events of clients and of the server: handlers, acknowledgements both ways, attachments, and order at connect."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from realtime import App, Connection, Disconnect, Reject
from realtime.errors import ConnectionEnded, NoAcknowledgements, ReservedEvent
from tests.realtime.protocol.socketio.in_process import IOWorker
from tests.support.aio import run_async
from tests.support.one_worker import until


def suite_app() -> App:
    """Return the application that the official suite wants."""
    app = App()
    app.namespace("/custom")

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.emit("auth", data or {})

    @app.event("message")
    async def message(conn: Connection, *args: Any) -> None:
        conn.emit("message-back", *args)

    @app.event("message-with-ack")
    async def with_ack(conn: Connection, *args: Any) -> tuple[Any, ...]:
        return args

    return app


@run_async
async def test_connect_is_answered_with_an_id_and_then_comes_what_on_connect_emitted() -> None:
    async with IOWorker(suite_app()) as worker:
        for namespace in ("", "/custom,"):
            for auth in ("", '{"token":"123"}'):
                engine = worker.engine()
                engine.say(f"0{namespace}{auth}")
                answer = await engine.next()
                assert isinstance(answer, str)
                assert list(json.loads(answer.removeprefix(f"40{namespace}"))) == ["sid"]
                assert await engine.next() == f'42{namespace}["auth",{auth or "{}"}]'
                assert len(engine.writes) == 1, "what waited for the answer leaves with it"


@run_async
async def test_a_namespace_that_is_not_declared_is_refused_and_the_others_go_on() -> None:
    async with IOWorker(suite_app()) as worker:
        engine, _ = await worker.io()
        assert await engine.next() == '42["auth",{}]'
        engine.say("0/random")
        assert await engine.next() == '44/random,{"message":"Invalid namespace"}'
        engine.say('2["message",1]')
        assert await engine.next() == '42["message-back",1]'


@run_async
async def test_an_event_comes_back_byte_for_byte() -> None:
    async with IOWorker(suite_app()) as worker:
        engine, _ = await worker.io()
        await engine.next()
        engine.say('2["message",1,"2",{"3":[true]}]')
        assert await engine.next() == '42["message-back",1,"2",{"3":[true]}]'
        engine.say('2["message",{"text":"h\\u00e9 \\ud83d\\ude00"},null,1.5,[]]')
        assert await engine.next() == '42["message-back",{"text":"hé 😀"},null,1.5,[]]'


@run_async
async def test_attachments_come_back_behind_their_event_in_one_write() -> None:
    async with IOWorker(suite_app()) as worker:
        engine, _ = await worker.io()
        await engine.next()
        header = '["message",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]'
        engine.say(f"52-{header}", b"\1\2\3", b"\4")
        assert await engine.next() == f"452-{header}".replace("message", "message-back")
        assert [await engine.next(), await engine.next()] == [b"\1\2\3", b"\4"]
        assert len(engine.writes) == 2


@run_async
async def test_what_a_handler_returns_is_the_acknowledgement() -> None:
    async with IOWorker(suite_app()) as worker:
        engine, _ = await worker.io()
        await engine.next()
        engine.say('2456["message-with-ack",1,"2",{"3":[false]}]')
        assert await engine.next() == '43456[1,"2",{"3":[false]}]'
        engine.say('52-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\1", b"")
        assert await engine.next() == '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        assert [await engine.next(), await engine.next()] == [b"\1", b""]


@run_async
async def test_one_value_is_one_argument_and_none_is_none() -> None:
    app = App()

    @app.event("answer")
    async def answer(conn: Connection, kind: str) -> Any:
        return {"none": None, "list": [1, 2], "tuple": (1, 2), "empty": ()}[kind]

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        for kind, expected in (("none", "[]"), ("list", "[[1,2]]"), ("tuple", "[1,2]"), ("empty", "[]")):
            engine.say(f'20["answer","{kind}"]')
            assert await engine.next() == f"430{expected}"


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Named:
    name: str


@run_async
async def test_arguments_are_validated_by_their_annotations() -> None:
    app = App()

    @app.event("draw")
    async def draw(conn: Connection, at: Point, by: Named | None = None, *more: int) -> Any:
        return [at.x, at.y, by and by.name, list(more)]

    @app.event("raw")
    async def raw(conn: Connection, data: bytes) -> int:
        return len(data)

    @app.event("plain")
    def plain(conn: Connection, number: int) -> int:
        return number + 1

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()

        async def ack(text: str, *attachments: bytes) -> Any:
            engine.say(text, *attachments)
            answer = await engine.next()
            assert isinstance(answer, str)
            return json.loads(answer.removeprefix("437"))[0]

        assert await ack('27["draw",{"x":1}]') == [1, 0, None, []]
        assert await ack('27["draw",{"x":1,"y":2},{"name":"ann"},3,4]') == [1, 2, "ann", [3, 4]]
        assert await ack('27["plain",1,"more than it takes"]') == 2
        assert await ack('51-7["raw",{"_placeholder":true,"num":0}]', b"12345") == 5
        wrong = {
            '27["draw"]': "argument 1 (`at`) is missing",
            '27["draw",{"x":"1"}]': "argument 1 (`at`): Expected `int`, got `str` - at `$.x`",
            '27["draw",{"x":1},null,3,"4"]': "argument 4: Expected `int`, got `str`",
            '27["raw","MTIzNDU="]': "argument 1 (`data`): Expected `bytes`, got `str`",
            '27["plain",true]': "argument 1 (`number`): Expected `int`, got `bool`",
        }
        for text, problem in wrong.items():
            assert await ack(text) == {"error": {"code": 107, "message": f"bad request: {problem}"}}


@run_async
async def test_a_refusal_is_an_acknowledgement_and_else_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.event("no")
    async def no(conn: Connection) -> None:
        raise Reject("not you", 403, data={"need": "admin"})

    @app.event("fails")
    async def fails(conn: Connection) -> None:
        raise KeyError("secret")

    @app.event("cannot")
    async def cannot(conn: Connection) -> Any:
        return object()

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        engine.say('20["no"]')
        assert await engine.next() == '430[{"error":{"message":"not you","code":403,"data":{"need":"admin"}}}]'
        internal = '[{"error":{"message":"internal server error","code":100,"temporary":true}}]'
        engine.say('21["fails"]')
        assert await engine.next() == f"431{internal}"
        engine.say('22["cannot"]')
        assert await engine.next() == f"432{internal}"
        engine.say('23["nothing has it"]')
        assert await engine.next() == '433[{"error":{"message":"event not found","code":104}}]'
        engine.say("24[5]")
        assert await engine.next() == '434[{"error":{"message":"event not found","code":104}}]'
        with caplog.at_level(logging.INFO, "realtime.session"):
            engine.say('2["no"]')
            await until(lambda: "x event refused" in caplog.text)
        assert engine.rest() == []


@run_async
async def test_a_star_takes_events_that_no_other_handler_takes() -> None:
    app = App()

    @app.event("known")
    async def known(conn: Connection) -> str:
        return "known"

    @app.event("*")
    async def rest(conn: Connection, event: str, *args: Any) -> Any:
        return [event, args]

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        engine.say('20["known"]', '21["other",1,2]')
        assert [await engine.next(), await engine.next()] == ['430["known"]', '431[["other",[1,2]]]']


@run_async
async def test_a_disconnect_that_a_handler_raises_ends_the_namespace() -> None:
    app = App()

    @app.event("out")
    async def out(conn: Connection, code: int) -> None:
        raise Disconnect(code, "enough")

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        engine.say('2["out",4500]')
        assert await engine.next() == "41"
        assert engine.reason is None
        await engine.join()
        engine.say('2["out",4000]')  # it is to come back: only the end of the connection has it do so
        assert await engine.next() == ""
        assert engine.reason == "forced close"


@run_async
async def test_the_server_calls_a_client_and_gets_its_acknowledgement() -> None:
    app = App()
    conns: list[Connection] = []

    @app.on_connect
    async def connect(conn: Connection) -> None:
        conns.append(conn)

    @app.event("ask me")
    async def ask_me(conn: Connection) -> Any:
        return await conn.call("question", {"n": 1})

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        (conn,) = conns
        for number, (answer, expected) in enumerate((("[]", None), ("[1]", 1), ('[1,"b"]', (1, "b")))):
            waiting = asyncio.create_task(conn.call("question"))
            assert await engine.next() == f'42{number}["question"]'
            engine.say(f"3{number}{answer}", f"3{number}[9]", '399["of nothing"]', "3", "3[1]")
            assert await waiting == expected
        waiting = asyncio.create_task(conn.call("bytes", b"\1"))
        assert [await engine.next(), await engine.next()] == ['451-3["bytes",{"_placeholder":true,"num":0}]', b"\1"]
        engine.say('61-3[{"_placeholder":true,"num":0}]', b"\2")
        assert await waiting == b"\2"
        engine.say('27["ask me"]')  # a handler waits, and the acknowledgement is read meanwhile
        assert await engine.next() == '424["question",{"n":1}]'
        engine.say('34["fine"]')
        assert await engine.next() == '437["fine"]'
        with pytest.raises(TimeoutError, match=r"did not acknowledge within 0\.01 s"):
            await conn.call("question", timeout_s=0.01)
        waiting = asyncio.create_task(conn.call("question"))
        assert (await engine.next(), await engine.next()) == ('425["question"]', '426["question"]')
        engine.close("transport close")
        with pytest.raises(ConnectionEnded):
            await waiting
        with pytest.raises(ConnectionEnded):
            await conn.call("question")


@run_async
async def test_events_of_a_client_start_in_order_and_run_beside_one_another() -> None:
    app = App()
    begun: list[int] = []
    go_on = asyncio.Event()

    @app.event("work")
    async def work(conn: Connection, number: int) -> int:
        begun.append(number)
        if number == 1:
            await go_on.wait()
        return number

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        engine.say('21["work",1]', '22["work",2]', '23["work",3]')
        assert [await engine.next(), await engine.next()] == ["432[2]", "433[3]"]
        assert begun == [1, 2, 3]
        go_on.set()
        assert await engine.next() == "431[1]"


@run_async
async def test_a_client_whose_handlers_are_slow_is_not_read_from() -> None:
    app = App()
    go_on = asyncio.Event()
    running = most = 0

    @app.event("work")
    async def work(conn: Connection) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        for number in range(200):
            engine.say(f'2{number}["work"]')
        await until(lambda: running == 64)
        assert engine.is_paused
        go_on.set()
        assert [await engine.next() for _ in range(200)][-1].endswith("[]")  # type: ignore[arg-type]
        assert most == 64
        assert not engine.is_paused


@run_async
async def test_one_slow_handler_holds_up_no_other_event() -> None:
    app = App()
    go_on = [asyncio.Event() for _ in range(100)]

    @app.event("work")
    async def work(conn: Connection, number: int) -> int:
        await go_on[number].wait()
        return number

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        for number in range(100):
            engine.say(f'2{number}["work",{number}]')
        for each in go_on[1:]:  # the first one never ends
            each.set()
        assert {await engine.next() for _ in range(99)} == {f"43{number}[{number}]" for number in range(1, 100)}


@run_async
async def test_names_of_socketio_itself_are_not_emitted() -> None:
    app = App()
    conns: list[Connection] = []

    @app.on_connect
    async def connect(conn: Connection) -> None:
        conns.append(conn)

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        for name in ("connect", "disconnect", "newListener"):
            for emit in (conns[0].emit, app.emit, app.to("room").emit, conns[0].call):
                with pytest.raises(ReservedEvent, match=r"is Socket\.IO's own"):
                    await emit(name, 1)
        assert engine.rest() == []
        conns[0].emit("error", 1)
        assert await engine.next() == '42["error",1]'


@run_async
async def test_a_volatile_event_is_dropped_for_a_client_that_cannot_take_it_now() -> None:
    app = App()
    conns: list[Connection] = []

    @app.on_connect
    async def connect(conn: Connection) -> None:
        conns.append(conn)

    async with IOWorker(app) as worker:
        slow, _ = await worker.io()
        quick, _ = await worker.io()
        slow.takes_now = False
        conns[0].emit("cursor", 1, volatile=True)
        conns[1].emit("cursor", 1, volatile=True)
        await app.volatile.emit("cursor", 2)
        await app.emit("all", 3)
        assert [await quick.next() for _ in range(3)] == ['42["cursor",1]', '42["cursor",2]', '42["all",3]']
        assert await slow.next() == '42["all",3]'


@run_async
async def test_a_centrifuge_client_gets_an_event_as_a_message_and_acknowledges_none() -> None:
    app = App()
    conns: list[Connection] = []

    @app.on_connect
    async def connect(conn: Connection) -> None:
        conns.append(conn)

    async with IOWorker(app) as worker:
        client = await worker.join()
        await worker.io()
        assert [(each.protocol, each.namespace) for each in conns] == [("centrifuge", ""), ("socketio", "/")]
        conns[0].emit("hello", 1, {"a": 2})
        push = (await client.hear(2))[1]["push"]
        assert push == {"message": {"data": {"event": "hello", "args": [1, {"a": 2}]}}}
        with pytest.raises(NoAcknowledgements, match="speaks centrifuge"):
            await conns[0].call("hello")


@run_async
async def test_a_message_of_the_server_is_the_event_message() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        await conn.send({"hello": 1})

    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        assert await engine.next() == '42["message",{"hello":1}]'


@run_async
async def test_events_that_come_too_often_are_refused_and_then_end_the_connection() -> None:
    async with IOWorker(suite_app(), commands_per_second=1, rooms_per_connection=2) as worker:
        engine, _ = await worker.io()
        await engine.next()
        for number in range(3):
            engine.say(f'2{number}["message-with-ack"]')
            assert await engine.next() == f"43{number}[]"
        engine.say('27["message-with-ack"]')
        too_soon = '437[{"error":{"message":"too many requests","code":111,"temporary":true}}]'
        assert await engine.next() == too_soon
        engine.say('2["message"]')  # its loss would not be seen
        assert await engine.next() == ""
        assert worker.registry.overruns["commands"] >= 2


@run_async
async def test_a_client_is_in_no_more_rooms_than_it_may_be() -> None:
    app = App()

    @app.event("enter")
    async def enter(conn: Connection, *rooms: str) -> int:
        for room in rooms:
            await conn.enter(room)
        return len(conn.rooms)

    async with IOWorker(app, rooms_per_connection=3) as worker:
        engine, _ = await worker.io()
        engine.say('20["enter","a","b","a"]', '21["enter","c"]')
        # One of the three is the room of all connections of its namespace.
        limit = '431[{"error":{"message":"limit exceeded","code":106}}]'
        assert [await engine.next(), await engine.next()] == ["430[2]", limit]
