"""
The mistakes that break SDKs, each with the test that fails if we make it (Centrifuge client protocol, section 16).

Tests are named by file, below tests/realtime/protocol/ unless said otherwise; those without a file are here.

    1  pings left out while data flows    test_connecting: a_client_is_pinged_on_schedule_also_while_it_is_talked_to;
                                          tests/sdk/scenarios: pings_keep_a_connection_that_has_traffic
    2  subprotocol not echoed, or unasked ../transport/test_handshake: the_first_of_our_subprotocols_that_was_offered…
    3  a reason that is JSON              ../transport/test_frames: a_reason_fits_a_close_frame_and_is_never_json;
                                          a_reason_that_is_json_reaches_no_client
    4  empty results and texts left out   test_json: zero_values_are_left_out_but_for_those_that_sdks_read, an_error…;
                                          test_protobuf: the_documents_replies;
                                          every_answer_has_its_result_or_its_error
    5  a push before its reply            test_commands: the_answer_comes_before_everything_of_the_room;
                                          test_recovering: rooms_of_a_token_and_of_on_connect_stand_in_the_answer…;
                                          what_happens_while_a_client_is_let_in_comes_after_its_answer
    6  the top as offset after a recovery test_recovering: a_client_that_returns_gets_what_it_missed_or_is_told…
    7  no buffering while history is read test_recovering: what_is_published_while_a_client_returns_comes_once…
    8  an emulation POST not forwarded    tests/process/test_streams: commands_reach_the_stream_from_wherever…,
                                          over_redis_another_machine_brings_it; tests/realtime/cluster/test_bus
    9  a late pong taken for none         test_connecting: a_late_pong_counts_and_a_second_one_does_not
    10 raw newlines, glued, empty frames  test_json: a_payload_with_raw_newlines…, no_name_of_a_room_or_a_user_breaks…;
                                          every_message_is_one_or_more_lines_each_one_object
    11 numbers sent as strings            every_number_is_a_number
    12 a disconnect for an expired token  test_connecting: an_expired_token_is_an_error_so_that_the_client_fetches…
    13 a delta that cuts a character, or  test_choosing: a_difference_that_is_longer_or_cuts_a_character_is_not_sent,
       to what the member has not         who_comes_later_begins_with_a_whole_one, a_recovery_with_deltas;
                                          ../test_fanout: a_difference_is_always_to_what_the_member_got_last
    14 late publications reach a new      test_commands: who_left_hears_nothing_more…;
       subscription of the same name      what_is_late_for_the_old_subscription_does_not_reach_the_new_one,
                                          what_waits_for_the_end_of_the_turn_does_not_follow_the_end_of_a_subscription
    15 SUBSCRIBE not acknowledged         ../broker/test_publications: nothing_is_missed_once_subscribe_returned;
                                          history_is_read_only_once_the_subscription_is_in_force
    16 no look after a lost link          test_recovering: while_the_broker_is_away_commands_fail_for_now…;
                                          a_link_that_is_back_is_followed_by_a_look_at_once
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect

from realtime import App, Connection
from realtime.auth.tokens import sign
from realtime.broker.base import ClientInfo, RawPublication, Retention, Room
from realtime.rooms.hub import COMPARE_S
from tests.support.aio import run_async
from tests.support.client import DEADLINE_S
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import SECRET, OneWorker, until

KEPT = Retention(5, 300.0)
NEVER_S = 3600.0  # between two looks at all positions: nothing is found by waiting


def make_app() -> App:
    """Return an application with a room of each kind, and methods that answer in every way."""
    app = App()
    app.room("kept", open=True, history=5, presence=True, delta=True)
    app.room("open", open=True)
    app.room("$private", open=True)

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        await conn.send(data)

    @app.rpc("nothing")
    async def nothing(conn: Connection, data: Any) -> None:
        return None

    @app.rpc("refresh")
    async def refresh(conn: Connection, data: Any) -> None:
        conn._session.refresh(time.time() + 60)  # type: ignore[attr-defined]

    return app


class Wiretap:
    """A client that keeps each message as it came."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.messages: list[str] = []

    async def say(self, *commands: dict[str, Any]) -> None:
        await self.socket.send("\n".join(map(json.dumps, commands)))

    async def hear(self, text: str) -> None:
        """Take messages until one holds `text`."""
        while not self.messages or text not in self.messages[-1]:
            self.messages.append(await asyncio.wait_for(self.socket.recv(), DEADLINE_S))


