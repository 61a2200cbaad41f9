"""
What an SDK has to get over: its worker is killed, its connection cut, the servers reloaded, while others publish.

It comes back by itself, with everything that was published meanwhile: once, in order, and told as recovered. Where a
reload moves its connection, it notices nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.sdk.puppet import Puppet, SdkError, Stage
from tests.sdk.scenarios import room, token
from tests.support.aio import run_async_for
from tests.support.client import ProtocolClient
from tests.support.log_lines import exited
from tests.support.server import RunningServer

PAUSE_S = 0.02  # fifty messages a second
Cut = Callable[[RunningServer, Puppet], Awaitable[None]]


class Numbers:
    """Publishes 1, 2, 3, … through an SDK until it is stopped. What was answered was published for certain."""

    def __init__(self, puppet: Puppet, channel: str) -> None:
        self.sent: list[int] = []
        self.acknowledged: list[int] = []
        self._puppet, self._channel = puppet, channel
        self._enough = False
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while not self._enough:
            self.sent.append(len(self.sent) + 1)
            try:
                await self._puppet.do("publish", channel=self._channel, data=self.sent[-1])
            except SdkError as error:
                if error.code >= 100:
                    raise  # below are the SDK's own words for a connection that is gone
            else:
                self.acknowledged.append(self.sent[-1])
                self._grown.set()
            await asyncio.sleep(PAUSE_S)  # the load

    async def wait_for_more(self, count: int) -> None:
        """Wait until so many more were published."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted and not self._task.done():
            self._grown.clear()
            await self._grown.wait()

    async def stop(self) -> None:
        self._enough = True
        await self._task


async def kill_the_worker(server: RunningServer, puppet: Puppet) -> None:
    pid = puppet.here["pid"]
    assert pid in server.children()
    os.kill(pid, signal.SIGKILL)


async def cut_the_connection(server: RunningServer, puppet: Puppet) -> None:
    puppet.relay.cut()


async def reload(server: RunningServer, puppet: Puppet) -> None:
    """Replace every worker, and wait until that is done."""
    mark = server.log.mark()
    server.send_signal(signal.SIGHUP)
    for slot in range(4):
        await asyncio.to_thread(server.log.wait_for, exited(slot=slot), since=mark)


def wait_until_whole(server: RunningServer) -> None:
    """Wait until each slot has its worker again: whoever comes before goes elsewhere, and home later."""
    while len(server.status()["live"]) < server.status()["wanted"]:
        pass


def check_ledger(events: list[dict[str, Any]], numbers: Numbers) -> None:
    got = [each["data"] for each in events]
    assert [each["offset"] for each in events] == list(range(1, len(events) + 1)), "every offset once, in order"
    assert got == sorted(set(got)), "nothing twice, nothing out of order"
    assert set(numbers.acknowledged) <= set(got) <= set(numbers.sent), "all that was published, and nothing else"


class Moving:
    """What holds where a reload moves the connection: streams do not move."""

    stage: type[Stage]

    @run_async_for(120)
    async def test_a_client_does_not_notice_a_reload(self, server: RunningServer) -> None:
        await asyncio.to_thread(wait_until_whole, server)
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room()
            for each in (ada, bela):
                await each.subscribes(channel)
            numbers = Numbers(bela, channel)
            await numbers.wait_for_more(10)
            await reload(server, ada)
            await numbers.wait_for_more(20)
            await numbers.stop()
            assert numbers.acknowledged == numbers.sent
            for each in (ada, bela):
                await each.sees("publication", channel=channel, data=numbers.acknowledged[-1])
                check_ledger(each.all("publication", channel=channel), numbers)
                assert [len(each.all(event)) for event in ("connecting", "subscribing", "disconnected")] == [1, 1, 0]


