"""
Who gets what of a room: differences, publications of certain tags, everything but one's own.

Through a real WebSocket to one worker in this process; deltas are applied by the stock SDK's own code.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from centrifuge.fossil import apply_delta

from realtime import App
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.one_worker import Client, OneWorker


def make_app() -> App:
    app = App()
    app.room("delta", open=True, history=10, delta=True)
    app.room("tagged", open=True, history=10, filters=True)
    app.room("silent", open=True, history=10, echo=False)
    app.room("plain", open=True, history=10)
    app.room("bytes", open=True, history=10, binary=True)
    return app


def text(number: int) -> dict[str, Any]:
    return {"number": number, "text": "the same in each of them, and long enough to be worth it"}


async def pubs(client: Client, count: int) -> list[dict[str, Any]]:
    return [(await client.push("pub"))["pub"] for _ in range(count)]


# Differences


def whole(found: list[dict[str, Any]], base: str = "") -> list[Any]:
    """Return what the payloads of a subscription with deltas say, as an SDK does."""
    told = []
    for pub in found:
        assert isinstance(pub["data"], str), "with deltas a payload is a string"
        base = apply_delta(base.encode(), pub["data"].encode()).decode() if pub.get("delta") else pub["data"]
        told.append(json.loads(base))
    return told


@run_async
async def test_who_asks_gets_differences_and_others_do_not() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        one, other = await worker.join(), await worker.join()
        assert (await one.ask("subscribe", channel="delta", delta="fossil"))["delta"] is True
        assert "delta" not in await other.ask("subscribe", channel="delta")
        for number in range(4):
            await app.room("delta").publish(text(number))
        found = await pubs(one, 4)
        assert [bool(pub.get("delta")) for pub in found] == [False, True, True, True], "the first is whole"
        assert whole(found) == [text(number) for number in range(4)]
        assert [pub["data"] for pub in await pubs(other, 4)] == [text(number) for number in range(4)]


@run_async
async def test_who_comes_later_begins_with_a_whole_one() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        one = await worker.join()
        await one.ask("subscribe", channel="delta", delta="fossil")
        await app.room("delta").publish(text(0))
        late = await worker.join()
        await late.ask("subscribe", channel="delta", delta="fossil")
        await app.room("delta").publish(text(1))
        await app.room("delta").publish(text(2))
        assert whole(await pubs(one, 3)) == [text(0), text(1), text(2)]
        found = await pubs(late, 2)
        assert not found[0].get("delta")
        assert whole(found) == [text(1), text(2)]


@run_async
async def test_a_recovery_with_deltas() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        epoch = (await (await worker.join()).ask("subscribe", channel="delta"))["epoch"]
        for number in range(3):
            await app.room("delta").publish(text(number))
        back = await worker.join()
        told = await back.ask("subscribe", channel="delta", delta="fossil", recover=True, epoch=epoch, offset=1)
        assert told["recovered"] is True
        assert whole(told["publications"]) == [text(1), text(2)]
        await app.room("delta").publish(text(3))
        assert whole(await pubs(back, 1)) == [text(3)]


@run_async
async def test_a_difference_that_is_longer_or_cuts_a_character_is_not_sent() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        one = await worker.join()
        await one.ask("subscribe", channel="delta", delta="fossil")
        said = ["a", "b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaä", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaö"]
        for each in said:
            await app.room("delta").publish(each)
        found = await pubs(one, 4)
        assert whole(found) == said


@run_async
async def test_deltas_where_there_are_none_are_refused_in_silence_and_others_loudly() -> None:
    async with OneWorker(make_app()) as worker:
        one = await worker.join()
        assert "delta" not in await one.ask("subscribe", channel="plain", delta="fossil")
        await one.send_raw('{"id":9,"subscribe":{"channel":"delta","delta":"zip"}}')
        assert await one.wait_closed() == (3501, "bad request")


# Tags


@run_async
async def test_a_filter_lets_through_what_was_asked_for_also_in_a_recovery() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        one = await worker.join()
        told = await one.ask("subscribe", channel="tagged", tf={"key": "team", "cmp": "eq", "val": "a"})
        for number, team in enumerate("abab"):
            await app.room("tagged").publish(number, tags={"team": team})
        await app.room("tagged").publish("none")
        await app.room("tagged").publish("last", tags={"team": "a"})
        assert [pub["data"] for pub in await pubs(one, 3)] == [0, 2, "last"]
        back = await worker.join()
        told = await back.ask(
            "subscribe",
            channel="tagged",
            recover=True,
            epoch=told["epoch"],
            offset=1,
            tf={"key": "team", "cmp": "neq", "val": "a"},
        )
        assert told["recovered"] is True
        assert [pub["data"] for pub in told["publications"]] == [1, 3, "none"]


@pytest.mark.parametrize(
    ("channel", "tf", "delta"),
    [
        ("tagged", {"key": "k", "cmp": "like"}, ""),
        ("plain", {"key": "k", "cmp": "ex"}, ""),
        ("delta", {"key": "k", "cmp": "ex"}, "fossil"),
    ],
)
@run_async
async def test_a_filter_that_cannot_be_is_refused(channel: str, tf: dict[str, Any], delta: str) -> None:
    async with OneWorker(make_app()) as worker:
        with pytest.raises(Refused) as refused:
            await (await worker.join()).ask("subscribe", channel=channel, tf=tf, delta=delta)
        assert refused.value.code == 107


# Not to oneself


@run_async
async def test_without_echo_everybody_else_gets_it() -> None:
    app = make_app()
    async with OneWorker(app) as worker:
        one, other = await worker.join(), await worker.join()
        for each in (one, other):
            await each.ask("subscribe", channel="silent")
        await one.ask("publish", channel="silent", data="from one")
        await other.ask("publish", channel="silent", data="from other")
        await app.room("silent").publish("for all")
        await app.room("silent").publish("not for one", exclude=one.connected["client"])
        assert [pub["data"] for pub in await pubs(one, 2)] == ["from other", "for all"]
        assert [pub["data"] for pub in await pubs(other, 3)] == ["from one", "for all", "not for one"]


# Any bytes


@run_async
async def test_a_room_of_bytes_is_not_for_clients_that_speak_json() -> None:
    async with OneWorker(make_app()) as worker:
        with pytest.raises(Refused) as refused:
            await (await worker.join()).ask("subscribe", channel="bytes")
        assert refused.value.code == 108
