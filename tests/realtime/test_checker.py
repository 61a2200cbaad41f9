"""
The checker itself: by logs written by hand, and by a server with a fault in it, under real clients. It has to find
each fault, and nothing where there is none.
"""

from __future__ import annotations

import pytest

from realtime import App
from realtime.broker.base import Room
from tests.support.aio import run_async
from tests.support.checker import Event, Kind, Wrong, check
from tests.support.faulty_broker import FAULTS, FaultyBroker
from tests.support.observers import Publisher, Watcher
from tests.support.one_worker import OneWorker

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
        ("s enter\np invoke a\np invoke b\ns receive a@1\ns receive b@1", ["reordered", "ambiguous"]),
        (
            "s enter\nt enter\np invoke a\np invoke b\ns receive a\ns receive b\nt receive b\nt receive a",
            ["reordered"],
        ),
    ],
)
def test_a_log(text: str, found: list[str]) -> None:
    events = log(text.replace("resume recovered", "resume - recovered"))
    assert [each.what for each in check(events)] == found


HOLE = "s enter\nt enter\np invoke a\nt receive a@1\np invoke b\nt receive b@2\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(f"{HOLE}s receive b@2\ns away\ns resume\ns end", ["lost"], id="then came back unrecovered"),
        pytest.param(f"{HOLE}s receive b@2\ns gap", ["lost"], id="then was told of a gap"),
        pytest.param(f"{HOLE}s receive b@2\ns leave", ["lost"], id="then left"),
        pytest.param(f"{HOLE}s receive b@2\np ack a\ns end", ["lost"], id="told once"),
        pytest.param(f"{HOLE}s away\ns resume\ns receive b@2\ns end", [], id="seen after it came back only"),
        pytest.param(f"{HOLE}s receive a@1\ns away\ns resume\ns end", [], id="the rest was on its way"),
        pytest.param(f"{HOLE}p ack a\np ack b\ns away\ns resume\ns end", [], id="all was on its way"),
        pytest.param(
            "t enter\np invoke a\ns enter\np invoke b\nt receive a@1\nt receive b@2\ns receive b@2\ns gap",
            [],
            id="published before it came",
        ),
        pytest.param(
            "t enter\ns enter\ns away\np invoke a\nt receive a@1\ns resume recovered\np invoke b\nt receive b@2\n"
            "s receive b@2\ns away\ns resume\ns end",
            ["falsely resumed"],
            id="published while it was away",
        ),
        pytest.param(
            "s enter\nt enter\np invoke a\np invoke b\nt receive a\nt receive b\ns receive b\ns gap",
            ["lost"],
            id="without offsets",
        ),
    ],
)
def test_a_hole_is_not_forgiven(text: str, found: list[str]) -> None:
    """What others got before something that this subscriber got is lost to it, whatever it is told afterwards."""
    events = log(text.replace("resume recovered", "resume - recovered"))
    assert [each.what for each in check(events)] == found


# A server with a fault

ROOMS = [f"kept:{number}" for number in range(3)]
PER_ROOM = 120


def make_app() -> App:
    app = App()
    app.room("kept:{name}", open=True, history=1000)
    return app


async def run(fault: str | None) -> list[Wrong]:
    """Publish into three rooms, with two watchers each, one of which goes away for a while; return what is wrong."""
    following = {Room(room): Room(ROOMS[(number + 1) % len(ROOMS)]) for number, room in enumerate(ROOMS)}
    events: list[Event] = []
    async with OneWorker(make_app(), broker=FaultyBroker(fault, following.__getitem__)) as worker:
        publisher = Publisher("p", ROOMS, worker.join, events)
        watchers = [Watcher(f"{room}-{name}", room, worker.join, events) for room in ROOMS for name in "ab"]
        for each in (*watchers, publisher):
            await each.enter()
        last: dict[str, str] = {}
        for step in range(PER_ROOM):
            for room in ROOMS:
                last[room] = await publisher.last(room)
            if step == PER_ROOM // 2:
                for watcher in watchers[::2]:
                    await watcher.go_away()
            if step == PER_ROOM // 2 + 10:
                for watcher in watchers[::2]:
                    await watcher.come_back()
        for watcher in watchers:
            await watcher.end(last[watcher.room], 5)  # a fault may have eaten it
    return check(events)


@run_async
async def test_a_server_without_a_fault_tells_the_truth() -> None:
    assert await run(None) == []


FOUND = {  # all that is wrong, then
    "drop": {"lost", "ambiguous", "doubled"},  # and who returns is a number behind
    "swap": {"ambiguous", "reordered"},
    "ack": {"lost", "falsely resumed"},
    "reuse": {"ambiguous", "lost", "falsely resumed"},  # live, the second is taken for a double
    "leak": {"cross-room"},
    "double": {"doubled", "ambiguous", "falsely resumed"},  # and who returns is a number ahead
    "off by one": {"doubled", "ambiguous", "falsely resumed"},
    "forget": {"falsely resumed"},
}


@pytest.mark.parametrize("fault", FOUND)
@run_async
async def test_each_fault_is_found(fault: str) -> None:
    found = {each.what for each in await run(fault)}
    assert found == FOUND[fault]


def test_every_fault_is_tried() -> None:
    assert set(FOUND) == set(FAULTS)
