"""A local broker that moves everything to a successor: state, links and lock; and one that cannot, and serves on."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from realtime.broker.base import ClientInfo, ConnectionId, RawPublication, Room, WorkerId
from realtime.broker.framing import frame
from realtime.broker.local_process import TAKEN
from realtime.broker.local_server import HANDOVER_VERSION
from realtime.broker.memory_parts import MembersPart, Part, StreamsPart
from realtime.broker.memory_state import MemoryState, StoredMember
from realtime.timing.rate import Rate
from tests.realtime.broker.conftest import ROOT, LocalProcess
from tests.realtime.broker.workers import KEPT, Place
from tests.support.aio import run_async

ANN, BOB = ClientInfo("ann", "c1"), ClientInfo("bob", "c2", b'{"a":1}')
ROOM = Room("chat")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProcess]:
    process = LocalProcess(tmp_path)
    process.start()
    yield process
    process.stop()


def filled(rooms: int = 1) -> MemoryState:
    state = MemoryState(10**9)
    for number in range(rooms):
        for n in range(5):
            publication = RawPublication(b"%d" % n, info=ANN, tags={"a": "b"})
            state.publish(1.0, Room(f"r{number}"), publication, KEPT, f"k{n}", 60.0)
    state.position(2.0, Room("empty"), KEPT)
    state.streams.forget_history(Room("r0"))
    state.publish(3.0, Room("r0"), RawPublication(b"x"), KEPT, None, 0.0)
    state.streams.forget(Room("empty"))
    state.add_member(ROOM, StoredMember(WorkerId("w1"), ANN, True, False))
    state.add_member(ROOM, StoredMember(WorkerId("w2"), BOB, False, True))
    state.allow(4.0, ROOM, "ann", Rate.parse("1/60s"))
    return state


def moved(state: MemoryState, limit: int | None = None) -> MemoryState:
    """Return a copy that was made of the bytes of all parts."""
    found = MemoryState(limit)
    for part in state.export():
        found.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=Part))
    return found


def test_what_has_moved_is_as_it_was() -> None:
    state = filled(rooms=1_200)
    assert [type(part) for part in state.export()].count(StreamsPart) == 3, "some hundred rooms in each"
    copy = moved(state)
    assert copy.statistics() == state.statistics(), "the same bytes are in use, too"
    for room in ("r0", "r1", "r1199", "never used"):
        for each in (state, copy):
            each.position(5.0, Room(room), KEPT)
        assert copy.history(5.0, Room(room), KEPT, None, 10, False) == state.history(
            5.0, Room(room), KEPT, None, 10, False
        )
    again = RawPublication(b"again")
    assert copy.publish(6.0, Room("r1"), again, KEPT, "k1", 60.0) == state.publish(
        6.0, Room("r1"), again, KEPT, "k1", 60.0
    ), "its key is known"
    assert copy.members(ROOM) == state.members(ROOM) == {ConnectionId("c1"): ANN, ConnectionId("c2"): BOB}
    assert copy.reap(WorkerId("w2"), WorkerId("w1")) == state.reap(WorkerId("w2"), WorkerId("w1"))
    assert not copy.allow(7.0, ROOM, "ann", Rate.parse("1/60s"))
    for each in (state, copy):
        each.sweep(10**9)
        each.reap(WorkerId("w1"), None)
    assert copy.owners() == state.owners()


def test_what_is_above_the_limit_of_the_successor_stays() -> None:
    copy = moved(filled(), limit=1_000)
    assert copy.statistics()["members"] == 2
    assert len(copy.history(5.0, Room("r0"), KEPT, None, 10, False).publications) == 1


def test_a_state_with_nothing_in_it_has_no_parts_of_anything() -> None:
    assert not any(isinstance(part, StreamsPart | MembersPart) for part in MemoryState().export())


def successor(
    local: LocalProcess, program: list[str] | None = None, stderr: int | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a successor. Return it and the primary's end of its liveness socket."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, *(program or ["-m", "realtime.broker.local_process"]), "--socket", local.path]
    argv += ["--ready-fd", str(theirs.fileno()), "--take-over"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(argv, cwd=ROOT, env=env, pass_fds=[theirs.fileno()], stderr=stderr)
    theirs.close()
    return process, ours


@run_async
async def test_workers_notice_nothing_and_history_goes_on(local: LocalProcess) -> None:
    place, room = Place("local", local.url), Room("chat")
    async with place.worker("a") as ann, place.worker("b") as bob:
        await ann.broker.subscribe(room)
        await bob.broker.subscribe(room)
        before = await ann.publish(room, b"0", b"1")
        await bob.broker.add_member(room, BOB, announce=True, quietly=False, lasting=False)
        published: list[bytes] = []
        ends = asyncio.Event()

        async def publish_on() -> None:
            for number in itertools.count(2):
                await ann.publish(room, b"%d" % number)
                published.append(b"%d" % number)
                if ends.is_set():
                    return

        publishing = asyncio.ensure_future(publish_on())
        for _ in range(3):
            old = local.process
            assert old is not None
            process, alive = successor(local)
            assert await asyncio.to_thread(alive.recv, 1), "it serves"
            assert await asyncio.to_thread(old.wait, 30) == 0
            local.adopt(process, alive)
        ends.set()
        await publishing
        count = len(published) + 2
        data = [each.data for each in await bob.heard.count(room, count)]
        assert data == [b"%d" % n for n in range(count)], "each once, in order"
        history = await bob.broker.history(room, retention=KEPT, since=before[0], limit=1000)
        assert [each.data for each in history.publications] == data[1:][-len(history.publications) :]
        assert history.top.epoch == before[0].epoch
        assert await ann.broker.members(room) == {ConnectionId("c2"): BOB}
        for worker in (ann, bob):
            assert worker.heard.told("link lost", "link restored", "gap", "leave") == []
        async with place.worker("c") as new:
            await new.publish(room, b"new")
            await bob.heard.until(lambda: bob.heard.publications[room][-1].data == b"new")


@run_async
async def test_a_successor_that_dies_before_it_has_everything_leaves_the_old_one_as_it_was(local: LocalProcess) -> None:
    place, room = Place("local", local.url), Room("chat")
    async with place.worker("a") as ann:
        await ann.broker.subscribe(room)
        await ann.publish(room, b"0")
        died = "import os, realtime.broker.local_handover as h, realtime.broker.local_process as p;"
        died += " h.TakenOver = lambda *given: os._exit(7); p.main()"
        process, alive = successor(local, ["-c", died], subprocess.PIPE)
        assert await asyncio.to_thread(process.wait, 30) == 7
        alive.close()
        process.communicate()
        await ann.publish(room, b"1")
        assert [each.data for each in await ann.heard.count(room, 2)] == [b"0", b"1"]
        async with place.worker("b") as new:
            assert await new.publish(room, b"2")
        assert ann.heard.told("link lost", "gap") == []


@run_async
async def test_a_successor_of_another_version_gets_nothing(local: LocalProcess) -> None:
    place, room = Place("local", local.url), Room("chat")
    async with place.worker("a") as ann:
        await ann.publish(room, b"0")
        program = "import realtime.broker.local_handover as h, realtime.broker.local_process as p;"
        program += f" h.HANDOVER_VERSION = {HANDOVER_VERSION + 1}; p.main()"
        process, alive = successor(local, ["-c", program], subprocess.PIPE)
        _, said = await asyncio.to_thread(process.communicate, None, 30)
        alive.close()
        assert process.returncode == 1
        assert TAKEN.encode() in said
        assert b"does not hand over" in said
        await ann.publish(room, b"1")


@run_async
async def test_a_worker_that_had_lost_its_link_is_reaped_by_the_successor(tmp_path: Path) -> None:
    local = LocalProcess(tmp_path)
    local.start()
    place, room = Place("local", local.url), Room("chat")
    try:
        async with place.worker("a") as ann:
            await ann.broker.subscribe(room)
            with socket.socket(socket.AF_UNIX) as gone:
                gone.connect(local.path)
                gone.sendall(frame(["hello", "w9"]) + frame(["add_member", room, BOB, True, False, False, False]))
                await ann.heard.until(lambda: ann.heard.how_often("join"))
            old = local.process
            assert old is not None
            lease = "import realtime.broker.local_server as s, realtime.broker.local_process as p; s.LEASE_S = 0.0"
            process, alive = successor(local, ["-c", f"{lease}; p.main()"])
            assert await asyncio.to_thread(alive.recv, 1)
            await asyncio.to_thread(old.wait, 30)
            local.adopt(process, alive)
            await ann.heard.until(lambda: ann.heard.how_often("leave"))
    finally:
        local.stop()
