"""The applications of the guide do what their pages say: each is served in this process, and clients try it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from realtime.errors import ClientError, Disconnect
from realtime.testing import TestServer
from tests.docs.pages import DOCS
from tests.docs.test_pages import application


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def guide(page: str) -> dict[str, Any]:
    return application(DOCS / "guide" / page)


def test_the_first_application_refuses_a_message_without_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "public").mkdir()
    monkeypatch.chdir(tmp_path)

    async def check() -> None:
        async with TestServer(guide("first-app.md")["app"]) as server:
            alice = await server.connect()
            assert alice.connected["data"]["you"].startswith("guest-")
            await alice.subscribe("chat:lobby")
            with pytest.raises(ClientError, match="a message needs a text"):
                await alice.publish("chat:lobby", {})
            await alice.publish("chat:lobby", {"text": "hello"})
            assert (await alice.next("pub"))["data"]["text"] == "hello"

    run(check())


def test_authentication_takes_the_user_of_a_token_and_bans_one() -> None:
    page = guide("auth.md")

    async def check() -> None:
        async with TestServer(page["app"]) as server:
            assert (await server.connect(claims={"sub": "alice"})).connected["data"] == {"you": "alice"}
            assert (await server.connect()).connected["data"]["you"].startswith("guest-")
            with pytest.raises(Disconnect, match="banned"):
                await server.connect(claims={"sub": "mallory"})
            with pytest.raises(ClientError) as refused:
                await server.connect(data={"name": "x" * 33})
            assert refused.value.code == 400

    run(check())
    assert len(page["token_for"]("alice", "s" * 32).split(".")) == 3


def test_authentication_takes_the_user_of_a_cookie() -> None:
    async def check() -> None:
        async with TestServer(guide("auth.md")["site"]) as server:
            await server.connect(headers={"cookie": "a=b; sessionid=s3cr3t"})
            with pytest.raises(ClientError, match="log in first"):
                await server.connect(headers={"cookie": "sessionid=guess"})

    run(check())


def test_rooms_admit_and_drop_and_validate() -> None:
    page = guide("rooms.md")

    async def check() -> None:
        async with TestServer(page["app"]) as server:
            alice = await server.connect(claims={"sub": "alice"})
            staff = await server.connect(claims={"sub": "boss", "roles": ["staff"]})
            with pytest.raises(ClientError) as refused:
                await alice.subscribe("chat:staff")
            assert refused.value.code == 103
            await staff.subscribe("chat:staff")
            with pytest.raises(ClientError) as unknown:
                await alice.subscribe("nothing:here")
            assert unknown.value.code == 102
            await alice.subscribe("chat:lobby")
            await alice.publish("chat:lobby", {"text": "  "})  # dropped, and no error
            await page["announce"]("open")
            assert (await alice.next("pub"))["data"] == {"text": "open", "from": "system"}
            await alice.subscribe("notes:a")
            with pytest.raises(ClientError) as wrong:
                await alice.publish("notes:a", {"text": 1})
            assert (wrong.value.code, wrong.value.message) == (
                107,
                "bad request: Expected `str`, got `int` - at `$.text`",
            )
            await alice.publish("board:a", {"note": "from outside"})
            assert len(await alice.history("board:a")) == 1

    run(check())


def test_presence_tells_members_and_counts_users(capsys: pytest.CaptureFixture[str]) -> None:
    page = guide("presence.md")

    async def check() -> None:
        async with TestServer(page["app"]) as server:
            watcher = await server.connect(data={"user": "watcher"})
            await watcher.subscribe("chat:lobby", join_leave=True)
            alice = await server.connect(data={"user": "alice"})
            await alice.subscribe("chat:lobby")
            while (await watcher.next("join"))["info"]["user"] != "alice":
                pass
            assert len(await watcher.presence("chat:lobby")) == 2
            await page["count"]()
            await alice.unsubscribe("chat:lobby")
            assert (await watcher.next("leave"))["info"]["user"] == "alice"

    run(check())
    assert "alice left lobby" in capsys.readouterr().out


def test_history_gives_a_returning_client_what_it_missed() -> None:
    page = guide("history.md")

    async def check() -> None:
        async with TestServer(page["app"]) as server:
            alice = await server.connect()
            entered = await alice.subscribe("chat:lobby")
            await alice.publish("chat:lobby", {"text": "missed"})
            back = await server.connect()
            position = {"epoch": entered["epoch"], "offset": entered.get("offset", 0)}
            again = await back.subscribe("chat:lobby", recover=True, **position)
            assert again["recovered"]
            assert [each["data"]["text"] for each in again["publications"]] == ["missed"]
            await page["last_ten"]()

    run(check())


def test_messages_are_answered_and_threads_may_call() -> None:
    page = guide("messages.md")

    async def check() -> None:
        async with TestServer(page["app"]) as server:
            alice = await server.connect(claims={"sub": "alice"})
            assert await alice.rpc("rename", {"name": "Ann"}) == {"name": "Ann"}
            await alice.send({"x": 1})
            assert (await alice.next("message"))["data"] == {"seen": {"x": 1}}
            assert await alice.rpc("buy", {"what": "tea"}) == 1
            assert (await alice.next("message"))["data"] == {"bought": {"what": "tea"}}

    run(check())
