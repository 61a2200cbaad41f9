"""
What a declaration of rooms says of its members: how often they may publish, what each of them gets, and what is kept
for whoever reads too slowly. Real clients on one worker.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import msgspec
import pytest

from realtime import App, Connection
from realtime.transport.acknowledged import NOTSENT_MAX
from realtime.transport.websocket_endpoint import WebSocketLimits
from realtime.transport.websocket_flow import HIGH_WATER
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.one_worker import OneWorker, until


async def publishes(client: Any, count: int, room: str) -> list[int]:
    """Publish so often, and return the code of each answer; 0 for success."""
    found = []
    for number in range(count):
        try:
            await client.ask("publish", channel=room, data=number)
            found.append(0)
        except Refused as refused:
            found.append(refused.code)
    return found


@run_async
async def test_each_connection_may_publish_as_often_as_the_room_says(caplog: pytest.LogCaptureFixture) -> None:
    app = App()
    app.room("r", open=True, rate="3/h")
    app.room("free", open=True)
    async with OneWorker(app) as worker:
        one, other = await worker.join(user="ana"), await worker.join(user="ana")
        for client in (one, other):
            for room in ("r", "free"):
                await client.ask("subscribe", channel=room)
        with caplog.at_level(logging.WARNING):
            assert await publishes(one, 6, "r") == [0, 0, 0, 111, 111, 111]
        assert await publishes(other, 3, "r") == [0, 0, 0]
        assert await publishes(one, 9, "free") == [0] * 9
        assert worker.registry.statistics()["overruns"] == {"rate": 3}
        [line] = [each.getMessage() for each in caplog.records]
        assert f"connection={one.connected['client']} " in line
        assert "user=ana " in line
        assert "r: more than 3 in 3600 s of this connection" in line


@run_async
async def test_a_user_has_one_rate_with_all_connections_and_so_has_an_address_without_a_user() -> None:
    app = App()
    app.room("r", open=True, user_rate="3/h")
    async with OneWorker(app) as worker:
        clients = [
            await worker.join(**fields) for fields in ({"user": "ana"}, {"user": "ana"}, {"user": "ben"}, {}, {})
        ]
        for client in clients:
            await client.ask("subscribe", channel="r")
        assert await publishes(clients[0], 2, "r") == [0, 0]
        assert await publishes(clients[1], 2, "r") == [0, 111]
        assert await publishes(clients[2], 3, "r") == [0, 0, 0]
        assert await publishes(clients[3], 3, "r") == [0, 0, 0]
        assert await publishes(clients[4], 1, "r") == [111]


@run_async
async def test_a_room_has_a_rate_for_all_and_a_server_has_none() -> None:
    app = App()
    app.room("r", open=True, room_rate="3/h")
    async with OneWorker(app) as worker:
        one, other = await worker.join(user="ana"), await worker.join(user="ben")
        for client in (one, other):
            await client.ask("subscribe", channel="r")
        assert await publishes(one, 2, "r") == [0, 0]
        assert await publishes(other, 2, "r") == [0, 111]
        await app.room("r").publish("from the server")
        while (await one.push("pub"))["pub"]["data"] != "from the server":
            pass


@run_async
async def test_too_many_commands_are_refused_and_what_has_no_answer_ends_the_connection() -> None:
    app = App()
    app.room("r", open=True)
    messages = []

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        messages.append(data)

    async with OneWorker(app, commands_per_second=1, rooms_per_connection=3) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="r")
        codes = await publishes(client, 6, "r")
        assert codes[:3] == [0, 0, 0], "one for each room at once, and one for the second"
        assert set(codes[4:]) == {111}
        await client.send_raw('{"send":{"data":1}}')
        assert await client.wait_closed() == (3013, "too many requests")
        assert messages == []
        assert worker.registry.statistics()["overruns"]["commands"] >= 3


@run_async
async def test_the_application_says_what_each_member_gets() -> None:
    app = App()

    @app.room("news:{topic}", history=10)
    class News:
        async def on_subscribe(self, conn: Connection, topic: str) -> None:
            conn.state["languages"] = ["de"] if conn.user == "ana" else ["de", "en"]

        def accepts(self, conn: Connection, tags: dict[str, str], topic: str) -> bool:
            assert topic == "sport"
            return tags["language"] in conn.state["languages"]

    async with OneWorker(app) as worker:
        ana, ben = await worker.join(user="ana"), await worker.join(user="ben")
        told = [await client.ask("subscribe", channel="news:sport") for client in (ana, ben)]
        for number, language in enumerate(["de", "en", "de", "no"]):
            await app.room("news:sport").publish(number, tags={"language": language})
        await app.room("news:sport").publish("end", tags={"language": "de"})

        async def got(client: Any) -> list[Any]:
            found: list[Any] = []
            while not found or found[-1] != "end":
                found.append((await client.push("pub"))["pub"]["data"])
            return found

        assert await got(ana) == [0, 2, "end"]
        assert await got(ben) == [0, 1, 2, "end"]
        again = await worker.join(user="ana")
        back = await again.ask(
            "subscribe", channel="news:sport", recover=True, epoch=told[0]["epoch"], offset=told[0].get("offset", 0)
        )
        assert [each["data"] for each in back["publications"]] == [0, 2, "end"], "what was missed is no other"


@run_async
async def test_an_error_in_accepts_shows_nothing_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.room("r")
    class R:
        def accepts(self, conn: Connection, tags: dict[str, str]) -> bool:
            return tags["level"] == conn.user

    async with OneWorker(app) as worker:
        ana, ben = await worker.join(user="ana"), await worker.join(user="ben")
        for client in (ana, ben):
            await client.ask("subscribe", channel="r")
        await app.room("r").publish("without the tag")
        for user in ("ana", "ben"):
            await app.room("r").publish(f"for {user}", tags={"level": user})
        assert (await ana.push("pub"))["pub"]["data"] == "for ana"
        assert (await ben.push("pub"))["pub"]["data"] == "for ben"
        assert "accepts failed room=r" in caplog.text


def test_accepts_is_a_plain_function() -> None:
    app = App()
    with pytest.raises(TypeError, match="asked for every member: it cannot be a coroutine"):

        @app.room("r")
        class R:
            async def accepts(self, conn: Connection, tags: dict[str, str]) -> bool:
                return True


@run_async
async def test_the_kernel_holds_little_while_all_rooms_conflate() -> None:
    app = App()
    app.room("prices", open=True, conflate=True)
    app.room("chat", open=True)
    async with OneWorker(app) as worker:
        client = await worker.join()
        sock = worker.session(client).transport._transport.get_extra_info("socket")

        def held() -> int:
            return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))

        await client.ask("subscribe", channel="prices")
        assert held() == NOTSENT_MAX
        await client.ask("subscribe", channel="chat")
        assert held() == 0, "what is said there piles up in the process otherwise"
        await client.ask("unsubscribe", channel="chat")
        assert held() == NOTSENT_MAX
        await client.ask("unsubscribe", channel="prices")
        assert held() == 0


@run_async
async def test_whoever_reads_too_slowly_gets_the_latest_of_each_key_and_is_not_closed() -> None:
    app = App()
    app.room("prices", open=True, conflate="symbol")
    async with OneWorker(app, sockets=WebSocketLimits(outbound_bytes=400_000), ping_s=0) as worker:
        slow, quick = await worker.join(), await worker.join()
        for client in (slow, quick):
            await client.ask("subscribe", channel="prices")
        transport = worker.session(slow).transport
        await slow.stop_reading()
        count = 0
        while transport.is_congested_since() is None or count < 200:
            symbol = "ABC"[count % 3]
            await app.room("prices").publish([symbol, count, "x" * 20_000], tags={"symbol": symbol})
            assert (await quick.push("pub"))["pub"]["data"][1] == count
            count += 1
        for _ in range(50):
            symbol = "ABC"[count % 3]
            await app.room("prices").publish([symbol, count, "x" * 20_000], tags={"symbol": symbol})
            assert (await quick.push("pub"))["pub"]["data"][1] == count
            count += 1
        # The kernel may take some at any time; then the latest of each key follows, and nothing of all the others.
        assert transport.buffered() <= HIGH_WATER + 3 * 20_100, "nothing piles up for it"
        slow.read_on()
        await until(lambda: sum("push" in each for each in slow.heard) and transport.is_congested_since() is None)
        await app.room("prices").publish(["D", count, ""], tags={"symbol": "D"})

        def numbers() -> list[int]:
            return [each["push"]["pub"]["data"][1] for each in slow.heard if "push" in each]

        await until(lambda: numbers()[-1] == count)
        got = numbers()
        assert got == sorted(set(got))
        assert got[-4:] == [count - 3, count - 2, count - 1, count], "the latest of each, in order"
        assert len(got) < count
        assert worker.endpoint.slow == 0


def acknowledged(session: Any, count: int) -> None:
    """Have the peer seem to have acknowledged so many bytes when it was looked at before."""
    session.state.liveness = msgspec.structs.replace(session.state.liveness, acknowledged=count)


@pytest.mark.parametrize("still", [True, False])
@run_async
async def test_a_pong_may_be_late_of_who_takes_something_where_nothing_piles_up(still: bool) -> None:
    app = App()
    app.room("prices", open=True, conflate=True)
    async with OneWorker(app) as worker:
        limits = worker.protocol.services.limits
        slow = await worker.join()
        await slow.ask("subscribe", channel="prices")
        slow.answers_pings = False
        session = worker.session(slow)
        worker.pass_time(limits.ping_s)
        for _ in range(5):  # the ping waits behind megabytes that the kernels hold
            worker.pass_time(limits.pong_s)
            assert session.is_open
            acknowledged(session, -1)  # as if it took something before the next look
        if still:
            acknowledged(session, 2**63)
            worker.pass_time(limits.pong_s)
            assert await slow.wait_closed() == (3012, "no pong")
        else:
            await slow.send_raw("{}")
            await until(lambda: not session.state.liveness.awaits_pong)
            worker.pass_time(limits.pong_s)
            assert session.is_open


@pytest.mark.parametrize("still", [True, False])
@run_async
async def test_time_ends_only_who_takes_nothing_where_nothing_piles_up(still: bool) -> None:
    app = App()
    app.room("prices", open=True, conflate=True)
    async with OneWorker(app, sockets=WebSocketLimits(outbound_bytes=2**40, outbound_s=0.0), ping_s=0) as worker:
        slow = await worker.join()
        await slow.ask("subscribe", channel="prices")
        transport = worker.session(slow).transport
        await slow.stop_reading()
        while transport.is_congested_since() is None:
            await app.room("prices").publish("x" * 50_000)
            await asyncio.sleep(0)  # the broker in memory never waits
        if still:
            while worker.endpoint.slow == 0:  # at first its kernel still took something
                worker.pass_time(1)
                await asyncio.sleep(0)
            slow.read_on()
            assert await slow.wait_closed() == (3008, "slow")
        else:
            transport._acknowledged -= 1  # as if it had taken something since
            worker.pass_time(1)
            assert worker.endpoint.slow == 0
            slow.read_on()
            await app.room("prices").publish("last")
            await until(lambda: any(each.get("push", {}).get("pub", {}).get("data") == "last" for each in slow.heard))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": "often"}, "is no rate"),
        ({"user_rate": "5"}, "is no rate"),
        ({"room_rate": "5/y"}, "is no rate"),
        ({"grace_s": -1.0}, "grace_s is not negative"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_told_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        App().room("r", **options)
