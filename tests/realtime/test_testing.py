"""`realtime.testing`: the tour's application, and what a test of an application wants to see, in this process."""

from __future__ import annotations

import asyncio

import pytest

from realtime import App, Connection, Disconnect, Reject
from realtime.application.loader import load_target
from realtime.errors import ClientError
from realtime.testing import TestServer
from tests.support.aio import run_async
from tests.support.server import ROOT


@run_async
async def test_the_application_of_the_tour() -> None:
    app = load_target("examples/tour/app.py", ROOT)
    async with TestServer(app) as server:
        alice = await server.connect(claims={"sub": "alice"})
        guest = await server.connect()
        for client in (alice, guest):
            await client.subscribe("chat:lobby")
        await alice.publish("chat:lobby", {"text": "hello"})
        for client in (alice, guest):
            found = await client.next("pub", "chat:lobby")
            assert found["data"] == {"from": "alice", "text": "hello", "worker": 0}
        with pytest.raises(ClientError, match="say something"):
            await guest.publish("chat:lobby", {})
        assert {each["user"] for each in (await alice.presence("chat:lobby")).values()} >= {"alice"}
        assert [each["data"]["text"] for each in await guest.history("chat:lobby")] == ["hello"]
        await guest.close()
        assert (await alice.next("leave"))["info"]["user"].startswith("guest-")
        assert guest.closed is not None
        assert guest.closed.code == 1000, "as a browser's client that goes away (RFC 6455, section 7.4.1)"


@run_async
async def test_refusals_calls_messages_and_ends() -> None:
    app = App()
    seen = []

    @app.on_connect
    async def connect(conn: Connection, data: object) -> dict[str, str]:
        if data == "no":
            raise Reject("not you")
        if data == "away":
            raise Disconnect(4500, "away with you")
        return {"client": conn.address, "agent": conn.headers.get("user-agent", "")}

    @app.on_message
    async def message(conn: Connection, data: object) -> None:
        await conn.send({"echo": data})

    @app.on_disconnect
    async def disconnect(conn: Connection, code: int, reason: str) -> None:
        seen.append((code, reason))

    @app.rpc("double")
    def double(conn: Connection, data: int) -> int:
        return data * 2

    @app.rpc("end")
    async def end(conn: Connection) -> None:
        conn.disconnect(4501, "asked for")

    async with TestServer(app) as server:
        with pytest.raises(ClientError, match="not you"):
            await server.connect(data="no")
        with pytest.raises(Disconnect, match="away with you"):
            await server.connect(data="away")
        client = await server.connect(client="192.0.2.7", headers={"user-agent": "test"})
        assert client.connected["data"] == {"client": "192.0.2.7", "agent": "test"}
        assert await client.rpc("double", 21) == 42
        await client.send("hello")
        assert (await client.next("message"))["data"] == {"echo": "hello"}
        with pytest.raises(Disconnect, match="asked for"):
            await client.rpc("end")
        assert client.closed is not None
        assert client.closed.code == 4501
    assert seen == [(4501, "asked for")]


@run_async
async def test_without_a_token_only_where_that_is_allowed() -> None:
    async with TestServer(App(), anonymous=False) as server:
        with pytest.raises((ClientError, Disconnect)):
            await server.connect()
        assert (await server.connect(claims={"sub": "alice"})).closed is None


@run_async
async def test_an_open_room_may_have_handlers_too() -> None:
    app = App()
    left = []

    @app.room("open:{name}", open=True, presence=True)
    class Open:
        async def on_leave(self, member: object, name: str) -> None:
            left.append(name)

    async with TestServer(app) as server:
        client = await server.connect()
        await client.subscribe("open:a")
        await client.publish("open:a", 1)
        assert (await client.next("pub"))["data"] == 1
    assert left == ["a"]


@run_async
async def test_a_wait_in_vain_says_what_was_waited_for_and_what_came_instead() -> None:
    app, never = App(), asyncio.Event()
    app.room("chat:{name}", open=True, presence=True)

    @app.rpc("never")
    async def never_answer(conn: Connection) -> None:
        await never.wait()

    async with TestServer(app, timeout_s=0.05) as server:
        ann, ben = await server.connect(), await server.connect()
        with pytest.raises(TimeoutError) as waited:
            await ann.next("pub")
        assert str(waited.value) == "no 'pub' came within 0.05 s; nothing else came; the client is in no room"
        await ann.subscribe("chat:lobby")
        await ann.next("join")
        await ben.subscribe("chat:lobby")
        await ben.publish("chat:lobby", {"text": "x" * 200})
        with pytest.raises(TimeoutError) as waited:
            await ann.next("pub", "chat:staff")
        text = str(waited.value)
        assert text.startswith("no 'pub' of room 'chat:staff' came within 0.05 s; instead came: join of 'chat:lobby' {")
        assert """, pub of 'chat:lobby' {"data": {"text": "xxxx""" in text
        assert text.endswith("x…; the client is in 'chat:lobby'")
        for number in range(8):
            await ben.publish("chat:lobby", number)
        with pytest.raises(TimeoutError, match=r"pub of 'chat:lobby' .*, and 3 more; the client is in"):
            await ann.next("message")
        problem = "no answer to rpc 'never' within 0.05 s: its handler has not ended, or waits for something"
        with pytest.raises(TimeoutError, match=problem):
            await ann.rpc("never")
        never.set()  # its answer comes now, and there is no one to have it
        await ann.unsubscribe("chat:lobby")
        with pytest.raises(TimeoutError, match="the client is in no room"):
            await ann.next("message")


@run_async
async def test_what_comes_all_the_time_does_not_make_a_wait_longer() -> None:
    app = App()
    app.room("ticks", open=True)
    app.every(0.01)(lambda: app.room("ticks").publish(1))
    async with TestServer(app, timeout_s=0.2) as server:
        client = await server.connect()
        await client.subscribe("ticks")
        with pytest.raises(TimeoutError, match=r"no 'join' came within 0.2 s; instead came: pub of 'ticks'"):
            await client.next("join")
        await client.next("pub", timeout_s=5)


@run_async
async def test_a_kind_that_never_comes_is_refused_at_once() -> None:
    app = App()
    async with TestServer(app) as server:
        client = await server.connect()
        with pytest.raises(ValueError, match="nothing of kind 'publish' ever comes; did you mean `pub`"):
            await client.next("publish")
