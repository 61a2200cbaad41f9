"""What a handler is given of what a client sent: the type that it asks for; else the client is told the wrong field."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from realtime import App, Connection, Reject
from realtime.application.handlers import CLIENT_TEXT_MAX, Handler
from realtime.errors import ClientError
from realtime.testing import TestServer
from tests.support.aio import run_async


class Said(msgspec.Struct):
    text: str
    urgent: bool = False


class Moved(pydantic.BaseModel):
    x: int = pydantic.Field(ge=0)
    tags: list[str] = []


@dataclass
class Drawn:
    line: list[int]


class Named(TypedDict):
    name: str


def handler(wanted: Any) -> Handler:
    def take(conn: Connection, data: Any) -> Any:
        return data

    take.__annotations__["data"] = wanted
    return Handler(take, offers=("conn", "data"))


@pytest.mark.parametrize(
    ("wanted", "sent", "given"),
    [
        (Any, b"[1]", [1]),
        (Any, None, None),
        (dict, b'{"a": 1}', {"a": 1}),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (Said, b'{"text": "hi", "more": 1}', Said("hi")),
        (Said | None, None, None),
        (Moved, b'{"x": 1}', Moved(x=1)),
        (Drawn, b'{"line": [1, 2]}', Drawn([1, 2])),
        (Named, b'{"name": "a"}', {"name": "a"}),
    ],
)
def test_data_becomes_what_the_handler_asks_for(wanted: Any, sent: bytes | None, given: Any) -> None:
    assert handler(wanted).decode(sent) == given


@pytest.mark.parametrize(
    ("wanted", "sent", "told"),
    [
        (Any, b"{", "bad request"),
        (dict, b"[]", "Expected `object`, got `array`"),
        (dict, None, "Expected `object`, got `null`"),
        (Said, b"{}", "missing required field `text`"),
        (Said, b'{"text": 1}', "Expected `str`, got `int` - at `$.text`"),
        (Said, b'{"text": "hi", "urgent": "very"}', "at `$.urgent`"),
        (Moved, b'{"x": -1}', "x: Input should be greater than or equal to 0"),
        (Moved, b'{"x": 1, "tags": ["a", 2]}', "tags.1: Input should be a valid string"),
        (Moved, b"{", "Invalid JSON"),
        (Drawn, b'{"line": [1, "2"]}', "at `$.line[1]`"),
        (Named, b"{}", "missing required field `name`"),
        (dict, b"[" * 100_000, "bad request"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field(wanted: Any, sent: bytes | None, told: str) -> None:
    with pytest.raises(Reject) as refused:
        handler(wanted).decode(sent)
    assert refused.value.code == 107
    assert told in refused.value.message
    assert len(refused.value.message) <= CLIENT_TEXT_MAX


def test_a_type_that_no_json_becomes_is_refused_when_it_is_declared() -> None:
    with pytest.raises(TypeError, match=r"take\(\)`: what a client sends cannot become .*Connection.* msgspec\.Struct"):
        handler(Connection)


def app_with_types() -> App:
    app = App()

    @app.rpc("move")
    async def move(conn: Connection, data: Moved) -> Moved:
        return data

    @app.room("chat:{name}", history=10)
    class Chat:
        async def on_publish(self, conn: Connection, name: str, data: Said) -> Said:
            return data

    return app


@run_async
async def test_a_client_is_told_which_field_is_wrong() -> None:
    async with TestServer(app_with_types()) as server:
        client = await server.connect()
        assert await client.rpc("move", {"x": 3}) == {"x": 3, "tags": []}
        with pytest.raises(ClientError, match=r"x: Input should be .* or equal to 0") as refused:
            await client.rpc("move", {"x": -3})
        assert refused.value.code == 107
        await client.subscribe("chat:lobby")
        await client.publish("chat:lobby", {"text": "hi"})
        assert (await client.next("pub", "chat:lobby"))["data"] == {"text": "hi", "urgent": False}
        with pytest.raises(ClientError, match=r"got `int` - at `\$\.text`"):
            await client.publish("chat:lobby", {"text": 5})


def test_a_handler_that_shows_anothers_signature_is_given_what_it_names() -> None:
    async def take(conn: Any, data: Any) -> Any:
        return conn, data

    @functools.wraps(take)
    async def by_name(**named: Any) -> Any:
        return await take(**named)

    async def call() -> Any:
        return await Handler(by_name, offers=("conn", "data"))("c", 1)

    assert asyncio.run(call()) == ("c", 1)


@run_async
async def test_a_handler_that_waits_for_something_cancelled_fails_alone() -> None:
    app = App()

    @app.rpc("stuck")
    async def stuck(conn: Connection) -> None:
        waited_for = asyncio.get_running_loop().create_future()
        waited_for.cancel()
        await waited_for

    @app.rpc("fine")
    async def fine(conn: Connection) -> int:
        return 1

    async with TestServer(app) as server:
        client = await server.connect()
        with pytest.raises(ClientError, match="internal"):
            await client.rpc("stuck")
        assert await client.rpc("fine") == 1
