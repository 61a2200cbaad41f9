"""
How a connection begins, lives and ends: connect, refresh, pings, deadlines, and every disconnect code.

Through a real WebSocket to one worker in this process. Time passes when a test says so, so nothing here waits for a ping
or a deadline (Centrifuge client protocol, sections 4, 5, 8.2 and 10).
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from realtime import App, Connection, Disconnect, Reject
from realtime.auth import sign
from realtime.protocol.centrifuge import codes
from realtime.protocol.centrifuge.codes import DisconnectCode, ErrorCode, UnsubscribeCode
from realtime.transport.websocket import Limits as WebSocketLimits
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.one_worker import SECRET, VERSION, Client, OneWorker

CONNECT = {"id": 1, "connect": {}}


def open_app(**options: Any) -> App:
    """Return an application in which the room "open" is open."""
    app = App()
    app.room("open", open=True, **options)
    return app


async def ends(client: Client, *commands: dict[str, Any]) -> tuple[int, str]:
    """Send commands in one message, and return how the connection ends."""
    await client.send_raw("\n".join(map(json.dumps, commands)))
    return await client.wait_closed()


# The tables

ERRORS = {
    100: ("internal server error", True), 102: ("unknown channel", False), 103: ("permission denied", False),
    104: ("method not found", False), 105: ("already subscribed", False), 106: ("limit exceeded", False),
    107: ("bad request", False), 108: ("not available", False), 109: ("token expired", False), 110: ("expired", False),
    111: ("too many requests", True), 112: ("unrecoverable position", False),
}  # fmt: skip
DISCONNECTS = {
    3000: "connection closed", 3001: "shutdown", 3004: "internal server error", 3005: "connection expired",
    3006: "subscription expired", 3008: "slow", 3009: "write error", 3010: "insufficient state",
    3011: "force reconnect", 3012: "no pong", 3500: "invalid token", 3501: "bad request", 3502: "stale",
    3503: "force disconnect", 3505: "channel limit", 3507: "permission denied", 3508: "not available",
}  # fmt: skip
UNSUBSCRIBES = {2000: "server unsubscribe", 2500: "insufficient state", 2501: "subscription expired"}


def test_every_code_has_the_protocols_own_text() -> None:
    for name, told in vars(codes).items():
        if isinstance(told, ErrorCode) and name != "UNAVAILABLE":
            assert (told.message, told.temporary) == ERRORS[told.code], name
        elif isinstance(told, DisconnectCode):
            assert told.reason == DISCONNECTS[told.code], name
            assert len(told.reason.encode()) <= 32, "as much as is customary"
            with pytest.raises(json.JSONDecodeError):
                json.loads(told.reason)
        elif isinstance(told, UnsubscribeCode):
            assert told.reason == UNSUBSCRIBES[told.code], name


@pytest.mark.parametrize(
    ("code", "reconnects"),
    [(1006, True), (3000, True), (3499, True), (3500, False), (3999, False), (4000, True), (4499, True), (4500, False),
     (4999, False), (5000, True)],
)  # fmt: skip
def test_which_codes_let_a_client_come_back(code: int, reconnects: bool) -> None:
    assert DisconnectCode(code, "").reconnects is reconnects


# Connect


@run_async
async def test_a_client_is_told_who_it_is_and_how_it_is_pinged() -> None:
    async with OneWorker(App(), ping_s=20) as worker:
        before_ms = int(time.time() * 1000)
        one, other = await worker.join(name="js", version="5"), await worker.join()
        assert one.connected.keys() == {"client", "version", "ping", "pong", "time"}
        assert one.connected["version"] == VERSION
        assert (one.connected["ping"], one.connected["pong"]) == (20, True)
        assert before_ms <= one.connected["time"] <= time.time() * 1000
        assert one.connected["client"] != other.connected["client"]


@run_async
async def test_without_pings_none_are_promised() -> None:
    async with OneWorker(App(), ping_s=0) as worker:
        client = await worker.join()
        assert not client.connected.keys() & {"ping", "pong"}
        worker.pass_time(3600)
        await client.ask("unsubscribe", channel="x")
        assert client.pings == 0


@run_async
async def test_on_connect_sees_the_client_and_its_answer_reaches_it() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> Any:
        conn.info = {"name": data["name"]}
        return {"user": conn.user, "plan": (conn.claims or {}).get("plan"), "slot": conn.slot}

    async with OneWorker(app) as worker:
        client = await worker.join(token=worker.token(sub="42", plan="gold"), data={"name": "Ana"})
        assert client.connected["data"] == {"user": "42", "plan": "gold", "slot": 3}
        assert worker.session(client).connection.info == {"name": "Ana"}


@run_async
async def test_the_commands_behind_connect_in_its_message_follow_it_in_order() -> None:
    async with OneWorker(open_app(history=10)) as worker:
        client = await worker.open()
        replies = await client.say(
            CONNECT,
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "presence_stats": {"channel": "open"}},
            {"id": 7, "unsubscribe": {"channel": "open"}},
            {"id": 4, "unsubscribe": {"channel": "open"}},
        )
        assert [(reply["id"], next(key for key in reply if key != "id")) for reply in replies] == [
            (1, "connect"), (2, "subscribe"), (3, "error"), (7, "unsubscribe"), (4, "unsubscribe"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (Reject(), {"code": 103, "message": "permission denied"}),
        (Reject("full", 1000, temporary=True), {"code": 1000, "message": "full", "temporary": True}),
        (RuntimeError("a bug"), {"code": 100, "message": "internal server error", "temporary": True}),
    ],
    ids=repr,
)
@run_async
async def test_who_is_refused_is_told_and_the_rest_of_its_message_is_not_looked_at(
    raised: Exception, error: dict[str, Any]
) -> None:
    app = open_app()

    @app.on_connect
    async def connect() -> None:
        raise raised

    async with OneWorker(app) as worker:
        client = await worker.open()
        await client.send_raw(json.dumps(CONNECT) + '\n{"id":2,"subscribe":{"channel":"open"}}')
        assert await client.hear(1) == [{"id": 1, "error": error}]
        assert await ends(client, {"id": 3, "subscribe": {"channel": "open"}}) == (3501, "bad request")
        assert len(client.heard) == 1, "a refusal is not got round by a second message"


@run_async
async def test_a_refused_client_that_stays_is_closed_as_stale() -> None:
    app = App()

    @app.on_connect
    async def connect() -> None:
        raise Reject

    async with OneWorker(app) as worker:
        client = await worker.open()
        await client.say(CONNECT)
        worker.pass_time(10.5)
        assert await client.wait_closed() == (3502, "stale")