async def lively(worker: OneWorker, app: App) -> list[str]:
    """Have everything happen to one client that can, and return each message that it got."""
    room_token = sign({"sub": "ana", "channel": "$private", "exp": time.time() + 600}, SECRET)
    async with connect(worker.url, compression=None) as socket:
        tap = Wiretap(socket)
        token = worker.token(sub="ana", channels=["kept"])
        await tap.say({"id": 1, "connect": {"token": token}}, {"id": 2, "subscribe": {"channel": "open"}})
        await tap.hear('"id":2')
        tabs = [await worker.join(user=f"tab\n{number}") for number in range(5)]
        await asyncio.gather(*[tab.ask("subscribe", channel="kept") for tab in tabs])
        for number in range(3):
            await app.room("kept").publish({"text": "a\nb", "n": number})
        await asyncio.gather(*[tab.ask("unsubscribe", channel="kept") for tab in tabs])
        await tabs[0].send_raw('{"id":77,"subscribe":{"channel":"open"}}')
        await until(lambda: any(reply.get("id") == 77 for reply in tabs[0].heard))
        await tap.say(
            {"id": 3, "subscribe": {"channel": "$private", "token": room_token}},
            {"id": 4, "sub_refresh": {"channel": "$private", "token": room_token}},
            {"id": 5, "publish": {"channel": "kept", "data": 1}},
            {"id": 6, "history": {"channel": "kept", "limit": -1}},
            {"id": 7, "presence": {"channel": "kept"}},
            {"id": 8, "presence_stats": {"channel": "kept"}},
            {"id": 9, "rpc": {"method": "nothing"}},
            {"id": 10, "rpc": {"method": "none"}},
            {"id": 11, "subscribe": {"channel": "nowhere"}},
            {"id": 12, "refresh": {"token": worker.token(sub="ana", channels=["kept"])}},
            {"id": 13, "rpc": {"method": "refresh"}},
            {"send": {"data": "a\nb"}},
            {"id": 14, "unsubscribe": {"channel": "kept"}},
            {"id": 15, "subscribe": {"channel": "kept", "recover": True, "offset": 1, "delta": "fossil"}},
        )
        await tap.hear('"id":15')
        await app.room("kept").publish([1, "\n"])
        await tap.hear('"delta":')
        await app.room("kept").publish([2, "\n"])
        session = next(each for each in worker.registry if each.connection.user == "ana")
        await session.connection.unsubscribe("open")
        worker.pass_time(26)
        await tap.hear("{}")
        await tap.say({}, {"id": 16, "unsubscribe": {"channel": "open"}})
        await tap.hear('"id":16')
        return tap.messages


def objects(messages: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for message in messages for line in message.split("\n")]


@run_async
async def test_every_message_is_one_or_more_lines_each_one_object() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        messages = await lively(worker, app)
    for message in messages:
        lines = message.split("\n")
        assert all(lines), f"an empty line, or an empty message, in {message!r}"
        assert "\r" not in message
        for line in lines:
            assert isinstance(json.loads(line), dict), line
    assert any("\n" in message for message in messages), "several in one were among them"
    assert "{}" in messages, "a ping is this and nothing else"


@run_async
async def test_every_answer_has_its_result_or_its_error() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        found = objects(await lively(worker, app))
    answers = {each["id"]: each for each in found if "id" in each}
    assert sorted(answers) == list(range(1, 17))
    named = ["connect", "subscribe", "subscribe", "sub_refresh", "publish", "history", "presence", "presence_stats",
             "rpc", "error", "error", "refresh", "rpc", "unsubscribe", "subscribe", "unsubscribe"]  # fmt: skip
    for id, name in enumerate(named, 1):
        assert answers[id].keys() == {"id", name}
        assert isinstance(answers[id][name], dict), "also where there is nothing to say"
        if name == "error":
            assert answers[id][name].keys() >= {"code", "message"}
    pushes = [each["push"] for each in found if "push" in each]
    kinds = {kind: push[kind] for push in pushes for kind in push.keys() - {"channel"}}
    assert kinds.keys() == {"pub", "join", "leave", "message", "refresh", "unsubscribe"}
    assert kinds["unsubscribe"].keys() == {"code", "reason"}


NUMBERS = ("id", "offset", "ttl", "ping", "time", "code", "num_clients", "num_users")


@run_async
async def test_every_number_is_a_number() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        text = "\n".join(await lively(worker, app))
    for name in NUMBERS:
        values = re.findall(rf'"{name}":(.)', text)
        assert values, f"{name} was among them"
        assert all(value.isdigit() for value in values), name


@run_async
async def test_the_largest_numbers_are_written_as_numbers() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="open")
        worker.hub.on_publication(Room("open"), RawPublication(b"1", 2**53 - 1, "e", time_ms=2**41))
        pub = (await client.push("pub"))["pub"]
        assert (pub["offset"], pub["time"]) == (2**53 - 1, 2**41)


