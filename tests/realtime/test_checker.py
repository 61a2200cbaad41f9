"""
The checker itself: by logs written by hand, and by a server with a fault in it, under real clients. It has to find
each fault, and nothing where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from typing import Any

import pytest

from realtime import App
from realtime.broker.base import Room
from tests.support.aio import run_async
from tests.support.checker import Event, Kind, Wrong, check
from tests.support.faulty_broker import FAULTS, FaultyBroker
from tests.support.one_worker import Client, OneWorker

INVOKE, ACK, ERROR = Kind.INVOKE, Kind.ACK, Kind.ERROR
ENTER, RECEIVE, GAP, AWAY, RESUME, LEAVE, END = (
    Kind.ENTER, Kind.RECEIVE, Kind.GAP, Kind.AWAY, Kind.RESUME, Kind.LEAVE, Kind.END,
)  # fmt: skip


def log(text: str) -> list[Event]:
    """Read a log: who, kind, and a value with its offset, a line each; `room/` before the value where it is not r."""
    events = []
    for line in filter(None, map(str.strip, text.splitlines())):
        who, kind, *rest = line.split()
        word, _, offset = (rest[0] if rest else "").partition("@")
        room, slash, value = word.rpartition("/")
        events.append(
            Event(Kind(kind), who, room if slash else "r", value, int(offset or 0), "e", recovered="recovered" in rest)
        )
    return events


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p invoke a\np ack a", []),
        ("s enter\np invoke a\np ack a\ns receive a@1\ns end", []),
        ("s enter\np invoke a\np ack a\ns end", ["lost"]),
        ("s enter\np invoke a\np error a\ns end", []),
        ("s enter\np invoke a\ns end", []),
        ("p invoke a\ns enter\np ack a\ns end", []),
        ("s enter\np invoke a\np ack a\ns gap\ns end", []),
        ("s enter\np invoke a\np ack a\ns gap\ns enter\np invoke b\np ack b\ns end", ["lost"]),
        ("s enter\ns leave\np invoke a\np ack a\ns end", []),
        ("s enter\ns away\np invoke a\np ack a\ns resume recovered\ns end", ["falsely resumed"]),
        ("s enter\ns away\np invoke a\np ack a\ns resume\ns end", []),
        ("s enter\ns away\np invoke a\np ack a\ns resume recovered\ns receive a@1\ns end", []),
        ("s enter\np invoke a\np ack a\ns away\ns resume recovered\ns end", ["lost"]),
        ("s enter\np invoke a\ns receive a@1\ns receive a@1\ns end", ["doubled"]),
        ("s enter\np invoke a\np invoke b\ns receive b@2\ns receive a@1\ns end", ["reordered"]),
        ("s enter\ns receive a@1\ns end", ["fabricated"]),
        ("s enter\np invoke other/a\ns receive a@1\ns end", ["cross-room"]),
        ("s enter\nt enter\np invoke a\np invoke b\ns receive a@1\nt receive b@1", ["ambiguous"]),
        (
            "s enter\nt enter\np invoke a\np invoke b\ns receive a\ns receive b\nt receive b\nt receive a",
            ["reordered"],
        ),
    ],
)
def test_a_log(text: str, found: list[str]) -> None:
    events = log(text.replace("resume recovered", "resume - recovered"))
    assert [each.what for each in check(events)] == found


# A server with a fault

ROOMS = [f"kept:{number}" for number in range(3)]
PER_ROOM = 120


class Watcher:
    """A client that writes down what it sees of one room. It does what an SDK does."""

    def __init__(self, worker: OneWorker, name: str, room: str, events: list[Event]) -> None:
        self.worker, self.name, self.room, self.events = worker, name, room, events
        self.position = ("", 0)
        self.client: Client
        self.task: asyncio.Task[None]
        self.seen: set[str] = set()
        self.grown = asyncio.Event()

    def tell(self, kind: Kind, **fields: Any) -> None:
        self.events.append(Event(kind, self.name, self.room, **fields))

    async def enter(self) -> None:
        self.client = await self.worker.join()
        told = await self.client.ask("subscribe", channel=self.room)
        self.position = (told["epoch"], told.get("offset", 0))
        self.tell(Kind.ENTER)
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        while True:
            self.take((await self.client.push("pub"))["pub"])

    def take(self, pub: dict[str, Any]) -> None:
        offset = pub.get("offset", 0)
        self.position = (self.position[0], offset or self.position[1])
        self.tell(Kind.RECEIVE, value=pub["data"], offset=offset, epoch=self.position[0])
        self.seen.add(pub["data"])
        self.grown.set()

    async def go_away(self) -> None:
        self.task.cancel()
        await self.client.close()
        self.tell(Kind.AWAY)

    async def come_back(self) -> None:
        self.client = await self.worker.join()
        epoch, offset = self.position
        told = await self.client.ask("subscribe", channel=self.room, recover=True, epoch=epoch, offset=offset)
        self.tell(Kind.RESUME, recovered=told.get("recovered", False))
        self.position = (told["epoch"], told.get("offset", 0))
        for pub in told.get("publications", []):
            self.take(pub)
        self.task = asyncio.create_task(self.read())

    async def end(self, last: str) -> None:
        """Read on until the last one is there; a fault may have eaten it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while last not in self.seen:
                    self.grown.clear()
                    await self.grown.wait()
        self.tell(Kind.END)
        self.task.cancel()


def make_app() -> App:
    app = App()
    app.room("kept:{name}", open=True, history=1000)
    return app


async def run(fault: str | None) -> list[Wrong]:
    """Publish into three rooms, with two watchers each, one of which goes away for a while; return what is wrong."""
    following = {Room(room): Room(ROOMS[(number + 1) % len(ROOMS)]) for number, room in enumerate(ROOMS)}
    events: list[Event] = []
    numbers = count()
    async with OneWorker(make_app(), broker=FaultyBroker(fault, following.__getitem__)) as worker:
        publisher = await worker.join()
        watchers = [Watcher(worker, f"{room}-{name}", room, events) for room in ROOMS for name in "ab"]
        for watcher in watchers:
            await watcher.enter()
        for room in ROOMS:
            await publisher.ask("subscribe", channel=room)
        last = {}
        for step in range(PER_ROOM):
            for room in ROOMS:
                last[room] = value = f"v{next(numbers)}"
                events.append(Event(Kind.INVOKE, "p", room, value))
                await publisher.ask("publish", channel=room, data=value)
                events.append(Event(Kind.ACK, "p", room, value))
            if step == 60:
                for watcher in watchers[::2]:
                    await watcher.go_away()
            if step == 70:
                for watcher in watchers[::2]:
                    await watcher.come_back()
        for watcher in watchers:
            await watcher.end(last[watcher.room])
    return check(events)


@run_async
async def test_a_server_without_a_fault_tells_the_truth() -> None:
    assert await run(None) == []


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("drop", {"lost"}),
        ("swap", {"ambiguous", "reordered"}),
        ("ack", {"lost"}),
        ("reuse", {"doubled", "reordered", "ambiguous", "lost"}),
        ("leak", {"cross-room"}),
        ("double", {"doubled"}),
        ("off by one", {"doubled", "falsely resumed"}),
        ("forget", {"falsely resumed"}),
    ],
)
@run_async
async def test_each_fault_is_found(fault: str, what: set[str]) -> None:
    found = {each.what for each in await run(fault)}
    assert found & what, found


def test_every_fault_is_tried() -> None:
    assert len(FAULTS) == 8
