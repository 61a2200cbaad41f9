"""What fails while an application runs, and what the error says of it: room, handler, field, and the option to add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from realtime import App, Connection
from realtime.errors import AnswerError, ClientError, NotKept, RoomError, UnknownRoom
from realtime.session.answers import encode
from realtime.testing import TestServer
from tests.support.aio import run_async


@dataclass
class Holder:
    name: str
    thing: Any


class Record(msgspec.Struct):
    things: list[Any]


class Odd:
    """Something that JSON cannot say."""


@pytest.mark.parametrize(
    ("value", "field", "kind"),
    [
        (Odd(), "$", "Odd"),
        ({"a": [1, {"b": Odd()}]}, "$.a[1].b", "Odd"),
        (Record([Holder("x", Odd())]), "$.things[0].thing", "Odd"),
        ((1, Odd()), "$[1]", "Odd"),
        ({"name": {1: {"a": Odd()}}}, "$.name.1.a", "Odd"),
        ({"seen": {(1, 2): 3}}, "$.seen.(1, 2)", "tuple"),
        ({"of": frozenset((frozenset((Odd(),)),))}, "$.of[0][0]", "Odd"),
        ({"text": "\ud800"}, "$.text", "str"),
    ],
)
def test_the_field_that_json_cannot_say_is_named(value: Any, field: str, kind: str) -> None:
    with pytest.raises(AnswerError) as found:
        encode(value, lambda: "it")
    assert str(found.value) == f"it: JSON cannot say a `{kind}` at `{field}`"


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(AnswerError, match=r"at `\$\[0\]"):
        encode(value, lambda: "it")


@run_async
async def test_an_answer_that_json_cannot_say_names_handler_line_room_and_field(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()

    @app.rpc("when")
    async def when(conn: Connection) -> Any:
        return {"at": Odd()}

    @app.room("chat:{name}")
    class Chat:
        async def on_publish(self, conn: Connection, data: Any) -> Any:
            return {"text": data, "by": [Odd()]}

    async with TestServer(app) as server:
        client = await server.connect()
        await client.subscribe("chat:lobby")
        for asking in (client.publish("chat:lobby", "hi"), client.rpc("when")):
            with pytest.raises(ClientError) as told:
                await asking
            assert (told.value.code, told.value.message) == (100, "internal server error")
    line = Chat.on_publish.__code__.co_firstlineno
    assert f"{__file__}, line {line}: the answer of handler `" in caplog.text
    assert "Chat.on_publish()` of room 'chat:lobby': JSON cannot say a `Odd` at `$.by[0]`" in caplog.text
    assert "when()`: JSON cannot say a `Odd` at `$.at`" in caplog.text


@run_async
async def test_the_answers_of_on_connect_and_on_subscribe_are_named_too(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> Any:
        return {"rooms": [Odd()]} if data == "odd" else None

    @app.room("chat:{name}")
    class Chat:
        async def on_subscribe(self, conn: Connection) -> Any:
            return Odd()

    async with TestServer(app) as server:
        with pytest.raises(ClientError, match="internal server error"):
            await server.connect(data="odd")
        client = await server.connect()
        with pytest.raises(ClientError, match="internal server error"):
            await client.subscribe("chat:lobby")
    named: dict[Callable[..., Any], str] = {connect: "()`: JSON cannot say a `Odd` at `$.rooms[0]`"}
    named[Chat.on_subscribe] = "()` of room 'chat:lobby': JSON cannot say a `Odd` at `$`"
    for function, rest in named.items():
        place = f"{__file__}, line {function.__code__.co_firstlineno}"
        assert f"{place}: the answer of handler `{function.__qualname__}{rest}" in caplog.text


@run_async
async def test_what_a_connection_is_sent_and_shown_with_is_refused_in_the_line_that_gives_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App()
    found: list[AnswerError] = []

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.info = {"name": "ann"}
        with pytest.raises(AnswerError) as refused:
            conn.info = {"avatar": Odd()}
        assert conn.info == {"name": "ann"}
        found.append(refused.value)

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        await conn.send({"now": Odd()})

    async with TestServer(app) as server:
        client = await server.connect()
        await client.send("x")
        await client.send("x")  # its answer comes after both
        with pytest.raises(ClientError, match="not available"):
            await client.rpc("x")
    assert str(found[0]) == "conn.info: JSON cannot say a `Odd` at `$.avatar`"
    assert "message to connection " in caplog.text
    assert "JSON cannot say a `Odd` at `$.now`" in caplog.text
    assert f'File "{__file__}", line {message.__code__.co_firstlineno + 2}, in message' in caplog.text


def make_app() -> App:
    app = App()
    app.room("chat:{name}", open=True)
    app.room("kept:{name}", open=True, presence=True, history=3)
    return app


@run_async
async def test_publishing_what_json_cannot_say_names_room_and_field() -> None:
    app = make_app()
    async with TestServer(app):
        with pytest.raises(AnswerError, match=r"publication into 'chat:a': JSON cannot say a `Odd` at `\$\.x`"):
            await app.room("chat:a").publish({"x": Odd()})


@run_async
async def test_a_room_that_is_not_declared_is_named_with_the_patterns_that_there_are() -> None:
    app = make_app()
    async with TestServer(app):
        for calling in (app.room("chatt:a").publish("x"), app.room("chatt:a").history()):
            with pytest.raises(UnknownRoom) as found:
                await calling
            assert isinstance(found.value, KeyError)
            assert str(found.value) == "room 'chatt:a' is not declared; declared: chat:{name}, kept:{name}"


@pytest.mark.parametrize("name", ["chat:{name}", "chat:*"])
@run_async
async def test_a_pattern_is_not_published_to(name: str) -> None:
    app = make_app()
    async with TestServer(app):
        with pytest.raises(RoomError, match="is a pattern, and no room: name one room, such as chat:lobby"):
            await app.room(name).publish("x")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("presence", "keeps no presence: declare it with presence=True"),
        ("presence_page", "keeps no presence: declare it with presence=True"),
        ("presence_stats", "keeps no presence: declare it with presence=True"),
        ("history", "keeps no history: declare it with history=N"),
    ],
)
@run_async
async def test_what_a_room_does_not_keep_is_refused_with_the_option_that_is_missing(method: str, words: str) -> None:
    app = make_app()
    async with TestServer(app) as server:
        with pytest.raises(NotKept) as found:
            await getattr(app.room("chat:a"), method)()
        assert str(found.value) == f"room 'chat:a' {words}"
        await getattr(app.room("kept:a"), method)()
        client = await server.connect()
        await client.subscribe("chat:a")
        with pytest.raises(ClientError) as told:
            await client.presence("chat:a")
        assert (told.value.code, told.value.message) == (108, "not available"), "a client learns no more than before"


@run_async
async def test_what_a_room_keeps_is_decoded_and_raw_beside_it() -> None:
    app = make_app()
    async with TestServer(app) as server:
        client = await server.connect(claims={"sub": "ann"})
        await client.subscribe("kept:a")
        await client.publish("kept:a", {"text": "hi"})
        room = app.room("kept:a")
        [publication] = (await room.history()).publications
        assert (publication.data, publication.raw) == ({"text": "hi"}, b'{"text":"hi"}')
        assert publication.info is not None
        assert publication.info.user == "ann"
        assert not (await room.history(since=publication.position)).publications
        assert await room.presence() == (await room.presence_page()).members, "presence has one shape"