@pytest.mark.parametrize("reason", ["true", "{}", "3000", '"text"', "null", " [] ", '{"reconnect":false}'])
@run_async
async def test_a_reason_that_is_json_reaches_no_client(reason: str) -> None:
    async with OneWorker(make_app()) as worker:
        client = await worker.join()
        worker.session(client).connection.disconnect(4001, reason)
        code, told = await client.wait_closed()
        assert code == 4001
        with pytest.raises(json.JSONDecodeError):
            json.loads(told)


# The first word


@run_async
async def test_what_happens_while_a_client_is_let_in_comes_after_its_answer() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client, other = await worker.join(), await worker.join()
        gate = broker.hold_after("position")
        await client.send_raw('{"id":50,"subscribe":{"channel":"kept"}}')
        await gate.reached.wait()
        broker.listener.on_join(Room("kept"), ClientInfo("somebody", "c"))
        broker.listener.on_leave(Room("kept"), ClientInfo("somebody", "c"))
        broker.let_pass()
        await other.ask("subscribe", channel="kept")
        await client.push("leave")
        heard = client.heard[1:]
        assert heard[0]["id"] == 50, "the first of all"
        assert sum("join" in each.get("push", ()) for each in heard) >= 1


# Late publications


@run_async
async def test_what_is_late_for_the_old_subscription_does_not_reach_the_new_one() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client, other = await worker.join(), await worker.join()
        for each in (client, other):
            epoch = (await each.ask("subscribe", channel="kept"))["epoch"]
        await broker.publish_unheard("kept", b"1", retention=KEPT)  # in the stream, and still on its way here
        await client.ask("unsubscribe", channel="kept")
        assert (await client.ask("subscribe", channel="kept"))["offset"] == 1
        broker.listener.on_publication(Room("kept"), RawPublication(b"1", 1, epoch))
        await app.room("kept").publish(2)
        assert [(await other.push("pub"))["pub"]["offset"] for _ in range(2)] == [1, 2]
        assert (await client.push("pub"))["pub"]["offset"] == 2


@pytest.mark.parametrize("room", ["kept", "open"])
@run_async
async def test_what_waits_for_the_end_of_the_turn_does_not_follow_the_end_of_a_subscription(room: str) -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client, other = await worker.join(), await worker.join()
        for each in (client, other):
            epoch = (await each.ask("subscribe", channel=room)).get("epoch", "")
        session = worker.session(client)
        broker.listener.on_publication(Room(room), RawPublication(b"1", 1 if epoch else 0, epoch))
        await session.connection.unsubscribe(room)  # in the same turn: nothing in it waits
        await other.push("pub")
        await client.push("unsubscribe")
        await client.ask("unsubscribe", channel=room)
        assert not [reply for reply in client.heard if "pub" in reply.get("push", ())]


# The broker


@run_async
async def test_history_is_read_only_once_the_subscription_is_in_force() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker) as worker:
        client = await worker.join()
        gate = broker.hold_after("subscribe")
        entering = asyncio.create_task(client.ask("subscribe", channel="kept", recover=True))
        await gate.reached.wait()
        before = len(broker.calls)
        await broker.publish_unheard("kept", b"1", retention=KEPT)  # by another worker, and too early to be heard of
        await (await worker.join()).ask("unsubscribe", channel="x")
        assert not {"history", "position"} & set(broker.calls[before:])
        broker.let_pass()
        assert [pub["offset"] for pub in (await entering)["publications"]] == [1]


@run_async
async def test_a_link_that_is_back_is_followed_by_a_look_at_once() -> None:
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker, compare_s=NEVER_S) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="kept")
        broker.lose_link()
        await broker.publish_unheard("kept", b"1", b"2", retention=KEPT)
        broker.restore_link()
        assert [(await client.push("pub"))["pub"]["offset"] for _ in range(2)] == [1, 2]


@run_async
async def test_what_got_lost_without_a_trace_is_found_by_the_next_look() -> None:
    """No publication follows that would show the hole. A look comes often enough for what is told of gaps: 10 s."""
    assert COMPARE_S <= 8.0
    app, broker = make_app(), LaggingBroker()
    async with OneWorker(app, broker=broker, compare_s=0.01) as worker:
        client = await worker.join()
        epoch = (await client.ask("subscribe", channel="kept"))["epoch"]
        await broker.publish_unheard("kept", b"1", b"2", retention=KEPT)
        assert [(await client.push("pub"))["pub"]["offset"] for _ in range(2)] == [1, 2]
        await broker.publish_unheard("kept", *[b"%d" % n for n in range(3, 20)], retention=KEPT)
        told = await client.push("unsubscribe")
        assert told["unsubscribe"] == {"code": 2500, "reason": "insufficient state"}, "what cannot be had is told"
        back = await client.ask("subscribe", channel="kept", recover=True, epoch=epoch, offset=2)
        assert (back["offset"], back.get("recovered", False)) == (19, False)
