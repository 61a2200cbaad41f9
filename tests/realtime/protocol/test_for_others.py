"""What clients may do in a room in which they are not: nothing, unless its declaration says so (`for_others`)."""

from __future__ import annotations

from typing import Any

import pytest

from realtime import App, Connection, Reject
from tests.realtime.protocol.test_commands import refused
from tests.support.aio import run_async
from tests.support.one_worker import OneWorker

COMMANDS: dict[str, dict[str, Any]] = {
    "publish": {"data": {"n": 1}},
    "presence": {},
    "presence_stats": {},
    "history": {"limit": 10},
}
DEEDS = {"presence_stats": "presence"}


def make_app(*for_others: str) -> App:
    app = App()

    @app.room("room", presence=True, history=10, for_others=for_others)
    class Room:
        async def on_publish(self, conn: Connection, data: dict[str, Any]) -> dict[str, Any]:
            if data == {"n": 0}:
                raise Reject("not this")
            return {**data, "by": conn.user}

    return app


@pytest.mark.parametrize("for_others", [(), ("publish",), ("presence",), ("history",), tuple(COMMANDS)[:2]])
@run_async
async def test_others_may_do_what_the_room_says_and_nothing_else(for_others: tuple[str, ...]) -> None:
    async with OneWorker(make_app(*for_others)) as worker:
        member, other = await worker.join(user="ann"), await worker.join(user="bob")
        await member.ask("subscribe", channel="room")
        for command, fields in COMMANDS.items():
            if DEEDS.get(command, command) in for_others:
                await other.ask(command, channel="room", **fields)
            else:
                assert await refused(other, command, channel="room", **fields) == (103, "permission denied")
            await member.ask(command, channel="room", **fields)


@run_async
async def test_others_are_asked_about_as_members_are() -> None:
    async with OneWorker(make_app("publish", "presence", "history")) as worker:
        member, other = await worker.join(user="ann"), await worker.join(user="bob")
        await member.ask("subscribe", channel="room")
        assert await refused(other, "publish", channel="room", data={"n": 0}) == (103, "not this")
        await other.ask("publish", channel="room", data={"n": 1})
        pub = (await member.push("pub"))["pub"]
        assert (pub["data"], pub["info"]["user"]) == ({"n": 1, "by": "bob"}, "bob")
        page = await other.ask("history", channel="room", limit=10)
        assert [each["data"] for each in page["publications"]] == [{"n": 1, "by": "bob"}]
        found = await other.ask("presence", channel="room")
        assert [each["user"] for each in found["presence"].values()] == ["ann"], "and the other is no member"
        assert (await other.ask("presence_stats", channel="room"))["num_clients"] == 1


@run_async
async def test_a_rate_holds_for_others_too() -> None:
    app = App()
    app.room("slow:{name}", open=True, rate="2/100s", for_others=["publish"])
    async with OneWorker(app) as worker:
        one, two = await worker.join(), await worker.join()
        for client in (one, two):
            for _ in range(2):
                await client.ask("publish", channel="slow:a", data=1)
            assert (await refused(client, "publish", channel="slow:a", data=1))[0] == 111
            await client.ask("publish", channel="slow:b", data=1)


@pytest.mark.parametrize("command", ["presence", "presence_stats", "history"])
@run_async
async def test_what_a_room_does_not_keep_is_not_available_to_anybody(command: str) -> None:
    app = App()
    app.room("bare", open=True)
    async with OneWorker(app) as worker:
        client = await worker.join()
        assert (await refused(client, command, channel="bare"))[0] == 108
        await client.ask("subscribe", channel="bare")
        assert (await refused(client, command, channel="bare"))[0] == 108


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"for_others": ["read"]}, "'read' is none of history, presence, publish"),
        ({"for_others": "presence"}, "presence=True"),
        ({"for_others": "history"}, "history"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        App().room("room", **options)


def test_publishing_by_others_needs_somebody_who_may_publish() -> None:
    with pytest.raises(ValueError, match="on_publish"):

        @App().room("room", for_others="publish")
        class Room:
            pass