class Recovery:
    stage: type[Stage]

    @pytest.mark.parametrize("cut", [kill_the_worker, cut_the_connection, reload])
    @run_async_for(120)
    async def test_a_client_comes_back_and_misses_nothing(self, request: pytest.FixtureRequest, cut: Cut) -> None:
        server = request.getfixturevalue("cutting_server" if cut is reload else "server")
        await asyncio.to_thread(wait_until_whole, server)
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            before, channel = ada.here, room()
            for each in (ada, bela):
                await each.subscribes(channel)
            numbers = Numbers(bela, channel)
            await numbers.wait_for_more(10)
            mark = ada.mark()
            await cut(server, ada)
            await ada.sees("connecting", since=mark)
            back = await ada.sees("subscribed", since=mark, channel=channel)
            assert (back["was_recovering"], back["recovered"]) == (True, True)
            await numbers.wait_for_more(20)
            await numbers.stop()
            for each in (ada, bela):
                await each.sees("publication", channel=channel, data=numbers.acknowledged[-1])
                check_ledger(each.all("publication", channel=channel), numbers)
                assert all(again["recovered"] for again in each.all("subscribed", channel=channel)[1:])
            assert (ada.here["pid"] == before["pid"]) == (cut is cut_the_connection)
            if cut is not kill_the_worker:  # whose clients others take until there is a new one
                assert ada.here["slot"] == before["slot"], "its address brings it to the same slot"
            if cut is not reload:
                assert numbers.acknowledged == numbers.sent
                assert len(bela.all("connecting")) == 1, "others were not touched"

    @pytest.mark.parametrize("cut", [kill_the_worker, cut_the_connection])
    @run_async_for(120)
    async def test_so_do_its_subscriptions_by_the_server(self, server: RunningServer, cut: Cut) -> None:
        await asyncio.to_thread(wait_until_whole, server)
        async with self.stage(server) as stage:
            [bela] = await stage.enter_apart("Bela")
            channel = room()
            address = await another_address(server, bela)
            ada = await stage.enters("Ada", address, token=token("ada", channels=[channel]))
            await bela.subscribes(channel)
            numbers = Numbers(bela, channel)
            await numbers.wait_for_more(10)
            mark = ada.mark()
            await cut(server, ada)
            back = await ada.sees("server_subscribed", since=mark, channel=channel)
            assert (back["was_recovering"], back["recovered"]) == (True, True)
            await numbers.wait_for_more(20)
            await numbers.stop()
            await ada.sees("server_publication", channel=channel, data=numbers.sent[-1])
            check_ledger(ada.all("server_publication", channel=channel), numbers)
            assert numbers.acknowledged == numbers.sent
            assert ada.all("server_unsubscribed") == []

    @run_async_for(120)
    async def test_who_missed_more_than_is_kept_is_told_so(self, server: RunningServer) -> None:
        await asyncio.to_thread(wait_until_whole, server)
        async with self.stage(server) as stage:
            ada, bela = await stage.enter_apart("Ada", "Bela")
            channel = room("news")
            await ada.subscribes(channel)
            await bela.calls("announce", {"room": channel, "data": 0})
            await ada.sees("publication", channel=channel)
            await ada.do("disconnect")
            for number in range(1, 21):  # twice what is kept
                await bela.calls("announce", {"room": channel, "data": number})
            mark = ada.mark()
            await ada.do("connect")
            back = await ada.sees("subscribed", since=mark, channel=channel)
            assert (back["was_recovering"], back["recovered"]) == (True, False)
            assert back["position"]["offset"] == 21
            await bela.calls("announce", {"room": channel, "data": "new"})
            await ada.sees("publication", since=mark, channel=channel)
            assert [each["data"] for each in ada.all("publication", since=mark)] == ["new"]


async def another_address(server: RunningServer, puppet: Puppet) -> str:
    """Return an address that is served by another worker than the puppet."""
    for last in range(1, 100):
        address = f"127.0.8.{last}"
        client = await ProtocolClient.join(server.websocket_url, address)
        await client.close()
        if client.connected["data"]["slot"] != puppet.here["slot"]:
            return address
    raise AssertionError("all addresses are served by one worker")
