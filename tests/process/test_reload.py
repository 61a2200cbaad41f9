"""
Deploys and deaths under load: nobody misses, doubles or reorders anything. Clients move, or they come back.

Two hundred clients in one room, twenty messages a second, real processes and signals. The publisher keeps an account of
what was acknowledged: that is in every ledger exactly once; what was not acknowledged is there at most once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from sticky.loop.log_lines import RELOAD_GIVEN_UP, WORKER_EXITED, WORKER_READY
from tests.support.aio import run_async_for
from tests.support.client import Follower, ProtocolClient, Refused
from tests.support.log_lines import PID, pattern
from tests.support.server import RunningServer

CLIENTS = 200
PAUSE_S = 0.05  # twenty messages a second
APP = """
from realtime import App

app = App()
app.room("load", history=5_000, history_ttl_s=600, presence=True, join_leave=False, open=True)
"""


class Publisher:
    """Publishes numbers, twenty a second, and comes back when it is cut."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.acknowledged: list[int] = []
        self.sent = 0
        self._enough = asyncio.Event()
        self._grown = asyncio.Condition()
        self._task = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while not self._enough.is_set():
            try:
                client = await ProtocolClient.join(self.url, "127.0.9.9")
                await client.ask("subscribe", channel="load")
                while not self._enough.is_set():
                    number, self.sent = self.sent, self.sent + 1
                    await client.ask("publish", channel="load", data=number)
                    async with self._grown:
                        self.acknowledged.append(number)
                        self._grown.notify_all()
                    await asyncio.sleep(PAUSE_S)  # the load that is asked for
                await client.close()
            except (ConnectionResetError, ConnectionClosed, OSError, Refused):
                await asyncio.sleep(PAUSE_S)

    async def wait_for_more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with self._grown:
            await asyncio.wait_for(self._grown.wait_for(lambda: len(self.acknowledged) >= wanted), 60)

    async def stop(self) -> None:
        self._enough.set()
        await asyncio.wait_for(self._task, 30)


async def check_ledgers(followers: list[Follower], publisher: Publisher) -> None:
    """Compare what everybody got with what was acknowledged."""
    await publisher.stop()
    await asyncio.gather(*[follower.wait_for(len(publisher.acknowledged)) for follower in followers])
    most = max(len(follower.got) for follower in followers)
    await asyncio.gather(*[follower.wait_for(most) for follower in followers])
    first = followers[0].got
    assert len(set(first)) == len(first), "nothing twice"
    assert set(publisher.acknowledged) <= set(first), "what was acknowledged is there"
    assert first == sorted(first), "in the order in which it was published"
    for follower in followers:
        await follower.stop()
        assert follower.got == first, "everybody has the same"
        assert follower.offsets == list(range(1, len(first) + 1)), "every offset once, in order"
        assert follower.unrecovered == 0, "every return was a recovery"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.mark.parametrize("migrate", ["on", "off"])
@run_async_for(180)
async def test_a_reload_under_load_refuses_nobody_and_loses_nothing(app: Path, migrate: str) -> None:
    with RunningServer(app, "--drain", "10", "--migrate", migrate, workers=4) as server:
        await asyncio.to_thread(server.wait_until_full)
        followers = [Follower(server.websocket_url, "load", f"127.0.5.{n + 1}") for n in range(CLIENTS)]
        await asyncio.gather(*[follower.subscribed.wait() for follower in followers])
        publisher = Publisher(server.websocket_url)
        await publisher.wait_for_more(20)
        mark = server.log.mark()
        server.send_signal(signal.SIGHUP)
        for _ in range(4):
            await asyncio.to_thread(server.log.wait_for, WORKER_EXITED, since=mark)
            mark = next(n for n, line in enumerate(server.log.lines) if n >= mark and WORKER_EXITED in line) + 1
        await publisher.wait_for_more(20)
        await check_ledgers(followers, publisher)
        if migrate == "off":
            assert all(follower.cuts >= 1 for follower in followers), "every worker was replaced"
        else:
            assert sum(follower.cuts for follower in followers) == 0, "every connection moved"
        assert [each for follower in followers for each in follower.refused_connects] == [], "nobody was refused"


@run_async_for(180)
async def test_a_worker_killed_under_load_costs_its_clients_a_reconnect_and_nothing_else(app: Path) -> None:
    with RunningServer(app, workers=4) as server:
        await asyncio.to_thread(server.wait_until_full)
        followers = [Follower(server.websocket_url, "load", f"127.0.5.{n + 1}") for n in range(CLIENTS)]
        await asyncio.gather(*[follower.subscribed.wait() for follower in followers])
        publisher = Publisher(server.websocket_url)
        await publisher.wait_for_more(20)
        pid = int(server.log.find_all(pattern(WORKER_READY, slot=1, pid=PID))[0][1])
        os.kill(pid, signal.SIGKILL)
        await publisher.wait_for_more(40)
        await check_ledgers(followers, publisher)
        assert any(follower.cuts for follower in followers), "somebody was on that worker"
        assert not all(follower.cuts for follower in followers), "others were not touched"


def test_a_new_version_that_does_not_boot_leaves_the_old_one_serving(app: Path) -> None:
    with RunningServer(app, workers=3) as server:
        server.wait_until_full()
        before = server.children()
        app.write_text(APP + "\nraise RuntimeError('half a deploy')\n")
        mark = server.log.mark()
        server.send_signal(signal.SIGHUP)
        server.log.wait_for(RELOAD_GIVEN_UP, since=mark)
        assert len(server.log.find_all("half a deploy")) >= 1
        assert sum("Traceback" in line for line in server.log.lines) == 1, "told once"
        assert set(before) <= set(server.children()), "the old workers are there"

        async def still_serves() -> None:
            client = await ProtocolClient.join(server.websocket_url)
            await client.ask("subscribe", channel="load")
            await client.close()

        asyncio.run(still_serves())


@run_async_for(60)
async def test_the_rooms_of_a_single_worker_outlive_it(app: Path) -> None:
    with RunningServer(app, workers=1) as server:
        follower = Follower(server.websocket_url, "load", "127.0.5.1")
        await follower.subscribed.wait()
        publisher = Publisher(server.websocket_url)
        await publisher.wait_for_more(5)
        os.kill(int(server.log.find_all(pattern(WORKER_READY, slot=0, pid=PID))[0][1]), signal.SIGKILL)
        await publisher.wait_for_more(5)
        await check_ledgers([follower], publisher)
        assert follower.cuts == 1
