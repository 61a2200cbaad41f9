"""
What each command in a room and apart from rooms does, and every error that it may answer.

Through a real WebSocket to one worker in this process (Centrifuge client protocol, sections 4, 6 and 7). Whatever is
to come before something else is compared by its order in `Client.heard`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from realtime import App, Connection, Reject
from realtime.auth.tokens import sign
from realtime.broker.base import WorkerId
from realtime.broker.memory import MemoryBroker
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import SECRET, Client, OneWorker, until


def make_app() -> App:
    """Return an application with a room of each kind."""
    app = App()
    app.room("open", open=True)
    app.room("kept", open=True, history=5, presence=True)
    app.room("quiet", open=True, history=5, recover=False)
    app.room("hidden", open=True, presence=True, join_leave=False)
    app.room("$private:{name}", open=True, presence=True)
    app.room("many:{name}", open=True)

    @app.room("read")
    class Read:
        pass

    return app


async def refused(client: Client, method: str, **fields: Any) -> tuple[int, str]:
    """Send a command that is answered by an error; return its code and text."""
    with pytest.raises(Refused) as refusal:
        await client.ask(method, **fields)
    return refusal.value.code, refusal.value.message


def pushes(client: Client, kind: str) -> list[Any]:
    """Return every push of a kind that a client heard so far."""
    return [reply["push"][kind] for reply in client.heard if kind in reply.get("push", ())]


# Subscribe


@run_async
async def test_what_a_client_is_told_of_a_room() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        assert await client.ask("subscribe", channel="open") == {}
        assert await client.ask("subscribe", channel="quiet") == {}
        told = await client.ask("subscribe", channel="kept")
        epoch = told.pop("epoch")
        assert epoch
        assert told == {"recoverable": True, "positioned": True}, "an offset of 0 is left out"
        await client.ask("publish", channel="kept", data=1)
        told = await (await worker.join()).ask("subscribe", channel="kept")
        assert told == {"recoverable": True, "positioned": True, "epoch": epoch, "offset": 1}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"channel": "nowhere"}, (102, "unknown channel")),
        ({"channel": "open" + "x" * 300}, (107, "bad request")),
        ({"channel": "many:" + "é" * 126}, (107, "bad request")),
        ({"channel": "many:a:b"}, (102, "unknown channel")),
        ({"channel": "many:"}, (102, "unknown channel")),
        ({"channel": "MANY:a"}, (102, "unknown channel")),
        ({"channel": "$private:a"}, (103, "permission denied")),
        *(({"channel": "open", "type": kind}, (108, "not available")) for kind in (1, 2, 3)),
        ({"channel": "open", "type": 4}, (108, "not available")),
        ({"channel": "open", "type": 99}, (108, "not available")),
        ({"channel": "open", "token": "no token"}, (103, "permission denied")),
        ({"channel": "open", "token": sign({"channel": "open"}, SECRET + "x")}, (103, "permission denied")),
        ({"channel": "open", "token": sign({"sub": ""}, SECRET)}, (103, "permission denied")),
        ({"channel": "open", "token": sign({"channel": "open", "exp": 1}, SECRET)}, (109, "token expired")),
    ],
)
@run_async
async def test_who_is_not_let_in_is_told_why_and_may_go_on(fields: dict[str, Any], error: tuple[int, str]) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        assert await refused(client, "subscribe", **fields) == error
        assert worker.session(client).connection.rooms == frozenset()
        assert await client.ask("subscribe", channel="open") == {}
        assert worker.hub.statistics()["memberships"] == 1


@run_async
async def test_a_name_of_255_bytes_is_a_name() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="many:" + "é" * 125)
        await client.ask("subscribe", channel="many:" + "x" * 250)


@run_async
async def test_a_room_is_entered_once_at_a_time() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="open")
        assert await refused(client, "subscribe", channel="open") == (105, "already subscribed")
        await client.ask("unsubscribe", channel="open")
        await client.ask("subscribe", channel="open")


@run_async
async def test_one_connection_may_be_in_so_many_rooms() -> None:
    async with OneWorker(make_app(), rooms_per_connection=2) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="many:a")
        await client.ask("subscribe", channel="many:b")
        assert await refused(client, "subscribe", channel="many:c") == (106, "limit exceeded")
        await client.ask("unsubscribe", channel="many:a")
        await client.ask("subscribe", channel="many:c")


@pytest.mark.parametrize(
    ("claims", "end"),
    [
        ({"sub": "42", "channel": "$private:b"}, (3500, "invalid token")),
        ({"sub": "43", "channel": "$private:a"}, (3500, "invalid token")),
        ({"channel": "$private:a"}, (3500, "invalid token")),
        ({"sub": "42", "channel": "$private:a", "client": "another"}, (3500, "invalid token")),
        ({"sub": "42", "channel": "$PRIVATE:a"}, (3500, "invalid token")),
    ],
)
@run_async
async def test_a_token_for_another_room_user_or_client_ends_the_connection(
    claims: dict[str, Any], end: tuple[int, str]
) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join(user="42")
        with pytest.raises(ConnectionResetError):
            await client.ask("subscribe", channel="$private:a", token=worker.token(**claims))
        assert await client.wait_closed() == end


@run_async
async def test_a_subscription_token_opens_a_private_room_and_carries_data_and_info() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join(user="42")
        token = worker.token(
            sub="42",
            channel="$private:a",
            client=client.connected["client"],
            b64info=base64.b64encode(b'{"n":\n 1}').decode(),
            data={"a": 1},
            exp=time.time() + 60,
        )
        told = await client.ask("subscribe", channel="$private:a", token=token)
        assert 58 <= told.pop("ttl") <= 60
        assert told == {"expires": True, "data": {"a": 1}}
        me = client.connected["client"]
        said = {"user": "42", "client": me, "chan_info": {"n": 1}}
        assert (await client.push("join"))["join"] == {"info": said}
        assert await client.ask("presence", channel="$private:a") == {"presence": {me: said}}
        await client.ask("publish", channel="$private:a", data=1)
        assert (await client.push("pub"))["pub"]["info"] == said


@run_async
async def test_on_subscribe_decides_and_its_answer_goes_before_the_tokens() -> None:
    app = App()
    failures: dict[str, Exception] = {
        "no": Reject(),
        "full": Reject("full", 1000, temporary=True),
        "bug": RuntimeError("a bug"),
    }

    @app.room("r:{name}", presence=True)
    class R:
        async def on_subscribe(self, conn: Connection, data: Any, name: str) -> Any:
            if name in failures:
                raise failures[name]
            return data and {"said": data, "name": name, "user": conn.user}

    async with OneWorker(app) as worker:
        client = await worker.join(user="42")
        assert await refused(client, "subscribe", channel="r:no") == (103, "permission denied")
        assert await refused(client, "subscribe", channel="r:full") == (1000, "full")
        assert await refused(client, "subscribe", channel="r:bug") == (100, "internal server error")
        assert worker.hub.statistics()["rooms"] == 0
        told = await client.ask("subscribe", channel="r:a", data=[1])
        assert told == {"data": {"said": [1], "name": "a", "user": "42"}}
        token = worker.token(sub="42", channel="r:b", data="the token's", expire_at=0)
        assert await client.ask("subscribe", channel="r:b", token=token) == {"data": "the token's"}


@run_async
async def test_the_answer_comes_before_everything_of_the_room() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join(user="42")
        await client.send_raw(
            '{"id":2,"subscribe":{"channel":"kept"}}\n{"id":3,"publish":{"channel":"kept","data":1}}\n'
            '{"id":4,"publish":{"channel":"kept","data":2}}\n{"id":5,"unsubscribe":{"channel":"kept"}}\n'
            '{"id":6,"subscribe":{"channel":"kept"}}'
        )
        heard = (await client.hear(9))[1:]
        names = [next(iter(reply.get("push", reply).keys() - {"id", "channel"})) for reply in heard]
        assert names[0] == "subscribe"
        assert names.index("subscribe") < names.index("join")
        assert [push["offset"] for push in pushes(client, "pub")] == [1, 2][: len(pushes(client, "pub"))]
        assert "pub" not in names[names.index("unsubscribe") :], "nothing of a room follows the answer to its end"


# Leaving


@run_async
async def test_who_left_hears_nothing_more_and_a_room_in_which_one_is_not_is_no_error() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        client, other = await worker.join(), await worker.join()
        for each in (client, other):
            await each.ask("subscribe", channel="open")
        assert await client.ask("unsubscribe", channel="open") == {}
        await other.ask("publish", channel="open", data=1)
        await other.push("pub")
        assert await client.ask("unsubscribe", channel="open") == {}
        assert await client.ask("unsubscribe", channel="nowhere") == {}
        assert pushes(client, "pub") == []


@run_async
async def test_on_leave_hears_of_everybody_who_was_in_whichever_way_they_go() -> None:
    app = App()
    left: list[tuple[str, str]] = []

    @app.room("r:{name}", history=5)
    class R:
        async def on_leave(self, member: Any, name: str) -> None:
            left.append((member.user, name))

    async with OneWorker(app) as worker:
        asks, goes, put_out = [await worker.join(user=user) for user in ("asks", "goes", "put out")]
        for client in (asks, goes, put_out):
            await client.ask("subscribe", channel="r:a")
        await asks.ask("unsubscribe", channel="r:a")
        await goes.close()
        await worker.session(put_out).connection.unsubscribe("r:a")
        assert (await put_out.push("unsubscribe"))["unsubscribe"] == {"code": 2000, "reason": "server unsubscribe"}
    assert sorted(left) == [("asks", "a"), ("goes", "a"), ("put out", "a")]


# Tokens of rooms that expire


def room_token(worker: OneWorker, **claims: Any) -> str:
    return worker.token(**{"sub": "42", "channel": "$private:a", **claims})


@run_async
async def test_a_subscription_ends_some_grace_after_its_token() -> None:
    async with OneWorker(make_app(), ping_s=0) as worker:
        client, other = await worker.join(user="42"), await worker.join(user="42")
        ended = time.time() - 100
        await client.ask("subscribe", channel="$private:a", token=room_token(worker, expire_at=ended))
        await other.ask("subscribe", channel="$private:a", token=room_token(worker))
        worker.pass_time(0.5)
        told = await client.push("unsubscribe")
        assert told == {"channel": "$private:a", "unsubscribe": {"code": 2501, "reason": "subscription expired"}}
        assert (await other.push("leave"))["leave"]["info"]["client"] == client.connected["client"]
        await client.ask("subscribe", channel="$private:a", token=room_token(worker))


@run_async
async def test_a_refreshed_subscription_lives_on() -> None:
    async with OneWorker(make_app(), ping_s=0) as worker:
        client = await worker.join(user="42")
        token = room_token(worker, expire_at=time.time() - 100)
        assert (await client.ask("subscribe", channel="$private:a", token=token))["ttl"] == 1
        told = await client.ask(
            "sub_refresh", channel="$private:a", token=room_token(worker, expire_at=time.time() + 300)
        )
        assert 298 <= told.pop("ttl") <= 300
        assert told == {"expires": True}
        worker.pass_time(60)
        assert await client.ask("sub_refresh", channel="$private:a", token=room_token(worker, expire_at=0)) == {}
        worker.pass_time(10**6)
        assert await client.ask("presence_stats", channel="$private:a") == {"num_clients": 1, "num_users": 1}
        assert pushes(client, "unsubscribe") == []


@pytest.mark.parametrize(
    ("claims", "answer"),
    [
        (None, (107, "bad request")),
        ({"exp": 1}, (109, "token expired")),
        ({"nbf": 10**11}, (103, "permission denied")),
        ({"channel": "$private:b"}, 3500),
        ({"sub": "43"}, 3500),
    ],
)
@run_async
async def test_a_subscription_is_refreshed_by_a_good_token_of_its_own(claims: Any, answer: Any) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join(user="42")
        await client.ask("subscribe", channel="$private:a", token=room_token(worker))
        fields = {"channel": "$private:a"} | ({} if claims is None else {"token": room_token(worker, **claims)})
        if answer == 3500:
            with pytest.raises(ConnectionResetError):
                await client.ask("sub_refresh", **fields)
            assert await client.wait_closed() == (3500, "invalid token")
        else:
            assert await refused(client, "sub_refresh", **fields) == answer
            await client.ask("presence", channel="$private:a")


@run_async
async def test_what_never_expires_is_not_refreshed() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join(user="42")
        assert await refused(client, "sub_refresh", channel="open", token="t") == (103, "permission denied")
        await client.ask("subscribe", channel="open")
        with pytest.raises(ConnectionResetError):
            await client.ask("sub_refresh", channel="open", token=worker.token(sub="42", channel="open"))
        assert await client.wait_closed() == (3501, "bad request")


# Publish


@run_async
async def test_everybody_in_the_room_gets_a_publication_the_publisher_too() -> None:
    async with OneWorker(make_app()) as worker:
        ana, bob = await worker.join(user="ana"), await worker.join(user="bob")
        for client in (ana, bob):
            await client.ask("subscribe", channel="kept")
        for number in range(3):
            assert await ana.ask("publish", channel="kept", data={"n": number}) == {}
        for client in (ana, bob):
            got = [(await client.push("pub"))["pub"] for _ in range(3)]
            assert [pub["data"] for pub in got] == [{"n": 0}, {"n": 1}, {"n": 2}]
            assert [pub["offset"] for pub in got] == [1, 2, 3]
            assert all(pub["info"] == {"user": "ana", "client": ana.connected["client"]} for pub in got)


@pytest.mark.parametrize(
    ("room", "fields", "error"),
    [
        ("open", {}, (107, "bad request")),
        ("open", {"data": 1, "type": 1, "key": "k"}, (108, "not available")),
        ("read", {"data": 1}, (103, "permission denied")),
        ("nowhere", {"data": 1}, (102, "unknown channel")),
        ("many:not in it", {"data": 1}, (103, "permission denied")),
        ("x" * 256, {"data": 1}, (107, "bad request")),
    ],
)
@run_async
async def test_a_publication_that_is_refused(room: str, fields: dict[str, Any], error: tuple[int, str]) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        for mine in ("open", "read"):
            await client.ask("subscribe", channel=mine)
        assert await refused(client, "publish", channel=room, **fields) == error
        assert pushes(client, "pub") == []
        await client.ask("publish", channel="open", data=1)


@run_async
async def test_on_publish_words_what_the_room_gets() -> None:
    app = App()

    @app.room("r:{name}")
    class R:
        async def on_publish(self, conn: Connection, data: Any, name: str) -> Any:
            if data == "no":
                raise Reject("say something else", 400)
            if data == "bug":
                raise KeyError(data)
            return None if data == "drop" else {"said": data, "in": name, "by": conn.user}

    async with OneWorker(app) as worker:
        client = await worker.join(user="42")
        await client.ask("subscribe", channel="r:a")
        assert await refused(client, "publish", channel="r:a", data="no") == (400, "say something else")
        assert await refused(client, "publish", channel="r:a", data="bug") == (100, "internal server error")
        assert await client.ask("publish", channel="r:a", data="drop") == {}
        await client.send_raw('{"id":50,"publish":{"channel":"r:a","data":1e999}}')
        await client.ask("publish", channel="r:a", data="hello")
        assert (await client.push("pub"))["pub"]["data"] == {"said": "hello", "in": "a", "by": "42"}
        (reply,) = [reply for reply in client.heard if reply.get("id") == 50]
        assert reply["error"]["code"] == 107, "a number that Python has no number for"


@run_async
async def test_a_handler_that_asks_for_a_dict_gets_nothing_else() -> None:
    app = App()

    @app.room("r")
    class R:
        async def on_publish(self, conn: Connection, data: dict[str, Any]) -> Any:
            return data

    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="r")
        for data in ([], "x", None, 1):
            code, told = await refused(client, "publish", channel="r", data=data)
            assert (code, told.split(":")[0]) == (107, "bad request")
        await client.ask("publish", channel="r", data={})


# Presence


@run_async
async def test_who_is_in_a_room() -> None:
    app = make_app()

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> None:
        conn.info = data

    async with OneWorker(app) as worker:
        first, second = await worker.join(user="42", data={"name": "Ana"}), await worker.join(user="42")
        nobody = await worker.join()
        for client in (first, second, nobody):
            await client.ask("subscribe", channel="hidden")
        ids = [client.connected["client"] for client in (first, second, nobody)]
        assert await nobody.ask("presence", channel="hidden") == {
            "presence": {
                ids[0]: {"user": "42", "client": ids[0], "conn_info": {"name": "Ana"}},
                ids[1]: {"user": "42", "client": ids[1]},
                ids[2]: {"user": "", "client": ids[2]},
            }
        }
        assert await nobody.ask("presence_stats", channel="hidden") == {"num_clients": 3, "num_users": 2}
        await second.ask("unsubscribe", channel="hidden")
        await first.close()
        while (await nobody.ask("presence_stats", channel="hidden"))["num_clients"] > 1:
            pass  # what follows a departure comes on the side
        assert list((await nobody.ask("presence", channel="hidden"))["presence"]) == [ids[2]]
        assert pushes(nobody, "join") == pushes(nobody, "leave") == [], "this room does not announce them"


@pytest.mark.parametrize("method", ["presence", "presence_stats", "history"])
@run_async
async def test_what_a_room_does_not_keep_is_not_available_and_others_are_not_asked(method: str) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="open")
        assert await refused(client, method, channel="open") == (108, "not available")
        assert await refused(client, method, channel="kept") == (103, "permission denied")
        assert await refused(client, method, channel="nowhere") == (102, "unknown channel")
        assert await refused(client, method, channel="x" * 256) == (107, "bad request")


@run_async
async def test_joins_and_leaves_are_told_to_all_and_to_the_one_who_joined() -> None:
    async with OneWorker(make_app()) as worker:
        ana, bob = await worker.join(user="ana"), await worker.join(user="bob")
        said = {client: {"user": user, "client": client.connected["client"]} for client, user in
                ((ana, "ana"), (bob, "bob"))}  # fmt: skip
        await ana.ask("subscribe", channel="kept")
        assert await ana.push("join") == {"channel": "kept", "join": {"info": said[ana]}}
        await bob.ask("subscribe", channel="kept")
        for client in (ana, bob):
            assert await client.push("join") == {"channel": "kept", "join": {"info": said[bob]}}
        await bob.ask("unsubscribe", channel="kept")
        assert await ana.push("leave") == {"channel": "kept", "leave": {"info": said[bob]}}
        await bob.ask("subscribe", channel="kept")
        bob.abort()
        assert await ana.push("leave") == {"channel": "kept", "leave": {"info": said[bob]}}
        assert pushes(bob, "leave") == []


# History


async def told_history(client: Client, **fields: Any) -> tuple[list[int], int]:
    """Return the offsets that history tells, and that of the top."""
    result = await client.ask("history", channel="kept", **fields)
    assert result.keys() == {"publications", "epoch", "offset"}
    assert all(pub["data"] == pub["offset"] for pub in result["publications"])
    return [pub["offset"] for pub in result["publications"]], result["offset"]


@run_async
async def test_a_page_of_history_is_what_was_asked_for() -> None:
    async with OneWorker(make_app(), history_page=4) as worker:
        client = await worker.join(user="42")
        await client.ask("subscribe", channel="kept")
        assert await told_history(client) == ([], 0)
        assert await told_history(client, limit=-1) == ([], 0)
        for number in range(1, 8):  # 3 to 7 are kept
            await client.ask("publish", channel="kept", data=number)
        for fields, offsets in (
            ({}, []),
            ({"limit": 2}, [3, 4]),
            ({"limit": 1000}, [3, 4, 5, 6]),
            ({"limit": -1}, [3, 4, 5, 6]),
            ({"limit": 2, "reverse": True}, [7, 6]),
            ({"limit": -1, "reverse": True}, [7, 6, 5, 4]),
            ({"limit": 2, "since": {"offset": 4}}, [5, 6]),
            ({"limit": 9, "since": {"offset": 0}}, [3, 4, 5, 6]),
            ({"limit": 9, "since": {"offset": 7}}, []),
            ({"limit": 9, "since": {"offset": 700}}, []),
            ({"limit": 9, "since": {"offset": 5}, "reverse": True}, [4, 3]),
            ({"limit": 9, "since": {"offset": 3}, "reverse": True}, []),
            ({"limit": 0, "since": {"offset": 4}}, []),
        ):
            assert await told_history(client, **fields) == (offsets, 7), fields
        page = await client.ask("history", channel="kept", limit=1)
        assert page["publications"][0]["info"] == {"user": "42", "client": client.connected["client"]}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"limit": -2}, (107, "bad request")),
        ({"limit": 1, "since": {"offset": 0}, "reverse": True}, (107, "bad request")),
        ({"limit": 1, "since": {"offset": 1, "epoch": "another"}}, (112, "unrecoverable position")),
        ({"since": {"offset": 1, "epoch": "another"}}, (112, "unrecoverable position")),
    ],
)
@run_async
async def test_history_of_a_place_that_is_none_is_refused(fields: dict[str, Any], error: tuple[int, str]) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        epoch = (await client.ask("subscribe", channel="kept"))["epoch"]
        await client.ask("publish", channel="kept", data=1)
        assert await refused(client, "history", channel="kept", **fields) == error
        result = await client.ask("history", channel="kept", limit=9, since={"offset": 0, "epoch": epoch})
        assert (len(result["publications"]), result["epoch"]) == (1, epoch)


@run_async
async def test_history_is_kept_also_where_nobody_recovers() -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        assert await client.ask("subscribe", channel="quiet", recover=True, offset=3, epoch="e") == {}
        await client.ask("publish", channel="quiet", data="x")
        assert [pub["data"] for pub in (await client.ask("history", channel="quiet", limit=9))["publications"]] == ["x"]


# Apart from rooms


@run_async
async def test_calls_and_messages() -> None:
    app = App()

    @app.rpc("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        if data == "no":
            raise Reject("no echo", 404)
        return data

    @app.rpc("bug")
    def bug() -> None:
        raise ZeroDivisionError

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        if data == "no":
            raise Reject
        await conn.send({"got": data})

    async with OneWorker(app) as worker:
        client = await worker.join()
        replies = await client.say(
            {"id": 2, "rpc": {"method": "echo", "data": {"a": [1, None]}}},
            {"id": 3, "rpc": {"method": "echo", "data": False}},
            {"id": 4, "rpc": {"method": "echo"}},
            {"id": 5, "rpc": {"method": "echo", "data": "no"}},
            {"id": 6, "rpc": {"method": "other"}},
            {"id": 7, "rpc": {}},
            {"id": 8, "rpc": {"method": "bug"}},
        )
        assert replies == [
            {"id": 2, "rpc": {"data": {"a": [1, None]}}},
            {"id": 3, "rpc": {"data": False}},
            {"id": 4, "rpc": {}},
            {"id": 5, "error": {"code": 404, "message": "no echo"}},
            {"id": 6, "error": {"code": 104, "message": "method not found"}},
            {"id": 7, "error": {"code": 104, "message": "method not found"}},
            {"id": 8, "error": {"code": 100, "message": "internal server error", "temporary": True}},
        ]
        await client.send_raw('{"send":{"data":"no"}}\n{"send":{"data":1}}\n{"id":9,"send":{"data":2}}')
        assert [(await client.push("message"))["message"]["data"] for _ in range(2)] == [{"got": 1}, {"got": 2}]
        assert all("error" not in reply for reply in client.heard[8:]), "a message has no answer, not even an error"


@run_async
async def test_without_any_method_calls_are_not_available() -> None:
    async with OneWorker(App()) as worker:
        (reply,) = await (await worker.join()).say({"id": 2, "rpc": {"method": "m"}})
        assert reply == {"id": 2, "error": {"code": 108, "message": "not available"}}


@run_async
async def test_commands_run_one_after_another_and_who_sends_too_many_waits() -> None:
    app = App()
    running: list[int] = []
    most = 0
    go_on = asyncio.Event()

    @app.rpc("slow")
    async def slow(conn: Connection, data: int) -> int:
        nonlocal most
        running.append(data)
        most = max(most, len(running))
        await go_on.wait()
        running.remove(data)
        return data

    async with OneWorker(app) as worker:
        client, other = await worker.join(), await worker.join()
        for number in range(2, 502):
            await client.send_raw(json.dumps({"id": number, "rpc": {"method": "slow", "data": number}}))
        session = worker.session(client)
        await until(lambda: len(session._queue or ()) > 64)
        assert await other.ask("unsubscribe", channel="x") == {}, "nobody else waits"
        assert len(session._queue) < 500, "what is not read yet waits in the kernel"
        go_on.set()
        replies = (await client.hear(501))[1:]
        assert [reply["id"] for reply in replies] == list(range(2, 502))
        assert most == 1


class Waiting(MemoryBroker):
    """A broker that takes publications at once, and says so only when it is let."""

    def __init__(self) -> None:
        super().__init__(WorkerId("w"))
        self.taken = 0
        self.may_answer = asyncio.Event()

    async def publish(self, *arguments: Any, **options: Any) -> Any:
        published = await super().publish(*arguments, **options)
        self.taken += 1
        await self.may_answer.wait()
        return published


@run_async
async def test_a_burst_of_publications_goes_to_the_broker_at_once_and_in_order() -> None:
    app, broker = App(), Waiting()
    app.room("r", open=True, history=100)
    async with OneWorker(app, broker=broker) as worker:
        client, other = await worker.join(), await worker.join()
        for each in (client, other):
            await each.ask("subscribe", channel="r")
        burst = [{"id": 10 + n, "publish": {"channel": "r", "data": n}} for n in range(16)]
        await client.send_raw(
            "\n".join(map(json.dumps, [*burst, {"id": 50, "history": {"channel": "r", "limit": -1}}]))
        )
        assert [(await other.push("pub"))["pub"]["data"] for _ in range(16)] == list(range(16))
        assert broker.taken == 16, "none waited for another's answer"
        assert not [each for each in client.heard if each.get("id", 0) >= 10]
        broker.may_answer.set()
        await until(lambda: client.heard[-1].get("id") == 50)
        replies = [each for each in client.heard if each.get("id", 0) >= 10]
        assert [each["id"] for each in replies] == [*range(10, 26), 50]
        assert [each["data"] for each in replies[-1]["history"]["publications"]] == list(range(16))


@run_async
async def test_a_publication_of_a_burst_that_fails_is_answered_so() -> None:
    app, broker = App(), LaggingBroker()
    app.room("r", open=True)
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="r")
        broker.away = True
        replies = await client.say(*[{"id": 10 + n, "publish": {"channel": "r", "data": n}} for n in range(5)])
        assert [(each["id"], each["error"]["code"]) for each in replies] == [(10 + n, 100) for n in range(5)]
        assert client.closed is None


# Rooms that cannot be entered now


@run_async
async def test_what_is_asked_in_a_room_that_could_not_be_entered_now_fails_for_now() -> None:
    app, broker = make_app(), LaggingBroker()

    @app.room("moody:{name}", history=5)
    class Moody:
        async def on_subscribe(self, conn: Connection, name: str) -> None:
            if name == "no":
                raise Reject
            if name == "raises":
                raise RuntimeError("a bug")

        async def on_publish(self, conn: Connection, name: str, data: Any) -> Any:
            return data

    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join(user="42")
        broker.lose_link()
        for room in ("kept", "moody:raises"):
            assert (await refused(client, "subscribe", channel=room))[0] == 100
            assert (await refused(client, "publish", channel=room, data=1))[0] == 100, "not 103: it may be in a moment"
        assert (await refused(client, "subscribe", channel="moody:no"))[0] == 103
        assert (await refused(client, "publish", channel="moody:no", data=1))[0] == 103
        broker.restore_link()
        await client.ask("subscribe", channel="kept")
        await client.ask("publish", channel="kept", data=1)
        await client.ask("unsubscribe", channel="kept")
        assert (await refused(client, "publish", channel="kept", data=1))[0] == 103, "it has left for good"
