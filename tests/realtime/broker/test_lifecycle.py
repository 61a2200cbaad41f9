"""Start and end: a start without a server, closing at any time, and the local broker's process itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import realtime.broker.local
from realtime.broker.base import ClientInfo, PublishRequest, WorkerId
from realtime.broker.factory import make_broker
from realtime.broker.framing import FRAME_MAX
from realtime.broker.local import LocalBroker
from realtime.broker.local_command import LOCAL_STOP_SIGNAL
from realtime.broker.memory import MemoryBroker
from realtime.broker.redis import RedisBroker
from realtime.errors import BrokerUnavailable, SettingsError
from tests.realtime.broker.cable import cable
from tests.realtime.broker.conftest import ROOT, LocalProcess
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Heard, Place, flushed
from tests.support.aio import eventually, run_async

ANN = ClientInfo("ann", "c1")


def test_a_url_names_a_broker() -> None:
    worker = WorkerId("a")
    assert isinstance(make_broker(None, worker_id=worker), MemoryBroker)
    assert isinstance(make_broker("memory:", worker_id=worker), MemoryBroker)
    assert isinstance(make_broker("local:/run/broker.sock", worker_id=worker), LocalBroker)
    for url in ("redis://localhost", "rediss://:secret@host:1/2", "unix:///run/redis.sock"):
        assert isinstance(make_broker(url, worker_id=worker), RedisBroker)
    for url in ("", "memory", "localhost:6379", "http://localhost", "REDIS"):
        with pytest.raises(SettingsError):
            make_broker(url, worker_id=worker)


# Start


@run_async
async def test_start_names_the_address_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.local, "START_S", 0.0)  # else it waits for a process that is starting
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))  # and no server listens there, as long as the socket is ours
    port, path = bound.getsockname()[1], tmp_path / "missing.sock"
    for url, address in (
        (f"local:{path}", f"unix:{path}"),
        (f"unix://{path}", f"unix:{path}"),
        (f"redis://user:secret@127.0.0.1:{port}", f"127.0.0.1:{port}"),
    ):
        broker, heard = make_broker(url, worker_id=WorkerId("a")), Heard()
        with pytest.raises(BrokerUnavailable) as caught:
            await broker.start(heard)
        assert caught.value.address == address
        assert str(caught.value).startswith(f"broker at {address}: ")
        assert caught.value.problem.endswith("?"), "it says what to do: to look whether it is running"
        assert "secret" not in str(caught.value)
        assert heard.events == []
        await broker.close()
    bound.close()


@run_async
async def test_start_waits_for_a_local_broker_that_is_starting(tmp_path: Path) -> None:
    process = LocalProcess(tmp_path)
    broker = make_broker(process.url, worker_id=WorkerId("a"))
    starting = asyncio.create_task(broker.start(Heard()))
    await asyncio.sleep(0)
    await asyncio.to_thread(process.start)
    await starting
    await broker.publish(PublishRequest(Place("local", process.url).room(), b"1", retention=KEPT))
    await broker.close()
    process.stop()


# Close


@run_async
async def test_closing_twice_or_unstarted_is_harmless(place: Place) -> None:
    async with place.worker() as worker:
        await worker.broker.add_member(place.room(), ANN, announce=True)
        await worker.broker.close()
        await worker.broker.close()
    await place.make("never").broker.close()


@run_async
async def test_no_event_arrives_after_close(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.publish(room, b"1")
        await flushed(worker, room)
        before = list(worker.heard.events)
        await worker.broker.add_member(room, ANN, announce=False)
        await worker.broker.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert worker.heard.events == before, "not even that the link is lost"


@run_async
async def test_a_closed_broker_does_nothing_more(shared: Place) -> None:
    room = shared.room()
    async with shared.worker() as worker:
        await worker.broker.close()
        for asked in (
            worker.broker.publish(PublishRequest(room, b"1", retention=KEPT)),
            worker.broker.subscribe(room),
            worker.broker.members(room),
        ):
            with pytest.raises(BrokerUnavailable):
                await asked


@pytest.mark.parametrize("kind", ["local", "redis"])
@run_async
async def test_closing_while_the_broker_is_away_leaves_nothing_behind(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    place = Place(kind, request.getfixturevalue(f"{kind}_url"))
    room, before = place.room(), asyncio.all_tasks()
    async with cable(place, tmp_path) as (laid, near), near.worker() as worker:
        await worker.broker.add_member(room, ANN, announce=True)
        await laid.pull_out()
        await worker.heard.until(lambda: worker.heard.how_often("link lost"))
        await worker.broker.close()
        assert asyncio.all_tasks() == before
        assert worker.heard.events == [("link lost", None)]


@pytest.mark.parametrize("kind", ["local", "redis"])
@run_async
async def test_closing_while_the_broker_does_not_answer_ends(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    place = Place(kind, request.getfixturevalue(f"{kind}_url"))
    room, before = place.room(), asyncio.all_tasks()
    async with cable(place, tmp_path) as (laid, near), near.worker() as worker:
        laid.keep_answers()
        asked = asyncio.create_task(worker.broker.members(room))
        await asyncio.sleep(0)
        await worker.broker.close()
        with pytest.raises(BrokerUnavailable):
            await asked
        await laid.pull_out()
        assert asyncio.all_tasks() == before


@run_async
async def test_a_start_that_is_cancelled_leaves_nothing_open(shared: Place) -> None:
    broker = shared.make("a").broker
    before = asyncio.all_tasks()
    for turns in range(12):
        starting = asyncio.create_task(broker.start(Heard()))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await broker.close()
        broker = shared.make("a").broker
    assert asyncio.all_tasks() == before


# What people see


@run_async
async def test_statistics_show_the_link_and_count(place: Place) -> None:
    room, kind = place.room(), "redis" if place.kind in ("fakeredis", "cluster") else place.kind
    async with place.worker() as worker:
        assert worker.broker.statistics()["kind"] == kind
        assert worker.broker.statistics()["link"] == "up"
        await worker.broker.subscribe(room)
        await worker.publish(room, b"1", b"2")
        await worker.heard.count(room, 2)
        assert worker.broker.statistics()["published"] == 2
        assert all(isinstance(value, (int, float, str, bool)) for value in worker.broker.statistics().values())
    if kind != "memory":
        assert worker.broker.statistics()["link"] == "down"


# The local broker's process


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[LocalProcess]:
    """A local broker at which whose link is cut leaves at once."""
    process = LocalProcess(tmp_path, lease_s=0.0)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that starts a local broker and holds its liveness socket, and where that broker is."""
    path = tmp_path / "broker.sock"
    broker = "import realtime.broker.local_process as s; s.PARENT_S = 0.02; s.main()"
    primary = (
        "import socket, subprocess, sys; ours, theirs = socket.socketpair(); fd = theirs.fileno();"
        " subprocess.Popen([*sys.argv[1:], '--ready-fd', str(fd)], pass_fds=[fd]).wait()"
    )
    argv = [sys.executable, "-c", primary, sys.executable, "-c", broker, "--socket", str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    yield process, path
    process.kill()
    process.wait()


def test_only_its_user_may_connect(local: LocalProcess) -> None:
    assert stat.S_IMODE(os.stat(local.path).st_mode) == 0o600


@run_async
async def test_when_the_primary_says_so_it_ends_and_takes_its_socket_away(local: LocalProcess) -> None:
    async with Place("local", local.url).worker() as worker:
        assert local.process is not None
        local.process.send_signal(signal.SIGTERM)  # a service manager's, to every process at once: not for it
        assert await worker.publish(Place("local", local.url).room(), b"1", retention=NOT_KEPT)
        local.process.send_signal(LOCAL_STOP_SIGNAL)
        assert await asyncio.to_thread(local.process.wait, 30) == 0
        assert not local.has_socket
        await worker.heard.until(lambda: worker.heard.how_often("link lost"))


@run_async
async def test_it_serves_where_one_was_killed(local: LocalProcess) -> None:
    local.kill()
    assert local.has_socket, "it had no time to take its socket away"
    local.start()
    async with Place("local", local.url).worker() as worker:
        assert await worker.publish(Place("local", local.url).room(), b"1", retention=NOT_KEPT)


def test_a_second_one_on_the_same_path_ends_and_the_first_serves_on(local: LocalProcess) -> None:
    program = "import realtime.broker.local_process as s; s.LOCK_S = 0.0; s.main()"
    argv = [sys.executable, "-c", program, "--socket", local.path]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert f'local broker not started socket={local.path} reason="another local broker serves it"' in done.stderr
    assert local.has_socket


@run_async
async def test_a_program_that_sends_garbage_harms_no_worker(local: LocalProcess) -> None:
    place = Place("local", local.url)
    async with place.worker() as worker:
        for nonsense in (
            b"GET / HTTP/1.1\r\n\r\n",
            (FRAME_MAX + 1).to_bytes(4, "big"),
            b"\x00\x00\x00\x01\xc1",
            b"\x00\x00\x00\x02\x91\x01",
            b"\x00\x00\x00\x07\x91\xa5close",
            b"\x00\x00\x00\x01\x90",
        ):
            reader, writer = await asyncio.open_unix_connection(local.path)
            writer.write(nonsense)
            writer.write_eof()
            await reader.read()
            writer.close()
        room = place.room()
        await worker.broker.subscribe(room)
        await worker.publish(room, b"1")
        await worker.heard.count(room, 1)
        assert not worker.heard.how_often("link lost")


@run_async
async def test_a_worker_that_reads_nothing_loses_its_link_and_may_return(
    impatient: LocalProcess, tmp_path: Path
) -> None:
    place, data = Place("local", impatient.url), b"x" * 1_000_000
    room, other = place.room(), place.room("other")
    async with cable(place, tmp_path) as (laid, near), place.worker("b") as b, near.worker("a") as a:
        await a.broker.subscribe(room)
        await a.broker.add_member(other, ANN, announce=True)
        await b.broker.subscribe(other)
        laid.keep_answers()
        while not b.heard.told("leave"):
            await b.publish(room, data, retention=NOT_KEPT)
        assert b.broker.statistics()["published"] >= 64, "it was given time"
        await laid.pull_out()
        await laid.plug_in()
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        await b.publish(room, b"1", retention=NOT_KEPT)
        await a.heard.until(lambda: b"1" in [each.data for each in a.heard.publications.get(room, ())])
        await flushed(b, other)
        assert [kind for kind, _ in b.heard.told("join", "leave")] == ["leave", "join"]


@run_async
async def test_it_outlives_its_primary_as_long_as_a_worker_is_there(
    orphan: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, path = orphan
    place = Place("local", f"local:{path}")
    async with place.worker() as worker:
        process.kill()
        process.wait()
        await worker.publish(place.room(), *[b"1"] * 500)
        assert not worker.heard.how_often("link lost")

    async def is_gone() -> bool:
        return not await asyncio.to_thread(path.exists)

    await eventually(is_gone)
