"""
The API for other programs, and the commands that use it: real servers of several workers, over the local broker and
over Redis with two machines; clients of the API's effects are real WebSockets.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from realtime.auth.tokens import sign
from tests.sdk.conftest import APP, SECRET
from tests.support.aio import run_async
from tests.support.client import ProtocolClient, Refused
from tests.support.log_lines import exited
from tests.support.one_worker import until
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import DEADLINE_S, ROOT, RunningServer
from tests.support.streams import Stream

KEY = "a key of sixteen bytes"
UNDECLARED = "unknown channel: room 'nowhere' is not declared; declared: moderated:{name}, "
ENV = {"REALTIME_API_KEY": f"{KEY},another key of sixteen", "REALTIME_TOKEN_HMAC_SECRET": SECRET}


@pytest.fixture(scope="module", params=["local", "redis"])
def servers(request: pytest.FixtureRequest) -> Iterator[list[RunningServer]]:
    """Two servers that share their rooms, or one twice."""
    if request.param == "local":
        with RunningServer(APP, "--anonymous", workers=3, env=ENV) as server:
            server.wait_until_full()
            yield [server, server]
        return
    require("redis")
    with RedisServer() as redis:
        options = ("--anonymous", "--redis", redis.url)
        with (
            RunningServer(APP, *options, workers=2, env=ENV) as one,
            RunningServer(APP, *options, workers=2, env=ENV) as other,
        ):
            one.wait_until_full()
            other.wait_until_full()
            yield [one, other]


def post(server: RunningServer, path: str, body: Any, address: str = "127.0.0.1", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, DEADLINE_S, source_address=(address, 0))
    given = {name.replace("_", "-"): value for name, value in (headers or {"X_API_Key": KEY}).items()}
    connection.request("POST", path, body if isinstance(body, str) else json.dumps(body), given)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if response.status == 200 else text


def call(server: RunningServer, method: str, **fields: Any) -> Any:
    status, answer = post(server, f"/api/{method}", fields)
    assert status == 200
    assert "error" not in answer, answer
    return answer["result"]


def refused(server: RunningServer, method: str, **fields: Any) -> tuple[int, str]:
    status, answer = post(server, f"/api/{method}", fields)
    assert status == 200
    return answer["error"]["code"], answer["error"]["message"]


async def join(server: RunningServer, user: str = "", address: str = "127.0.0.1") -> ProtocolClient:
    token = {"token": sign({"sub": user, "expire_at": 0}, SECRET)} if user else {}
    return await ProtocolClient.join(f"ws://127.0.0.1:{server.port}/connection/websocket", address, **token)


# Who may


def test_only_who_has_a_key(servers: list[RunningServer]) -> None:
    server = servers[0]
    body = {"channel": "open:keys"}
    assert post(server, "/api/history", body)[0] == 200
    assert post(server, "/api/history", body, Authorization=f"apikey {KEY}")[0] == 200
    assert post(server, "/api/history", body, X_API_Key="another key of sixteen")[0] == 200
    for wrong in ({"X_API_Key": ""}, {"X_API_Key": KEY[:-1]}, {"Authorization": f"Bearer {KEY}"}, {"Cookie": KEY}):
        assert post(server, "/api/history", body, **wrong)[0] == 401


def test_without_a_key_there_is_no_api() -> None:
    with RunningServer(APP, "--anonymous", workers=1) as server:
        server.wait_until_full()
        assert post(server, "/api/info", {})[0] == 404


# Rooms


@run_async
async def test_what_is_published_reaches_every_machine(servers: list[RunningServer]) -> None:
    one, other = servers
    clients = [await join(each, address=f"127.0.50.{n}") for n, each in enumerate([one, other, one, other], 1)]
    for client in clients:
        await client.ask("subscribe", channel="open:reach")
    first = call(one, "publish", channel="open:reach", data={"n": 1}, tags={"k": "v"})
    again = [call(each, "publish", channel="open:reach", data=2, idempotency_key="k") for each in servers]
    assert again[0] == again[1] == {"offset": 2, "epoch": first["epoch"]}
    call(other, "publish", channel="open:reach", b64data="IjMi", skip_history=True)
    for client in clients:
        found = [(await client.push("pub"))["pub"] for _ in range(3)]
        assert [pub["data"] for pub in found] == [{"n": 1}, 2, "3"]
        assert found[0]["tags"] == {"k": "v"}
        assert "offset" not in found[2]
    page = call(other, "history", channel="open:reach", limit=10)
    assert [pub["data"] for pub in page["publications"]] == [{"n": 1}, 2]
    assert page["offset"] == 2
    page = call(one, "history", channel="open:reach", limit=1, reverse=True)
    assert [pub["data"] for pub in page["publications"]] == [2]
    assert call(one, "presence_stats", channel="open:reach") == {"num_clients": 4, "num_users": 1}
    assert set(call(other, "presence", channel="open:reach")["presence"]) == {c.connected["client"] for c in clients}
    found = call(other, "channels", pattern="open:rea*")["channels"]
    assert found == {"open:reach": {"num_clients": 4}}
    call(one, "history_remove", channel="open:reach")
    assert call(other, "history", channel="open:reach", limit=10)["publications"] == []
    for client in clients:
        await client.close()


def test_a_broadcast_and_a_batch(servers: list[RunningServer]) -> None:
    server = servers[0]
    answers = call(server, "broadcast", channels=["open:b1", "nowhere", "open:b2"], data=1)["responses"]
    assert [each.get("result", {}).get("offset") for each in answers] == [1, None, 1]
    assert answers[1]["error"]["code"] == 102
    assert answers[1]["error"]["message"].startswith(UNDECLARED)
    commands = [{"publish": {"channel": "open:b1", "data": 2}}, {"what": {}}, {"presence": {"channel": "news:x"}}]
    for parallel in (False, True):
        status, answer = post(server, "/api/batch", {"commands": commands, "parallel": parallel})
        assert status == 200
        assert "publish" in answer["replies"][0]
        assert [each["error"]["code"] for each in answer["replies"][1:]] == [104, 108]


def test_the_older_form(servers: list[RunningServer]) -> None:
    body = {"method": "publish", "params": {"channel": "open:older", "data": 1}}
    status, answer = post(servers[0], "/api", body, Authorization=f"apikey {KEY}")
    assert status == 200
    assert answer["result"]["offset"] == 1


def test_a_text_that_was_cut_within_a_character_is_taken(servers: list[RunningServer]) -> None:
    for way in ("publish", "older", "batch"):
        fields = {"channel": f"open:cut-{way}", "data": "cut \ud83d"}
        if way == "publish":
            call(servers[0], "publish", **fields)
        elif way == "older":
            post(servers[0], "/api", {"method": "publish", "params": fields})
        else:
            post(servers[0], "/api/batch", {"commands": [{"publish": fields}]})
        page = call(servers[0], "history", channel=fields["channel"], limit=1)
        assert page["publications"][0]["data"] == "cut \ufffd"


@pytest.mark.parametrize(
    ("method", "fields", "code", "part"),
    [
        ("publish", {"channel": "open:x"}, 107, "neither"),
        ("publish", {"channel": "open:x", "b64data": "!"}, 107, "base 64"),
        ("publish", {"channel": "open:x", "b64data": "AAA="}, 107, "no JSON"),
        ("publish", {"channel": "", "data": 1}, 107, "name"),
        ("publish", {"channel": "\0*", "data": 1}, 107, "name"),
        ("publish", {"channel": 7, "data": 1}, 107, "$.channel"),
        ("publish", {"data": 1}, 107, "channel"),
        ("publish", {"channel": "nowhere", "data": 1}, 102, UNDECLARED),
        ("history", {"channel": "nowhere"}, 102, UNDECLARED),
        ("subscribe", {"user": "ana", "channel": "nowhere"}, 102, UNDECLARED),
        ("unsubscribe", {"user": "ana", "channel": "nowhere"}, 102, UNDECLARED),
        ("publish", {"channel": "open:{x}", "data": 1}, 107, "`channel`: room 'open:{x}' is a pattern, and no room"),
        ("publish", {"channel": "open:*", "data": 1}, 107, "is a pattern, and no room: name one room"),
        ("publish", {"channel": "open:x", "data": 1, "version": 3}, 107, "version"),
        ("publish", {"channel": "open:x", "data": 1, "version_epoch": "e"}, 107, "version_epoch"),
        ("publish", {"channel": "open:x", "data": 1, "b64data": "MQ=="}, 107, "exclude"),
        ("publish", {"channel": "open:x", "data": 1, "delta": True}, 107, "delta"),
        ("broadcast", {"channels": ["open:x"], "data": 1, "key": "k"}, 107, "key"),
        ("presence", {"channel": "news:x"}, 108, "not available: room 'news:x' keeps no presence"),
        ("presence", {"channel": "news:x"}, 108, "declare it with presence=True"),
        ("presence_stats", {"channel": "news:x"}, 108, "declare it with presence=True"),
        ("presence", {"channel": "open:x", "cursor": "1"}, 107, "cursor"),
        ("channels", {"pattern": "{open"}, 107, "pattern"),
        ("history", {"channel": "plain:x"}, 108, "not available: room 'plain:x' keeps no history"),
        ("history", {"channel": "plain:x"}, 108, "declare it with history=N"),
        ("history", {"channel": "open:x", "limit": 1, "since": {"offset": 1, "epoch": "no"}}, 112, "unrecoverable"),
        ("subscribe", {"user": "u", "channel": "open:x", "override": {"presence": {"value": True}}}, 107, "override"),
        ("subscribe", {"user": "u", "channel": "open:x", "b64info": "eA=="}, 107, "b64info"),
        ("subscribe", {"user": "u", "channel": "open:x", "b64data": "eA=="}, 107, "no JSON"),
        ("subscribe", {"user": "u", "channel": "open:x", "expire_at": -1}, 107, "expire_at"),
        ("subscribe", {"user": "u", "channel": "plain:x", "recover_since": {"offset": 1}}, 107, "recover_since"),
        ("disconnect", {"user": "u", "disconnect": {"code": 1}}, 107, "3000"),
        ("disconnect", {"user": "u", "disconnect": {"code": 3503, "reconnect": True}}, 107, "reconnect"),
        ("refresh", {"user": "u", "info": {}}, 107, "info"),
        ("refresh", {"user": "u", "expired": True, "expire_at": 4102444800}, 107, "exclude"),
        ("refresh", {"user": "u", "expire_at": 10**400}, 107, "$.expire_at"),
        ("revoke_token", {"uid": ""}, 107, "jti"),
        ("revoke_token", {"uid": "x", "expire_at": -1}, 107, "$.expire_at"),
        ("invalidate_user_tokens", {"issued_before": 1}, 107, "user"),
    ],
)
def test_what_is_wrong_is_told(
    servers: list[RunningServer], method: str, fields: dict[str, Any], code: int, part: str
) -> None:
    found = refused(servers[0], method, **fields)
    assert found[0] == code
    assert part in found[1]


def test_no_field_is_accepted_and_ignored(servers: list[RunningServer]) -> None:
    told = describe(servers[0])["components"]["schemas"]
    methods = [path.removeprefix("/api/") for path in describe(servers[0])["paths"]]
    assert len(methods) > 15
    for method in methods:
        code, message = refused(servers[0], method, no_such_field=1)
        assert (code, "`no_such_field`" in message) == (107, True), (method, message)
    for name, shape in told.items():
        if name.endswith("Request") or name in ("UserInRoom", "StreamPosition", "DisconnectCode"):
            assert shape["additionalProperties"] is False, name
    status, answer = post(servers[0], "/api", {"method": "info", "params": {}, "no_such_field": 1})
    assert (status, answer["error"]["code"]) == (200, 107)
    assert "`no_such_field`" in answer["error"]["message"]


@pytest.mark.parametrize("body", ["", "[]", "{", '{"commands": 1}', '{"commands": [{}]}'])
def test_what_is_no_request(servers: list[RunningServer], body: str) -> None:
    status, answer = post(servers[0], "/api/batch", body)
    assert (status, answer["error"]["code"]) == (200, 107)
    assert post(servers[0], "/api/nothing", {})[0] == 404


# Users


@run_async
async def test_a_user_is_found_wherever_they_are(servers: list[RunningServer]) -> None:
    one, other = servers
    tabs = [await join(each, "ana", f"127.0.51.{n}") for n, each in enumerate([one, other, other], 1)]
    ben = await join(other, "ben", "127.0.51.9")
    call(one, "subscribe", user="ana", channel="open:given")
    for tab in tabs:
        assert (await tab.push("subscribe"))["channel"] == "open:given"
    call(other, "publish", channel="open:given", data="hello")
    for tab in tabs:
        assert (await tab.push("pub"))["pub"]["data"] == "hello"
    call(one, "unsubscribe", user="ana", channel="open:given")
    for tab in tabs:
        assert (await tab.push("unsubscribe"))["unsubscribe"]["code"] == 2000
    call(other, "refresh", user="ana", expire_at=4102444800)
    for tab in tabs:
        assert (await tab.push("refresh"))["refresh"]["expires"] is True
    call(one, "disconnect", user="ana", client=tabs[0].connected["client"])
    assert await tabs[0].wait_closed() == (3503, "force disconnect")
    call(one, "disconnect", user="ana", disconnect={"code": 4001, "reason": "moved"})
    for tab in tabs[1:]:
        assert await tab.wait_closed() == (4001, "moved")
    assert await ben.ask("subscribe", channel="open:given"), "another user notices nothing"
    call(one, "refresh", user="ben", expired=True)
    assert (await ben.wait_closed())[0] == 3005


@run_async
async def test_a_grant_ends_in_time_and_may_be_prolonged(servers: list[RunningServer]) -> None:
    one, other = servers
    client = await join(one, "gil")
    now = int(time.time())
    call(other, "subscribe", user="gil", channel="open:short", expire_at=now + 2)
    call(other, "subscribe", user="gil", channel="open:long", expire_at=now + 2)
    assert {(await client.push("subscribe"))["channel"] for _ in range(2)} == {"open:short", "open:long"}
    call(other, "subscribe", user="gil", channel="open:long", expire_at=now + 3600)
    ended = await client.push("unsubscribe")
    assert (ended["channel"], ended["unsubscribe"]["code"]) == ("open:short", 2501)
    assert time.time() >= now + 1, "and not at once"
    call(one, "publish", channel="open:short", data="unseen")
    call(one, "publish", channel="open:long", data="seen")
    assert (await client.push("pub"))["channel"] == "open:long"
    await client.close()


@run_async
async def test_a_grant_brings_data_an_info_and_what_was_missed(servers: list[RunningServer]) -> None:
    one, other = servers
    published = [call(one, "publish", channel="open:granted", data=n) for n in range(1, 4)]
    since = {"offset": published[0]["offset"], "epoch": published[0]["epoch"]}
    client = await join(other, "hal")
    grant = {"info": {"as": "guest"}, "data": {"welcome": 1}, "recover_since": since}
    call(one, "subscribe", user="hal", channel="open:granted", **grant)
    told = (await client.push("subscribe"))["subscribe"]
    assert (told["data"], told["offset"], told["epoch"]) == ({"welcome": 1}, since["offset"], since["epoch"])
    assert [(await client.push("pub"))["pub"]["data"] for _ in range(2)] == [2, 3]
    call(other, "publish", channel="open:granted", data=4)
    assert (await client.push("pub"))["pub"]["data"] == 4
    [member] = call(one, "presence", channel="open:granted")["presence"].values()
    assert (member["user"], member["chan_info"]) == ("hal", {"as": "guest"})
    call(one, "unsubscribe", user="hal", channel="open:granted")
    assert (await client.push("unsubscribe"))["channel"] == "open:granted"
    encoded = {"b64info": "eyJhIjoxfQ==", "b64data": "IngI", "recover_since": {"offset": 1, "epoch": "another"}}
    assert refused(one, "subscribe", user="hal", channel="open:granted", **encoded)[0] == 107, "cut JSON"
    call(one, "subscribe", user="hal", channel="open:granted", **encoded | {"b64data": "Ingi"})
    told = (await client.push("subscribe"))["subscribe"]
    assert (told["data"], told["offset"]) == ("x", 4), "another epoch: it begins at the top"
    await client.close()


@run_async
async def test_a_session_is_one_connection_of_the_user_and_never_a_websocket(servers: list[RunningServer]) -> None:
    one, other = servers
    connect = {"token": sign({"sub": "hal", "expire_at": 0}, SECRET)}
    tab = await join(one, "hal", "127.0.55.1")
    streams = [
        Stream(other, "/connection/http_stream", {"id": 1, "connect": connect}, "127.0.55.2"),
        Stream(one, "/connection/sse", {"id": 1, "connect": connect}, "127.0.55.3"),
        Stream(other, "/connection/uni_http_stream", connect, "127.0.55.4"),
    ]
    stream, events, one_way = streams

    def rooms() -> dict[str, list[str]]:
        found = call(one, "connections", user="hal")["connections"]
        return {client: place["channels"] for client, place in found.items()}

    told = [each.first.get("connect") or each.first["push"]["connect"] for each in streams]
    clients = {each["client"] for each in told} | {tab.connected["client"]}
    assert set(rooms()) == clients
    call(one, "subscribe", user="hal", channel="open:session", session=stream.session)
    assert stream.next()["push"]["subscribe"]["recoverable"] is True
    assert {client for client, found in rooms().items() if found} == {stream.first["connect"]["client"]}
    call(one, "refresh", user="hal", expire_at=4102444800, session=events.session)
    assert events.next()["push"]["refresh"]["expires"] is True
    call(one, "subscribe", user="hal", channel="open:session")
    await tab.push("subscribe")  # and the others: each worker takes its own time
    while "subscribe" not in events.next().get("push", {}):
        pass
    while "subscribe" not in one_way.next():
        pass
    call(one, "unsubscribe", user="hal", channel="open:session", session=stream.session)
    while "unsubscribe" not in stream.next().get("push", {}):
        pass
    assert len([found for found in rooms().values() if found]) == 3

    for nobody in ({"session": stream.session, "client": tab.connected["client"]}, {"session": "no-such"}):
        call(one, "disconnect", user="hal", **nobody)
        call(one, "refresh", user="hal", expired=True, **nobody)
    call(one, "disconnect", user="ben", session=stream.session)
    call(one, "disconnect", user="hal", session=stream.session, whitelist=[stream.first["connect"]["client"]])
    assert set(rooms()) == clients
    call(one, "disconnect", user="hal", session=stream.session)
    clients.remove(stream.first["connect"]["client"])
    await until(lambda: set(rooms()) == clients)
    call(one, "refresh", user="hal", expired=True, session=one_way.session)
    clients.remove(one_way.first["connect"]["client"])
    await until(lambda: set(rooms()) == clients)
    assert realtime(other, "disconnect", "hal", "--stream", events.session or "").returncode == 0
    clients.remove(events.first["connect"]["client"])
    await until(lambda: set(rooms()) == clients)
    assert clients == {tab.connected["client"]}
    await tab.close()


@run_async
async def test_what_is_revoked_is_refused_everywhere_also_by_workers_that_come_later(
    servers: list[RunningServer],
) -> None:
    one, other = servers
    old = sign({"sub": "gil", "iat": 1, "jti": "gil's first"}, SECRET)
    new = sign({"sub": "gil", "iat": 4102444800, "jti": "gil's second"}, SECRET)

    async def comes(server: RunningServer, token: str, address: str) -> ProtocolClient:
        return await ProtocolClient.join(server.websocket_url, address, token=token)

    tabs = [await comes(each, old, f"127.0.54.{n}") for n, each in enumerate([one, other, other], 1)]
    newer = await comes(other, new, "127.0.54.9")
    assert call(one, "invalidate_user_tokens", user="gil", expire_at=4102444800) == {}
    for tab in tabs:
        assert await tab.wait_closed() == (3005, "connection expired")
    assert await newer.ask("unsubscribe", channel="x") == {}
    assert call(other, "revoke_token", uid="gil's second") == {}
    assert await newer.wait_closed() == (3005, "connection expired")
    mark, slots = one.log.mark(), [each["slot"] for each in one.status()["workers"]]
    one.send_signal(signal.SIGHUP)
    for slot in slots:
        await asyncio.to_thread(one.log.wait_for, exited(slot=slot), since=mark)
    for server in servers:
        for number in range(10, 20):
            for token in (old, new):
                client = await ProtocolClient.open(server.websocket_url, f"127.0.54.{number}")
                with pytest.raises(Refused) as refused:
                    await client.ask("connect", token=token)
                assert refused.value.code == 109
                await client.close()


@run_async
async def test_a_user_is_seen_wherever_they_are_connected(servers: list[RunningServer]) -> None:
    one, other = servers
    assert call(one, "connections", user="fay") == {"connections": {}}
    tabs = [await join(each, "fay", f"127.0.52.{n}") for n, each in enumerate([one, other, other], 1)]
    await tabs[0].ask("subscribe", channel="open:fay")
    for server in servers:
        found = call(server, "connections", user="fay")["connections"]
        assert set(found) == {tab.connected["client"] for tab in tabs}
        assert sorted(place["address"] for place in found.values()) == ["127.0.52.1", "127.0.52.2", "127.0.52.3"]
        assert found[tabs[0].connected["client"]]["channels"] == ["open:fay"]
        assert {(each["user"], each["transport"], each["protocol"]) for each in found.values()} == {
            ("fay", "websocket", "json")
        }
    shown = realtime(other, "where", "fay")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(tab.connected["client"] in shown.stdout for tab in tabs)
    for tab in tabs:
        await tab.close()
    nowhere = realtime(one, "where", "nobody of that name")
    assert (nowhere.returncode, nowhere.stdout.strip()) == (1, "nobody of that name is not connected")


@run_async
async def test_a_crowd_is_read_in_pages(servers: list[RunningServer]) -> None:
    clients = [await join(servers[n % 2], f"u{n}", f"127.0.53.{n + 1}") for n in range(12)]
    for client in clients:
        await client.ask("subscribe", channel="open:crowd")
    seen: dict[str, Any] = {}
    cursor = ""
    while True:
        page = call(servers[1], "presence", channel="open:crowd", limit=5, cursor=cursor)
        seen |= page["presence"]
        cursor = page.get("cursor", "")
        if not cursor:
            break
    assert set(seen) == {client.connected["client"] for client in clients}
    for client in clients:
        await client.close()


@run_async
async def test_info_names_every_worker(servers: list[RunningServer]) -> None:
    client = await join(servers[1], "eve")
    await client.ask("subscribe", channel="open:info")
    nodes = call(servers[0], "info")["nodes"]
    assert len(nodes) == (3 if servers[0] is servers[1] else 4)
    assert sum(each["num_clients"] for each in nodes) >= 1
    assert sum(each["num_subs"] for each in nodes) >= sum(each["num_clients"] for each in nodes) - 1
    rooms = call(servers[0], "channels", pattern="{open:inf,closed}[o:]*")["channels"]
    assert rooms == {"open:info": {"num_clients": 1}}
    assert len({each["uid"] for each in nodes}) == len(nodes)
    await client.close()


def describe(server: RunningServer) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, DEADLINE_S)
    connection.request("GET", "/api/openapi.json", headers={"X-API-Key": KEY})
    told = json.loads(connection.getresponse().read())
    connection.close()
    return told


def test_its_description(servers: list[RunningServer]) -> None:
    told = describe(servers[0])
    assert told["openapi"].startswith("3.1")
    assert "/api/publish" in told["paths"]
    for name in ("UserInRoom", "DisconnectRequest", "RefreshRequest"):
        assert {"user", "client", "session"} <= told["components"]["schemas"][name]["properties"].keys()
    text = json.dumps(told)
    for name in {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in told["components"]["schemas"], name


# The commands


def realtime(
    server: RunningServer, *arguments: str, key: str = KEY, text: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "REALTIME_URL": f"http://127.0.0.1:{server.port}", "REALTIME_API_KEY": key}
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments],
        cwd=ROOT, env=env, input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@run_async
async def test_commands(servers: list[RunningServer]) -> None:
    one, other = servers
    client = await join(one, "ana")
    await client.ask("subscribe", channel="open:shell")
    said = realtime(other, "publish", "open:shell", '{"text": "hello"}', "--tag", "from=shell")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("published as 1 of ")
    assert (await client.push("pub"))["pub"]["data"] == {"text": "hello"}
    assert realtime(one, "publish", "open:shell", text="no JSON\n").returncode == 0
    assert (await client.push("pub"))["pub"]["data"] == "no JSON"
    assert "open:shell" in realtime(other, "rooms", "open:s*").stdout
    assert json.loads(realtime(other, "rooms", "open:s*", "--json").stdout) == {"open:shell": {"num_clients": 1}}
    assert "ana" in realtime(other, "presence", "open:shell").stdout
    assert '{"text": "hello"}' in realtime(other, "history", "open:shell").stdout
    assert realtime(other, "disconnect", "ana").returncode == 0
    assert (await client.wait_closed())[0] == 3503
    wrong = realtime(one, "publish", "nowhere", "1")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"realtime: publish: {UNDECLARED}")
    assert "open:{name}" in wrong.stderr
    assert wrong.stderr.endswith(" (102)\n")
    wrong = realtime(one, "publish", "open:*", "1")
    assert wrong.returncode == 1
    assert "room 'open:*' is a pattern, and no room: name one room, such as chat:lobby (107)\n" in wrong.stderr
    for command, room, option in (("presence", "news:x", "presence=True"), ("history", "plain:x", "history=N")):
        wrong = realtime(one, command, room)
        says = f"room '{room}' keeps no {command}: declare it with {option} (108)\n"
        assert (wrong.returncode, wrong.stderr) == (1, f"realtime: {command}: not available: {says}")
    assert "does not take this key" in realtime(one, "rooms", key="x" * 16).stderr
    assert realtime(one, "rooms", key="").returncode == 2
    assert "does not answer" in realtime(one, "rooms", "--url", "http://127.0.0.1:1").stderr


def test_tail(servers: list[RunningServer]) -> None:
    env = {**os.environ, "REALTIME_URL": f"http://127.0.0.1:{servers[0].port}", "REALTIME_API_KEY": KEY}
    command = [sys.executable, "-u", "-m", "realtime", "tail", "open:tailed"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "open:tailed" not in call(servers[1], "channels", pattern="open:tailed")["channels"]:
                pass
            assert call(servers[1], "presence_stats", channel="open:tailed")["num_clients"] == 0, "nobody sees it"
            call(servers[1], "publish", channel="open:tailed", data="hello")
            assert process.stdout.readline().endswith(' "hello"\n')
        finally:
            process.terminate()


@run_async
async def test_members_of_a_room_that_a_program_followed_first_are_seen_to_come_and_to_go(
    servers: list[RunningServer],
) -> None:
    env = {**os.environ, "REALTIME_URL": f"http://127.0.0.1:{servers[0].port}", "REALTIME_API_KEY": KEY}
    command = [sys.executable, "-u", "-m", "realtime", "tail", "open:followed"]
    following = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    try:
        await until(lambda: "open:followed" in call(servers[0], "channels", pattern="open:followed")["channels"])
        client = await join(servers[0])  # from the same address: on the same worker
        await client.ask("subscribe", channel="open:followed")
        assert call(servers[0], "presence_stats", channel="open:followed")["num_clients"] == 1
        await client.close()
        await until(lambda: not call(servers[0], "presence_stats", channel="open:followed")["num_clients"])
    finally:
        following.terminate()
        await following.wait()
