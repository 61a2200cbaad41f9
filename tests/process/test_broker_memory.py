"""
A local broker that holds as much as it may, against a real server: who publishes is refused for a while, everybody else
is served on, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from realtime.broker.local_server import FULL, NOT_FULL
from realtime.cli.status import troubles
from tests.process.test_api import KEY, call, post
from tests.support.aio import eventually, run_async
from tests.support.client import ProtocolClient, Refused
from tests.support.server import RunningServer

APP = """
from realtime import App

app = App()
app.room("kept:{name}", history=100_000, presence=True, open=True)
app.room("steady", history=3, open=True)
app.room("live", open=True)
"""
TEXT = "x" * 20_000


@run_async
async def test_a_full_broker_refuses_publishers_for_a_while_and_serves_everybody_else(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--broker-memory", "1MiB")
    with RunningServer("app.py", *options, workers=2, cwd=tmp_path, env={"REALTIME_API_KEY": KEY}) as server:
        server.wait_until_full()
        one = await ProtocolClient.join(server.websocket_url, "127.0.61.1")
        for room in ("kept:a", "steady", "live"):
            await one.ask("subscribe", channel=room)
        for _ in range(3):
            await one.ask("publish", channel="steady", data=TEXT)
        count, refused = 0, None
        while refused is None and count < 1000:
            try:
                await one.ask("publish", channel="kept:a", data=[count, TEXT])
                count += 1
            except Refused as error:
                refused = error
        assert refused is not None, "it is never full"
        assert (refused.code, refused.temporary) == (100, True), "an SDK tries again by itself"
        assert count > 20
        server.log.wait_for(f"{FULL} limit_bytes=1048576")
        status, answer = post(server, "/api/publish", {"channel": "kept:b", "data": TEXT})
        assert (status, answer["error"]["code"]) == (200, 100)

        # Who comes reads all of it, lives, and leaves; what is not kept, or replaces what was, goes on.
        other = await ProtocolClient.join(server.websocket_url, "127.0.61.9")
        await other.ask("subscribe", channel="live")
        history = call(server, "history", channel="kept:a", limit=-1)
        assert [each["data"][0] for each in history["publications"]] == list(range(count))
        await one.ask("publish", channel="live", data=1)
        assert (await other.push("pub"))["pub"]["data"] == 1
        for _ in range(5):
            await one.ask("publish", channel="steady", data=TEXT)
        await one.ask("unsubscribe", channel="kept:a")

        async def has_left() -> bool:
            found: dict[str, Any] = call(server, "presence", channel="kept:a")["presence"]
            return not found

        await eventually(has_left)
        health = json.loads(get(server, "/health"))
        assert (health["status"], "full" in health["broker"]["refuses"]) == ("degraded", True)

        # The counter is what the broker says of itself, every few seconds.
        async def is_told() -> bool:
            return any("the local broker was full (--broker-memory)" in line for line in troubles(server.status()))

        await eventually(is_told)

        call(server, "history_remove", channel="kept:a")
        server.log.wait_for(NOT_FULL)
        await one.ask("subscribe", channel="kept:a")
        await one.ask("publish", channel="kept:a", data=TEXT)


def get(server: RunningServer, path: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as response:
        return bytes(response.read())
