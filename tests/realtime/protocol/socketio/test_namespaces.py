"""CONNECT, DISCONNECT, what no client sends, and how a client's namespaces end: by what, and with which reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime import App, Connection, DeclarationError, Disconnect, Reject
from realtime.protocol.socketio.namespaces import ATTACHMENTS_S, NAMESPACES_MAX, REFUSED_MAX
from tests.realtime.protocol.socketio.in_process import EngineInProcess, IOWorker
from tests.support.aio import run_async
from tests.support.one_worker import SECRET, until


class Seen:
    """An application that notes what its clients do."""

    def __init__(self) -> None:
        self.app = app = App()
        self.conns: list[Connection] = []
        self.data: list[Any] = []
        self.ended: list[tuple[str, int, str]] = []

        @app.on_connect
        async def connect(conn: Connection, data: Any) -> None:
            self.conns.append(conn)
            self.data.append(data)

        @app.on_disconnect
        async def disconnect(conn: Connection, code: int, reason: str) -> None:
            self.ended.append((conn.namespace, code, reason))

        @app.event("echo")
        async def echo(conn: Connection, *args: Any) -> tuple[Any, ...]:
            return args

        @app.event("echo", namespace="/admin")
        async def admin_echo(conn: Connection, *args: Any) -> tuple[Any, ...]:
            return args


BAD = (
    "abc", "", "7", "9[1]", "2{}", "2abc[1]", "2[]", "2[null]", "2-1[1]", '2["a"', '2["a"]x', '2["a",NaN]',
    '2["connect"]', '2["disconnect",1]', '2["newListener"]', "31{}", "1{}", '4{"message":"x"}',
    '50-["a"]', '5-["a"]', '5["a"]', '511-["a"]', '51-["a",{"_placeholder":true,"num":1}]', b"\1",
    "0", "0/,", "0[]", '0"x"', "0null", "0{", '2/other,["a"]', "3/other,1[]", "1/other,",
)  # fmt: skip


@pytest.mark.parametrize("message", BAD, ids=repr)
@run_async
async def test_what_no_client_sends_closes_the_whole_connection(message: str | bytes) -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, _ = await worker.io()
        await engine.join("/admin")
        engine.say(message)
        assert await engine.next() == ""
        assert engine.reason == "forced close"
        await until(lambda: len(seen.ended) == 2)
        assert sorted(seen.ended) == [("/", 3011, "forced close"), ("/admin", 3011, "forced close")]
        assert len(worker.registry) == 0


@run_async
async def test_a_text_instead_of_an_attachment_closes_the_connection() -> None:
    async with IOWorker(Seen().app) as worker:
        engine, _ = await worker.io()
        engine.say('51-["echo",{"_placeholder":true,"num":0}]', '2["echo"]')
        assert await engine.next() == ""


@run_async
async def test_attachments_that_do_not_come_in_time_close_the_connection() -> None:
    async with IOWorker(Seen().app) as worker:
        engine, _ = await worker.io()
        engine.say('51-0["echo",{"_placeholder":true,"num":0}]')
        worker.pass_time(ATTACHMENTS_S - 5)
        engine.say(b"\1")
        assert [await engine.next(), await engine.next()] == ['461-0[{"_placeholder":true,"num":0}]', b"\1"]
        engine.say('51-0["echo",{"_placeholder":true,"num":0}]')
        worker.pass_time(ATTACHMENTS_S - 5)
        assert engine.reason is None
        worker.pass_time(10)
        assert engine.reason == "forced close"


@pytest.mark.parametrize("message", ["abc", '2["echo"]', "31[]", "1"])
@run_async
async def test_before_connect_there_is_nothing_but_connect(message: str) -> None:
    async with IOWorker(Seen().app) as worker:
        engine = worker.engine()
        engine.say(message)
        assert await engine.next() == ""


@run_async
async def test_while_connect_is_being_answered_a_client_waits() -> None:
    app = App()
    go_on = asyncio.Event()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        await go_on.wait()

    async with IOWorker(app) as worker:
        for message in ('2["a"]', "0", "1"):
            engine = worker.engine()
            engine.say("0", message)
            assert await engine.next() == ""


@run_async
async def test_three_spellings_of_connect_and_an_id_in_it() -> None:
    async with IOWorker(Seen().app) as worker:
        for spelling in ("0", "0{}", "0/,", "05{}"):
            engine = worker.engine()
            engine.say(spelling)
            assert str(await engine.next()).startswith('40{"sid":"')
        engine.say("0/admin")  # the comma may be missing where nothing follows
        assert str(await engine.next()).startswith('40/admin,{"sid":"')


@run_async
async def test_a_client_that_joins_nothing_in_time_is_closed() -> None:
    app = App()
    async with IOWorker(app, connect_s=10) as worker:
        idle, joined, left = worker.engine(), worker.engine(), worker.engine()
        await joined.join()
        await left.join()
        left.say("1")
        refused = worker.engine()
        refused.say("0/nothing")
        worker.pass_time(9)
        assert idle.reason is None
        worker.pass_time(2)
        assert (idle.reason, joined.reason, refused.reason) == ("forced close", None, "forced close")
        assert left.reason is None, "it had joined something"


@run_async
async def test_a_refused_client_gets_message_and_data_and_its_other_namespaces_stay() -> None:
    app = App()
    ended: list[str] = []

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.emit("never seen")
        await conn.enter("room")
        if data == {"how": "reject"}:
            raise Reject("not authorized", data={"n": 1})
        if data == {"how": "plain"}:
            raise Reject
        if data == {"how": "end"}:
            raise Disconnect(4500, "no more")
        if data == {"how": "fault"}:
            raise KeyError("secret")

    @app.on_disconnect
    async def disconnect(conn: Connection) -> None:
        ended.append(conn.id)

    app.namespace("/x")
    async with IOWorker(app) as worker:
        engine, _ = await worker.io()
        assert await engine.next() == '42["never seen"]'
        for how, expected in (
            ("reject", '{"message":"not authorized","data":{"n":1}}'),
            ("plain", '{"message":"permission denied","data":{"code":103}}'),
            ("end", '{"message":"no more","data":{"code":4500}}'),
            ("fault", '{"message":"internal server error","data":{"code":100,"temporary":true}}'),
        ):
            engine.say(f'0/x,{{"how":"{how}"}}')
            assert await engine.next() == f"44/x,{expected}"
        await app.namespace("/x").emit("to all")
        await app.to("room").emit("to the room of the main namespace")
        assert await engine.next() == '42["to the room of the main namespace"]'
        assert ended == []
        await engine.join("/x")


@run_async
async def test_a_client_that_is_to_come_back_has_its_connection_closed() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        raise Disconnect(4000, "later")

    async with IOWorker(app) as worker:
        engine = worker.engine()
        engine.say("0")
        assert await engine.next() == ""
        assert engine.writes == []


@run_async
async def test_a_token_in_auth_makes_the_user_where_tokens_are_configured() -> None:
    seen = Seen()
    async with IOWorker(seen.app, secret=SECRET) as worker:
        token = worker.token(sub="ann", expire_at=0)
        engine, _ = await worker.io(auth={"token": token, "room": "x"})
        assert (seen.conns[0].user, seen.data[0]) == ("ann", {"room": "x"})
        engine.say('0/admin,{"token":"wrong"}')
        assert await engine.next() == '44/admin,{"message":"invalid token","data":{"code":3500}}'
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        await worker.io(auth={"token": "123"})
        assert (seen.conns[0].user, seen.data[0]) == ("", {"token": "123"})


@run_async
async def test_a_client_knows_its_namespace_by_ids_of_their_own() -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, first = await worker.io(query={"a": "b"}, transport="polling")
        second = await engine.join("/admin")
        assert first != second
        assert [(each.id, each.namespace, each.transport) for each in seen.conns] == [
            (first, "/", "polling"), (second, "/admin", "polling")
        ]  # fmt: skip
        assert seen.conns[0].query == {"a": "b"}
        engine.say('2/admin,0["echo",1]')
        assert await engine.next() == "43/admin,0[1]"


@run_async
async def test_a_client_leaves_a_namespace_and_comes_again() -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, first = await worker.io()
        await engine.join("/admin")
        engine.say('20["echo",1]', "1")
        assert await engine.next() == "430[1]", "what came before is done"
        await until(lambda: seen.ended)
        assert seen.ended == [("/", 1000, "client namespace disconnect")]
        assert engine.reason is None
        assert await engine.join() != first
        engine.say('2/admin,0["echo",1]')
        assert await engine.next() == "43/admin,0[1]"


@run_async
async def test_a_client_that_was_put_out_may_not_know_it_yet() -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, _ = await worker.io()
        await engine.join("/admin")
        await seen.conns[1].disconnect()
        assert await engine.next() == "41/admin,"
        await until(lambda: seen.ended)
        assert seen.ended == [("/admin", 3503, "server namespace disconnect")]
        engine.say('2/admin,0["echo",1]', "3/admin,5[]", "1/admin,", '20["echo",2]')
        assert await engine.next() == "430[2]"
        await engine.join("/admin")


@run_async
async def test_a_disconnect_with_a_code_to_come_back_closes_the_connection() -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, _ = await worker.io()
        await engine.join("/admin")
        await seen.conns[1].disconnect(3011, "again")
        assert await engine.next() == ""
        await until(lambda: len(seen.ended) == 2)
        assert sorted(seen.ended) == [("/", 3011, "forced close"), ("/admin", 3011, "forced close")]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("transport close", 1001), ("transport error", 1006), ("ping timeout", 3012), ("parse error", 3501),
        ("server shutting down", 3001),
    ],
)  # fmt: skip
@run_async
async def test_the_end_of_the_connection_is_that_of_all_its_namespaces(reason: str, code: int) -> None:
    seen = Seen()
    async with IOWorker(seen.app) as worker:
        engine, _ = await worker.io()
        await engine.join("/admin")
        engine.close(reason)
        await until(lambda: len(seen.ended) == 2)
        assert sorted(seen.ended) == [("/", code, reason), ("/admin", code, reason)]
        assert len(worker.registry) == 0


@run_async
async def test_namespaces_by_pattern_have_their_variables() -> None:
    app = App()

    @app.event("where", namespace="/room-{number}")
    async def where(conn: Connection, number: int, text: str) -> Any:
        return [number, text, conn.namespace]

    @app.event("where", namespace="/room-{number}x")
    async def where_x(conn: Connection) -> str:
        return "x"

    async with IOWorker(app) as worker:
        engine = worker.engine()
        await engine.join("/room-5")
        engine.say('2/room-5,0["where","here"]')
        assert await engine.next() == '43/room-5,0[[5,"here","/room-5"]]'
        await engine.join("/room-5x")
        engine.say('2/room-5x,0["where"]')
        assert await engine.next() == '43/room-5x,0["x"]'
        for wrong in ("/room-five", "/room-", "/room-5:6", "/room-05", "/other"):
            engine.say(f"0{wrong}")
            assert await engine.next() == f'44{wrong},{{"message":"Invalid namespace"}}'


@run_async
async def test_a_storm_of_namespaces_is_bounded_and_counted() -> None:
    app = App()
    app.namespace("/n{number}")
    async with IOWorker(app) as worker:
        engine = worker.engine()
        for number in range(NAMESPACES_MAX):
            await engine.join(f"/n{number}")
        engine.say("0/n-more")
        assert await engine.next() == '44/n-more,{"message":"too many namespaces"}'
        for _ in range(REFUSED_MAX - 1):
            engine.say("0/unknown")
            assert str(await engine.next()).startswith("44/unknown,")
        engine.say("0/unknown")
        assert await engine.next() == ""
        assert worker.registry.overruns["namespaces"] == 1


@run_async
async def test_what_waits_for_the_answer_to_connect_is_bounded() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> None:
        for _ in range(100):
            conn.emit("much", "x" * 20_000)

    async with IOWorker(app) as worker:
        engine = worker.engine()
        engine.say("0")
        assert await engine.next() == ""
        assert engine.writes == []


def test_names_that_no_namespace_can_have_are_refused() -> None:
    app = App()
    for name, problem in (
        ("chat", 'it begins with "/"'),
        ("/a,b", "has no comma"),
        ("/{", "this is no pattern"),
        ("", 'it begins with "/"'),
    ):
        with pytest.raises(DeclarationError, match=problem):
            app.namespace(name)
    app.namespace("/{a}-x")
    with pytest.raises(DeclarationError, match="matches the same names"):
        app.namespace("/{b}-x")
    app.namespace("/{a}-x")  # the same again is harmless


def test_handlers_of_events_that_cannot_be_are_refused() -> None:
    app = App()

    async def fine(conn: Connection) -> None: ...

    async def keyword(conn: Connection, *, other: int) -> None: ...

    async def unsayable(conn: Connection, data: EngineInProcess) -> None: ...

    async def nothing() -> None: ...

    app.event("fine")(fine)
    for name, function, problem in (
        ("connect", fine, "write @app.on_connect"),
        ("disconnecting", fine, "is Socket.IO's own"),
        ("fine", fine, "is registered twice"),
        ("a", keyword, "unsupported parameter `other`"),
        ("a", unsayable, "cannot become a"),
        ("a", nothing, "takes no connection"),
        ("a", 5, "a handler is a function"),
    ):
        with pytest.raises(DeclarationError, match=problem):
            app.event(name)(function)  # type: ignore[type-var]
    with pytest.raises(DeclarationError, match=r'write @app\.event\("message"\)'):
        app.event(fine)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match=r'write @app\.event\("message"\)'):
        app.event()  # type: ignore[call-arg]


@run_async
async def test_an_emit_into_a_namespace_that_is_not_declared_is_refused() -> None:
    app = App()
    async with IOWorker(app):
        with pytest.raises(Exception, match="namespace '/x' is not declared; declared: /"):
            await app.namespace("/x").emit("a")


def test_an_emit_without_a_worker_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no worker runs this application"):
        asyncio.run(App().emit("a"))
