"""
How a connection begins, lives and ends: connect, refresh, pings, deadlines, and every disconnect code.

Through a real WebSocket to one worker in this process (Centrifuge client protocol, sections 4, 5, 8.2 and 10). Time
passes when a test says so, so nothing here waits for a ping or a deadline.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any

import pytest

from realtime import App, Connection, Disconnect, Reject, codes
from realtime.auth.tokens import sign
from realtime.codes import DisconnectCode, ErrorCode, UnsubscribeCode
from realtime.errors import BrokerUnavailable
from realtime.transport.websocket_endpoint import WebSocketLimits
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.lagging_broker import LaggingBroker
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
    107: ("bad request", False), 108: ("not available", False), 109: ("token expired", False),
    111: ("too many requests", True), 112: ("unrecoverable position", False),
}  # fmt: skip
DISCONNECTS = {
    3001: "shutdown", 3004: "internal server error", 3005: "connection expired",
    3008: "slow", 3010: "insufficient state",
    3011: "force reconnect", 3012: "no pong", 3013: "too many requests", 3500: "invalid token", 3501: "bad request",
    3502: "stale",
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
async def test_what_a_client_says_in_place_of_headers_is_told_apart_from_them_and_only_while_it_connects() -> None:
    app = App()

    @app.on_connect
    async def connect(conn: Connection) -> Any:
        return {
            "said": dict(conn.emulated_headers),
            "sent": conn.headers.get("x-real-ip"),
            "agent": conn.headers["host"],
        }

    async with OneWorker(app) as worker:
        client = await worker.join(headers={"X-Real-IP": "192.0.2.1", "Host": "elsewhere"})
        told = client.connected["data"]
        assert told["said"] == {"x-real-ip": "192.0.2.1", "host": "elsewhere"}
        assert (told["sent"], told["agent"].startswith("127.0.0.1:")) == (None, True)
        assert worker.session(client).connection.emulated_headers == {}


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
        end = (3004, "internal server error") if error.get("temporary") else (3501, "bad request")
        assert await ends(client, {"id": 3, "subscribe": {"channel": "open"}}) == end
        assert len(client.heard) == 1, "a refusal is not got round by a second message"


@pytest.mark.parametrize(
    ("raised", "end"),
    [
        (Reject("full", 1000, temporary=True), (3004, "internal server error")),
        (Reject("slowly", 111, temporary=True), (3013, "too many requests")),
        (Reject("another token", 109), (3005, "connection expired")),
        (BrokerUnavailable("there", "away"), (3004, "internal server error")),
    ],
    ids=repr,
)
@run_async
async def test_a_client_that_was_refused_for_now_and_stays_is_let_come_back(
    raised: Exception, end: tuple[int, str]
) -> None:
    app = App()

    @app.on_connect
    async def connect() -> None:
        raise raised

    async with OneWorker(app) as worker:
        client = await worker.open()
        await client.say(CONNECT)
        worker.pass_time(10.5)
        assert await client.wait_closed() == end


@run_async
async def test_a_connect_that_takes_too_long_is_no_fault_of_the_client() -> None:
    app = App()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def connect() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with OneWorker(app, connect_s=10) as worker:
        client = await worker.open()
        await client.send_raw(json.dumps(CONNECT))
        await begun.wait()
        worker.pass_time(10.5)
        assert client.closed is None, "it is given as long again, for it may have been asked late"
        worker.pass_time(10.5)
        assert await client.wait_closed() == (3004, "internal server error")
        await cancelled.wait()


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


# What ends a connection with 3501

BEFORE_CONNECT: list[dict[str, Any]] = [
    {},
    {"id": 1},
    {"id": 1, "ping": {}},
    {"id": 1, "subscribe": {"channel": "open"}},
    {"id": 1, "publish": {"channel": "open", "data": 1}},
    {"id": 1, "refresh": {"token": "t"}},
    {"send": {"data": 1}},
    {"id": 1, "unknown": {}},
    {"connect": {}},
    {"id": 0, "connect": {}},
    {"id": -1, "connect": {}},
]
AFTER_CONNECT: list[dict[str, Any]] = [
    {},
    {"id": 2},
    {"id": 2, "ping": {}},
    {"id": 2, "connect": {}},
    {"id": 2, "unknown": {}},
    {"subscribe": {"channel": "open"}},
    {"id": 0, "rpc": {"method": "m"}},
    {"id": -2, "publish": {"channel": "open", "data": 1}},
    {"id": 2, "send": {}},
    *({"id": 2, method: {}} for method in ("subscribe", "unsubscribe", "publish", "presence", "presence_stats")),
    *({"id": 2, method: {"channel": ""}} for method in ("history", "sub_refresh", "subscribe")),
    {"id": 2, "subscribe": {"channel": "open", "delta": "xdelta"}},
]


@pytest.mark.parametrize("command", BEFORE_CONNECT, ids=json.dumps)
@run_async
async def test_the_first_command_is_connect(command: dict[str, Any]) -> None:
    async with OneWorker(open_app()) as worker:
        client = await worker.open()
        assert await ends(client, command, CONNECT) == (3501, "bad request")
        assert client.heard == []


@pytest.mark.parametrize("command", AFTER_CONNECT, ids=json.dumps)
@run_async
async def test_what_the_protocol_does_not_know_ends_the_connection(command: dict[str, Any]) -> None:
    async with OneWorker(open_app(presence=True, history=10)) as worker:
        client = await worker.join()
        assert await ends(client, command) == (3501, "bad request")
        assert len(client.heard) == 1


# Tokens


@pytest.mark.parametrize(
    ("token", "end"),
    [
        (lambda: "no token", (3500, "invalid token")),
        (lambda: sign({"sub": "42"}, SECRET + "x"), (3500, "invalid token")),
        (lambda: sign({"sub": "42", "channel": "open"}, SECRET), (3500, "invalid token")),
        (lambda: sign({"sub": "42", "nbf": time.time() + 600}, SECRET), (3500, "invalid token")),
        (lambda: "", (3501, "bad request")),
    ],
)
@run_async
async def test_who_has_no_good_token_is_closed(token: Any, end: tuple[int, str]) -> None:
    async with OneWorker(App(), anonymous=False) as worker:
        client = await worker.open()
        assert await ends(client, {"id": 1, "connect": {"token": token()}}) == end
        assert client.heard == []


def test_whom_nothing_but_a_token_would_have_admitted_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @run_async
    async def connect_without() -> None:
        async with OneWorker(App(), anonymous=False) as worker:
            await ends(await worker.open(), CONNECT)

    with caplog.at_level(logging.INFO, "realtime"):
        connect_without()
    assert re.search('connect refused .*reason="it has no token, and --anonymous is off"', caplog.text)


@pytest.mark.parametrize("is_told", [False, True], ids=["alone", "after the link was lost"])
def test_a_command_that_the_broker_fails_is_named_unless_all_of_them_are(
    is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = LaggingBroker()

    @run_async
    async def publish_in_vain() -> None:
        async with OneWorker(open_app(), broker=broker) as worker:
            client = await worker.join()
            await client.ask("subscribe", channel="open")
            broker.away = True
            if is_told:
                worker.hub.on_link_lost()
            with pytest.raises(Refused, match="100"):
                await client.ask("publish", channel="open", data=1)
            broker.away = False

    with caplog.at_level(logging.INFO, "realtime"):
        publish_in_vain()
    assert ("command=publish " in caplog.text) is not is_told


@run_async
async def test_a_bad_token_does_not_make_anonymous_who_could_be_anonymous() -> None:
    async with OneWorker(App(), anonymous=True) as worker:
        assert worker.session(await worker.join()).connection.user == ""
        client = await worker.open()
        assert await ends(client, {"id": 1, "connect": {"token": "x"}}) == (3500, "invalid token")


@run_async
async def test_an_expired_token_is_an_error_so_that_the_client_fetches_another() -> None:
    async with OneWorker(App()) as worker:
        client = await worker.open()
        (reply,) = await client.say({"id": 1, "connect": {"token": sign({"exp": time.time() - 1}, SECRET)}})
        assert reply == {"id": 1, "error": {"code": 109, "message": "token expired"}}


@pytest.mark.parametrize(
    ("claims", "least", "most"),
    [
        ({"exp": 300}, 298, 300),
        ({"exp": 300, "expire_at": 60}, 58, 60),
        ({"exp": 300, "expire_at": -600}, 1, 1),
        ({"exp": 300, "expire_at": 10**9}, 365 * 86400, 365 * 86400),
    ],
    ids=json.dumps,
)
@run_async
async def test_a_client_is_told_how_long_it_lives(claims: dict[str, float], least: int, most: int) -> None:
    async with OneWorker(App()) as worker:
        now = time.time()
        client = await worker.join(token=worker.token(**{name: now + value for name, value in claims.items()}))
        assert client.connected["expires"] is True
        assert least <= client.connected["ttl"] <= most


@run_async
async def test_who_lives_for_ever_is_not_told_of_an_end() -> None:
    async with OneWorker(App()) as worker:
        for token in (worker.token(expire_at=0), sign({"sub": "42"}, SECRET)):
            client = await worker.join(token=token)
            assert not client.connected.keys() & {"expires", "ttl"}


@run_async
async def test_a_connection_ends_some_grace_after_its_token() -> None:
    async with OneWorker(App(), ping_s=0, expiry_grace_s=25) as worker:
        client = await worker.join(token=worker.token(exp=time.time() + 60))
        worker.pass_time(60 + 24)
        await client.ask("unsubscribe", channel="x")
        worker.pass_time(2)
        assert await client.wait_closed() == (3005, "connection expired")


@run_async
async def test_a_refresh_in_the_grace_lets_it_live_on() -> None:
    async with OneWorker(App(), ping_s=0, expiry_grace_s=25) as worker:
        client = await worker.join(token=worker.token(sub="42", exp=time.time() + 60))
        worker.pass_time(60 + 24)
        result = await client.ask("refresh", token=worker.token(sub="42", exp=time.time() + 300, plan="gold"))
        assert 298 <= result.pop("ttl") <= 300
        assert result == {"client": client.connected["client"], "version": VERSION, "expires": True}
        assert worker.session(client).connection.claims["plan"] == "gold"
        worker.pass_time(60)
        await client.ask("unsubscribe", channel="x")
        result = await client.ask("refresh", token=sign({"sub": "42"}, SECRET))
        assert result == {"client": client.connected["client"], "version": VERSION}
        worker.pass_time(10**6)
        await client.ask("unsubscribe", channel="x")


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        ({"sub": "42", "exp": 1}, (3005, "connection expired")),
        ({"sub": "43"}, (3500, "invalid token")),
        ({}, (3500, "invalid token")),
        ({"sub": "42", "channel": "open"}, (3500, "invalid token")),
    ],
    ids=json.dumps,
)
@run_async
async def test_a_refresh_is_by_a_good_token_of_the_same_user(claims: dict[str, Any], end: tuple[int, str]) -> None:
    async with OneWorker(App()) as worker:
        client = await worker.join(user="42")
        token = sign(claims, SECRET)
        assert await ends(client, {"id": 2, "refresh": {"token": token}}) == end


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ({"channels": ["a", "b"]}, {"channels": ["b", "a"]}, True),
        ({"channels": ["a"]}, {"subs": {"a": {}}}, True),
        ({"channels": ["a"]}, {"channels": ["a", "b"]}, False),
        ({"channels": ["a"]}, {}, False),
        ({}, {"channels": ["a"]}, False),
    ],
    ids=json.dumps,
)
@run_async
async def test_a_refresh_that_brings_other_rooms_has_the_client_connect_anew(
    before: dict[str, Any], after: dict[str, Any], is_same: bool
) -> None:
    app = App()
    app.room("{name}", open=True)
    async with OneWorker(app) as worker:
        client = await worker.join(token=worker.token(sub="42", **before))
        refresh = {"id": 2, "refresh": {"token": worker.token(sub="42", **after)}}
        if is_same:
            assert "refresh" in (await client.say(refresh))[0]
        else:
            assert await ends(client, refresh) == (3010, "insufficient state")
            assert (await worker.join(token=worker.token(sub="42", **after))).connected.get("subs", {}).keys() == set(
                after.get("channels", [])
            )


# Pings


async def pinged(worker: OneWorker, client: Client, seconds: float) -> None:
    """Let time pass until the next ping, and have its answer arrive."""
    before = client.pings
    worker.pass_time(seconds)
    await client.ask("unsubscribe", channel="x")  # answered after the ping was written
    assert client.pings == before + 1
    await client.ask("unsubscribe", channel="x")  # sent after the pong


@run_async
async def test_a_client_is_pinged_on_schedule_also_while_it_is_talked_to() -> None:
    async with OneWorker(open_app(), ping_s=25, pong_s=8) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="open")
        worker.pass_time(12.25)
        await client.ask("publish", channel="open", data=1)
        assert client.pings == 0, "the first comes after half an interval at the earliest"
        await pinged(worker, client, 13)
        for _ in range(3):
            worker.pass_time(8.25)
            for _ in range(5):
                await client.ask("publish", channel="open", data=1)
            await pinged(worker, client, 17.25)
        assert client.pings == 4


@run_async
async def test_who_does_not_answer_a_ping_is_closed() -> None:
    async with OneWorker(open_app(), ping_s=25, pong_s=8) as worker:
        client = await worker.join()
        client.answers_pings = False
        worker.pass_time(25.25)
        await client.ask("unsubscribe", channel="x")
        worker.pass_time(7)
        await client.ask("unsubscribe", channel="x")
        worker.pass_time(1.5)
        assert await client.wait_closed() == (3012, "no pong")


@run_async
async def test_a_late_pong_counts_and_a_second_one_does_not() -> None:
    async with OneWorker(App(), ping_s=25, pong_s=8) as worker:
        client = await worker.join()
        client.answers_pings = False
        worker.pass_time(25.25)
        await client.hear(2)
        worker.pass_time(7.5)
        await client.send_raw('{}\n{"id":5,"unsubscribe":{"channel":"x"}}')
        await client.hear(3)
        worker.pass_time(8)
        await client.send_raw('{"id":6,"unsubscribe":{"channel":"x"}}')
        await client.hear(4)
        assert await ends(client, {}) == (3501, "bad request")


@run_async
async def test_all_connections_are_not_pinged_at_once() -> None:
    async with OneWorker(App(), ping_s=100, pong_s=50) as worker:
        clients = [await worker.join() for _ in range(30)]
        pinged_at: dict[Client, int] = {}
        worker.pass_time(49)
        for second in range(50, 102, 4):
            worker.pass_time(4)
            for client in clients:
                await client.ask("unsubscribe", channel="x")
                if client.pings:
                    pinged_at.setdefault(client, second)
        assert len(pinged_at) == 30
        assert len(set(pinged_at.values())) > 3, "spread over half an interval"


# Deadlines


@run_async
async def test_who_never_says_connect_is_closed_as_stale() -> None:
    async with OneWorker(App(), connect_s=10) as worker:
        silent, client = await worker.open(), await worker.join()
        worker.pass_time(9.5)
        assert silent.closed is None
        worker.pass_time(1)
        assert await silent.wait_closed() == (3502, "stale")
        await client.ask("unsubscribe", channel="x")


# Ends that the application wants


@pytest.mark.parametrize(
    ("code", "reason", "end"),
    [
        (4000, "come back", (4000, "come back")),
        (4999, "never again", (4999, "never again")),
        (3000, "connection closed", (3000, "connection closed")),
        (3507, "permission denied", (3507, "permission denied")),
        (1000, "bye", (1000, "bye")),
        (4001, "", (4001, "")),
        (0, "no code", (3004, "internal server error")),
        (1005, "reserved", (3004, "internal server error")),
        (65536, "too much", (3004, "internal server error")),
    ],
)
@pytest.mark.parametrize("method", ["connect", "subscribe", "publish", "rpc", "send"])
@run_async
async def test_every_handler_may_end_the_connection(method: str, code: int, reason: str, end: tuple[int, str]) -> None:
    app = App()

    async def refuse(conn: Any = None) -> None:
        raise Disconnect(code, reason)

    if method == "connect":
        app.on_connect(refuse)
    app.on_message(refuse)
    app.rpc("m")(refuse)

    @app.room("in")
    class In:
        async def on_publish(self, conn: Connection, data: Any) -> None:
            await refuse()

    @app.room("out")
    class Out:
        async def on_subscribe(self) -> None:
            await refuse()

    async with OneWorker(app) as worker:
        client = await worker.open()
        assert await ends(
            client,
            CONNECT,
            {"id": 2, "subscribe": {"channel": "out" if method == "subscribe" else "in"}},
            {"id": 3, "rpc": {"method": "m"}} if method == "rpc" else {"id": 3, "unsubscribe": {"channel": "x"}},
            {"send": {"data": 1}} if method == "send" else {"id": 4, "publish": {"channel": "in", "data": 1}},
        ) == end  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        ((), (3503, "force disconnect")),
        ((3011, "force reconnect"), (3011, "force reconnect")),
        ((4001, "x" * 200), (4001, "x" * 123)),
        ((4001, "é" * 100), (4001, "é" * 61)),
    ],
)
@run_async
async def test_a_connection_may_be_ended_from_outside(arguments: tuple[Any, ...], end: tuple[int, str]) -> None:
    app = open_app()
    ended = []

    @app.on_disconnect
    async def disconnect(conn: Connection, code: int, reason: str) -> None:
        ended.append((conn.id, code))

    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="open")
        worker.session(client).connection.disconnect(*arguments)
        assert await client.wait_closed() == end
        assert worker.hub.statistics()["memberships"] == 0
        assert worker.registry.statistics() == {"sessions": 0, "clients": 0, "overruns": {}}
    assert ended == [(client.connected["client"], end[0])]


@run_async
async def test_on_disconnect_hears_of_every_admitted_client_once_and_of_no_other() -> None:
    app = App()
    ended: list[tuple[str, int]] = []

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.user = str(data)
        if data == "refused":
            raise Reject

    @app.on_disconnect
    async def disconnect(conn: Connection, code: int, reason: str) -> None:
        ended.append((conn.user, code))

    async with OneWorker(app) as worker:
        refused = await worker.open()
        await refused.say({"id": 1, "connect": {"data": "refused"}})
        await ends(refused, {})
        goes, cut = await worker.join(data="goes"), await worker.join(data="cut")
        await goes.close()
        cut.abort()
        wrong = await worker.join(data="wrong")
        await ends(wrong, {}, {}, {})
    assert sorted(ended) == [("cut", 1006), ("goes", 1000), ("wrong", 3501)]


@run_async
async def test_a_message_that_nobody_takes_ends_the_connection() -> None:
    async with OneWorker(App()) as worker:
        assert await ends(await worker.join(), {"send": {"data": {}}}) == (3508, "not available")


@run_async
async def test_a_connect_that_brings_too_many_rooms_ends_the_connection() -> None:
    app = App()
    app.room("{name}", open=True)
    async with OneWorker(app, rooms_per_connection=2) as worker:
        await worker.join(token=worker.token(channels=["a", "b"]))
        client = await worker.open()
        connect = {"id": 1, "connect": {"token": worker.token(channels=["a", "b", "c"])}}
        assert await ends(client, connect) == (3505, "channel limit")


# Ends by size and slowness


@run_async
async def test_a_message_over_the_limit_ends_the_connection() -> None:
    async with OneWorker(App(), sockets=WebSocketLimits(message_bytes=2000)) as worker:
        client = await worker.join()
        with pytest.raises(Refused):
            await client.ask("publish", channel="none", data="x" * 1900)
        await client.send_raw('{"id":9,"rpc":{"method":"m","data":"%s"}}' % ("x" * 2000))
        assert (await client.wait_closed())[0] == 1009


@pytest.mark.parametrize("limits", [{"outbound_bytes": 100_000}, {"outbound_bytes": 2**40, "outbound_s": 0.0}])
@run_async
async def test_who_does_not_read_is_closed_as_slow_and_others_are_not_touched(limits: dict[str, Any]) -> None:
    app = open_app()
    async with OneWorker(app, sockets=WebSocketLimits(**limits), ping_s=0) as worker:
        slow, quick = await worker.join(), await worker.join()
        for client in (slow, quick):
            await client.ask("subscribe", channel="open")
        transport = worker.session(slow).transport
        await slow.stop_reading()
        sent = 0
        while not worker.endpoint.slow:
            await app.room("open").publish([sent, "x" * 50_000])
            assert (await quick.push("pub"))["pub"]["data"][0] == sent
            sent += 1
            if "outbound_s" in limits and transport.is_congested_since() is not None:
                worker.pass_time(1)
        slow.read_on()
        assert await slow.wait_closed() == (3008, "slow")
        got = [push["push"]["pub"]["data"][0] for push in slow.heard if "push" in push]
        assert got == list(range(len(got))), "what it got has no hole"
        await app.room("open").publish([sent])
        assert (await quick.push("pub"))["pub"]["data"] == [sent]
        assert worker.hub.statistics()["memberships"] == 1
