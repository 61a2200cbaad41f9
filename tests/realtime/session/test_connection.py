"""`Connection`: what an application does with one client, in the same way whatever it is."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from realtime import App, Connection
from realtime.errors import Disconnect
from realtime.session.connection import Connection as View
from realtime.testing import TestServer
from tests.support.aio import run_async


@pytest.mark.parametrize("is_awaited", [True, False])
@run_async
async def test_a_connection_is_closed_at_once_and_that_may_be_awaited(is_awaited: bool) -> None:
    app = App()

    @app.rpc("go")
    async def go(conn: Connection, data: Any) -> None:
        ending: Any = conn.disconnect(4001, "enough")
        assert conn.rooms == frozenset(), "it has left already"
        if is_awaited:
            assert await ending is None

    app.room("r", open=True)
    async with TestServer(app) as server:
        client = await server.connect()
        await client.subscribe("r")
        with pytest.raises(Disconnect, match="enough"):
            await client.rpc("go")


@run_async
async def test_each_method_that_reaches_the_client_can_be_awaited() -> None:
    app = App()
    app.room("r", open=True)
    found: list[bool] = []

    @app.rpc("all")
    async def all_of_them(conn: Connection, data: Any) -> None:
        for call in (conn.subscribe("r"), conn.send(1), conn.unsubscribe("r"), conn.disconnect()):
            found.append(inspect.isawaitable(call))
            await call

    async with TestServer(app) as server:
        client = await server.connect()
        with pytest.raises(Disconnect):
            await client.rpc("all")
    assert found == [True] * 4


@run_async
async def test_a_snapshot_keeps_who_it_was_and_what_the_application_kept() -> None:
    app = App()
    kept: list[bytes] = []

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.user, conn.info, conn.state = "ann", {"name": "Ann"}, {"tags": {"a", "b"}, "at": (1, 2)}
        assert conn.headers["x-secret"] == "1"
        kept.append(conn.snapshot())
        conn.state["tags"].add(object())  # in place, so that it is seen only now
        kept.append(conn.snapshot())

    async with TestServer(app) as server:
        client = await server.connect(headers={"x-secret": "1"})
        whole, broken = map(View.restore, kept)
        assert (whole.id, whole.user, whole.info) == (client.connected["client"], "ann", {"name": "Ann"})
        assert whole.state == {"tags": {"a", "b"}, "at": (1, 2)}
        assert (broken.user, broken.state) == ("ann", {}), "the rest is there"
        assert b"secret" not in kept[0], "headers are not kept"
        await whole.send("nobody gets this")
        await whole.disconnect()


@run_async
async def test_a_state_that_is_set_as_a_whole_is_checked_as_well() -> None:
    app = App()

    @app.rpc("set")
    async def put(conn: Connection, data: Any) -> str:
        with pytest.raises(TypeError, match=r"conn\.state\['key'\]: object is not plain data"):
            conn.state = {"key": object()}
        conn.state = {"key": 1}
        with pytest.raises(TypeError, match=r"conn\.state\['other'\]"):
            conn.state["other"] = print
        return str(conn.state)

    async with TestServer(app) as server:
        client = await server.connect()
        assert await client.rpc("set") == "{'key': 1}"
