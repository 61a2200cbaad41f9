"""
Who is cut off on one machine and returns on another: two real servers on one Redis, publishers on both that never stop.

Clients go back and forth, all at once or one after another, each time from another address and so to another worker.
Each gets what it missed once, in order, and before anything newer; the checker has the word, and their ledgers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.aio import run_async_for
from tests.support.checker import Event, Kind, check
from tests.support.client import ProtocolClient
from tests.support.observers import Publisher, Watcher
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

ROOMS = ["kept:0", "kept:1"]
PER_ROOM, PUBLISHERS, ROUNDS, MISSED = 4, 4, 6, 10
PATIENCE_S = 40.0
APP = """
from realtime import App

app = App()
app.room("kept:{name}", history=20_000, history_ttl_s=600, open=True)
"""


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Where clients may connect: two machines."""
    require("redis")
    app = tmp_path / "app.py"
    app.write_text(APP)
    with RedisServer() as redis:
        options = ("--commands-per-second", "0", "--redis", redis.url)
        with RunningServer(app, *options, workers=2) as one, RunningServer(app, *options, workers=2) as other:
            one.wait_until_full()
            other.wait_until_full()
            yield [one.websocket_url, other.websocket_url]


def test_who_returns_on_another_machine_gets_what_it_missed_once_and_in_order(urls: list[str]) -> None:
    go_back_and_forth(urls)


@run_async_for(120)
async def go_back_and_forth(urls: list[str]) -> None:
    events: list[Event] = []
    addresses = itertools.cycle(f"127.0.77.{number}" for number in range(1, 200))

    def make_traveller(room: str, number: int) -> Watcher:
        """Return one who comes to each machine in turn."""
        machines = itertools.cycle(urls if number % 2 else urls[::-1])
        return Watcher(f"{room}-{number}", room, lambda: ProtocolClient.join(next(machines), next(addresses)), events)

    def make_publisher(number: int) -> Publisher:
        url = urls[number % 2]
        return Publisher(f"p{number}", ROOMS, lambda: ProtocolClient.join(url, next(addresses)), events)

    publishers = [make_publisher(number) for number in range(PUBLISHERS)]
    travellers = [make_traveller(room, number) for room in ROOMS for number in range(PER_ROOM)]
    everybody: list[Publisher | Watcher] = [*travellers, *publishers]
    for each in everybody:
        await each.enter()
    for publisher in publishers:
        publisher.start()
    for number in range(ROUNDS):
        await asyncio.gather(*[each.be_cut() for each in travellers])
        away = len(events)
        await asyncio.gather(*[each.wait_for_acks(MISSED) for each in publishers])
        assert not any(event.kind is Kind.RECEIVE for event in events[away:]), "nobody is there"
        if number % 2:
            await asyncio.gather(*[each.come_back() for each in travellers])
        else:
            for traveller in travellers:
                await traveller.come_back()
    for publisher in publishers:
        await publisher.stop()
    last = {room: await publishers[0].last(room) for room in ROOMS}
    assert all([await each.end(last[each.room], PATIENCE_S) for each in travellers])
    assert [each.resumed for each in travellers] == [[True] * ROUNDS] * len(travellers), "recovered, every time"
    assert check(events) == []
    compare_ledgers(events, travellers, publishers)
    for each in everybody:
        await each.client.close()


def compare_ledgers(events: list[Event], travellers: list[Watcher], publishers: list[Publisher]) -> None:
    for room in ROOMS:
        first, *others = [ledger(events, each) for each in travellers if each.room == room]
        assert [offset for offset, _ in first] == list(range(1, len(first) + 1)), "each once, in order, and all"
        assert others == [first] * (PER_ROOM - 1), "the same everywhere"
        for publisher in publishers:
            said = [value for _, value in first if value.startswith(f"{publisher.name}-")]
            assert len(said) >= ROUNDS * MISSED // len(ROOMS)
            assert said == sorted(said, key=lambda value: int(value.rpartition("-")[2])), "each one's own order"


def ledger(events: list[Event], who: Watcher) -> list[tuple[int, str]]:
    return [(each.offset, each.value) for each in events if each.kind is Kind.RECEIVE and each.who == who.name]
