"""Plain functions as handlers, in real workers: what they do in their threads is done, seen by others, and ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from sticky.loop.log_lines import WORKER_HUNG
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import DEADLINE_S, RunningServer

APP = """
from realtime import App, Connection

app = App()
app.room("open:{name}", open=True, presence=True, history=10)


@app.rpc("leave")
def leave(conn: Connection) -> None:
    conn.send("goodbye")
    conn.disconnect(4600, "enough")


@app.rpc("for ever")
def publish_for_ever(conn: Connection) -> None:
    while True:
        app.room("open:a").publish("more")
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@run_async
async def test_a_connection_that_a_plain_function_ends_is_gone_for_all(app: Path) -> None:
    with RunningServer(app, workers=1) as server:
        server.wait_until_full()
        watcher, leaver = [await ProtocolClient.join(server.websocket_url) for _ in range(2)]
        for each in (watcher, leaver):
            await each.ask("subscribe", channel="open:a", join_leave=True)
        with pytest.raises(ConnectionResetError):
            await leaver.ask("rpc", method="leave")
        assert await leaver.wait_closed() == (4600, "enough")
        assert (await leaver.push("message"))["message"] == {"data": "goodbye"}
        gone = (await watcher.push("leave"))["leave"]["info"]["client"]
        assert gone == leaver.connected["client"]
        assert list((await watcher.ask("presence", channel="open:a"))["presence"]) == [watcher.connected["client"]]
        give_up_at = time.monotonic() + DEADLINE_S
        while server.status()["workers"][0]["statistics"]["sessions"] != 1:
            assert time.monotonic() < give_up_at, "its session is still there"
        await watcher.close()


@run_async
async def test_a_thread_that_goes_on_for_ever_does_not_keep_a_worker_from_ending(app: Path) -> None:
    with RunningServer(app, "--drain", "1s", workers=1) as server:
        server.wait_until_full()
        client = await ProtocolClient.join(server.websocket_url)
        await client.ask("subscribe", channel="open:a")
        client.expect(99)
        await client.send_raw('{"id":99,"rpc":{"method":"for ever"}}')
        await client.push("pub")
        assert await asyncio.to_thread(server.stop) == 0
        assert not server.log.find_all(f"killed|{WORKER_HUNG}")
