"""
A large room over several workers: whoever watches knows in the end who is there, whatever it was told and whenever it
asked, also when a worker is killed meanwhile; and somebody who leaves and comes back all the time is not told of.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import eventually, run_async
from tests.support.client import ProtocolClient
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

APP = """
from realtime import App

app = App()
app.room("hall", presence=True, open=True)
"""
FLAPS = 15


class Guest:
    """A client that asks once who is there, and follows joins and leaves from then on."""

    def __init__(self, client: ProtocolClient) -> None:
        self.client = client
        self.id: str = client.connected["client"]
        self.known: set[str] = set()
        self.pushes = 0

    @classmethod
    async def come(cls, server: RunningServer, number: int) -> Guest:
        guest = cls(await ProtocolClient.join(server.websocket_url, f"127.0.62.{number}"))
        await guest.client.ask("subscribe", channel="hall")
        guest.known = set((await guest.client.ask("presence", channel="hall"))["presence"])
        assert guest.id in guest.known
        return guest

    def read(self) -> set[str]:
        """Take in what was told."""
        while not self.client.pushes.empty():
            push: dict[str, Any] = self.client.pushes.get_nowait()
            for kind, change in (("join", self.known.add), ("leave", self.known.discard)):
                if kind in push:
                    change(push[kind]["info"]["client"])
                    self.pushes += 1
        return self.known


async def all_know(guests: list[Guest]) -> None:
    there = {guest.id for guest in guests}

    async def do_they() -> bool:
        return all(guest.read() == there for guest in guests)

    await eventually(do_they)


@pytest.mark.parametrize("kind", ["local", pytest.param("redis", marks=pytest.mark.slow)])
def test_all_know_who_is_there_and_flaps_are_not_told_of(kind: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    if kind == "local":
        _run(tmp_path)
        return
    require("redis")
    with RedisServer() as redis:
        _run(tmp_path, "--redis", redis.url)


@run_async
async def _run(tmp_path: Path, *options: str) -> None:
    with RunningServer("app.py", "--large-room", "3", "--drain", "2s", *options, workers=2, cwd=tmp_path) as server:
        server.wait_until_full()
        guests = [await Guest.come(server, number) for number in range(1, 10)]
        await all_know(guests)
        before = [guest.pushes for guest in guests]
        restless = guests[0]
        flap = [{"unsubscribe": {"channel": "hall"}}, {"subscribe": {"channel": "hall"}}] * FLAPS
        ids = range(1000, 1000 + 2 * FLAPS)
        answers = [restless.client.expect(id) for id in ids]
        await restless.client.send_raw(
            "\n".join(json.dumps({"id": id, **each}) for id, each in zip(ids, flap, strict=True))
        )
        assert not [answer for answer in await asyncio.gather(*answers) if "error" in answer]
        guests.append(await Guest.come(server, 10))
        await all_know(guests)
        for guest, count in zip(guests[1:9], before[1:], strict=True):
            assert guest.pushes - count < FLAPS, "before: two for each"

        # One worker is killed; who was there has left, and comes again as somebody else.
        async def where_all_are() -> bool:
            return sum(worker["connections"] for worker in server.status()["workers"]) == len(guests)

        await eventually(where_all_are)
        victim = server.status()["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)

        async def are_cut() -> bool:
            return sum(guest.client.closed is not None for guest in guests) == victim["connections"]

        await eventually(are_cut)
        gone = [guest for guest in guests if guest.client.closed is not None]
        stayed = [guest for guest in guests if guest not in gone]
        assert stayed, "each worker had some"
        again = [await Guest.come(server, number) for number in range(20, 20 + len(gone))]
        await all_know(stayed + again)
