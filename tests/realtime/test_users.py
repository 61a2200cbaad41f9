"""One user, wherever connected: the handle that an application has of it, on one worker (several: test_api.py)."""

from __future__ import annotations

import pytest

from realtime import App
from tests.support.aio import run_async
from tests.support.one_worker import OneWorker


@run_async
async def test_a_user_is_online_where_there_is_a_connection() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        assert not await app.user("ana").is_online()
        tabs = [await worker.join(user="ana") for _ in range(2)]
        await worker.join(user="ben")
        await tabs[0].ask("subscribe", channel="r")
        places = await app.user("ana").connections()
        assert {place.client for place in places} == {tab.connected["client"] for tab in tabs}
        assert {place.rooms for place in places} == {("r",), ()}
        assert {(place.address, place.slot, place.worker, place.node) for place in places} == {
            ("127.0.0.1", 3, "w", "n")
        }


@run_async
async def test_a_user_is_brought_in_taken_out_and_disconnected() -> None:
    app = App()
    app.room("r", open=True)
    async with OneWorker(app) as worker:
        one, other, ben = [await worker.join(user=user) for user in ("ana", "ana", "ben")]
        await app.user("ana").subscribe("r")
        for tab in (one, other):
            assert (await tab.push("subscribe"))["channel"] == "r"
        await app.user("ana").unsubscribe("r", client=one.connected["client"])
        assert (await one.push("unsubscribe"))["channel"] == "r"
        await app.user("ana").disconnect(4001, "moved", client=one.connected["client"])
        assert await one.wait_closed() == (4001, "moved")
        await app.user("ana").disconnect()
        assert await other.wait_closed() == (3503, "force disconnect")
        assert await app.user("ben").is_online()
        assert ben.closed is None


@run_async
async def test_without_a_worker_nobody_can_be_asked() -> None:
    with pytest.raises(RuntimeError, match="no worker runs this application"):
        await App().user("ana").is_online()
