"""
`@app.every` over real processes: which of them run a job, and what becomes of it when one is killed.

What a worker runs stands in its log at debug level, with the number of the moment at which the run was due. So nothing
here is measured in time: two workers that run one moment are seen however late each of them is.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.server import RunningServer

APP = """
import asyncio
from realtime import App

app = App()

@app.every(0.2, once="cluster")
async def cluster(): pass

@app.every(0.2, once="machine")
async def machine(): pass

@app.every(0.2, once="worker")
def worker(): pass

@app.every(0.3)
async def endless():
    await asyncio.Event().wait()
"""
OPTIONS = ("--log-level", "info,realtime.app=debug")
RUN = r"debug +(\d)/(\d+) .*= job run job={name}/[\d.]+s moment=(\d+)"
WORKERS = 3


def run_of(name: str) -> re.Pattern[str]:
    """Return the pattern of a run: its groups are the slot, the process and the moment."""
    return re.compile(RUN.format(name=name))


def serve(directory: Path, *options: str) -> RunningServer:
    (directory / "jobs_app.py").write_text(APP)
    return RunningServer(directory / "jobs_app.py", *OPTIONS, *options, workers=WORKERS)


def moments(servers: Sequence[RunningServer], name: str) -> Counter[str]:
    """Return how many processes of these servers ran a job at each moment."""
    return Counter(match[3] for server in servers for match in server.log.find_all(run_of(name)))


@pytest.fixture(params=["local broker", "Redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    if request.param == "local broker":
        yield ()
        return
    with RedisServer() as redis:
        yield ("--redis", redis.url)


def test_one_worker_runs_a_job_at_each_moment_and_others_take_over_from_those_that_are_killed(
    tmp_path: Path, broker: tuple[str, ...]
) -> None:
    with serve(tmp_path, *broker) as server:
        server.wait_until_full()
        killed: set[int] = set()
        for _ in range(WORKERS):
            run = server.log.wait_for(run_of("cluster"), since=server.log.mark())
            os.kill(int(run[2]), signal.SIGKILL)
            killed.add(int(run[2]))
            mark = server.log.mark()
            successor = server.log.wait_for(run_of("cluster"), since=mark)
            while int(successor[2]) in killed:  # a line that was written before the kill, and read after it
                mark += 1
                successor = server.log.wait_for(run_of("cluster"), since=mark)
        server.log.wait_for(run_of("cluster"), since=server.log.mark(), times=10)
        found = moments([server], "cluster")
        assert set(found.values()) == {1}, "no moment was run by two"


def test_every_worker_runs_a_job_of_its_own(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.wait_until_full()
        for slot in range(WORKERS):
            server.log.wait_for(RUN.replace(r"(\d)/", f"({slot})/").format(name="worker"))
        runs = Counter((match[2], match[3]) for match in server.log.find_all(run_of("worker")))
        assert set(runs.values()) == {1}


def test_a_run_that_does_not_end_leaves_the_next_ones_to_other_workers(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.wait_until_full()
        server.log.wait_for(run_of("endless"), times=WORKERS)
        slots = [match[1] for match in server.log.find_all(run_of("endless"))]
        assert sorted(slots) == ["0", "1", "2"], "each is busy with one run, and begins no other"
        assert set(moments([server], "endless").values()) == {1}


def test_of_two_machines_each_runs_a_machines_job_and_one_a_clusters(tmp_path: Path) -> None:
    with RedisServer() as redis, serve(tmp_path, "--redis", redis.url) as one:
        one.wait_until_full()
        with serve(tmp_path, "--redis", redis.url) as two:
            two.wait_until_full()
            both = (one, two)
            marks = [server.log.mark() for server in both]
            for server, mark in zip(both, marks, strict=True):
                server.log.wait_for(run_of("machine"), since=mark, times=10)
                for slot in range(WORKERS):
                    server.log.wait_for(RUN.replace(r"(\d)/", f"({slot})/").format(name="worker"), since=mark)
            assert set(moments(both, "cluster").values()) == {1}
            for server in both:
                assert set(moments([server], "machine").values()) == {1}, "one worker of a machine"
            assert 2 in moments(both, "machine").values(), "and so does one of the other, at the same moment"
            of_worker = [(match[2], match[3]) for server in both for match in server.log.find_all(run_of("worker"))]
            assert set(Counter(of_worker).values()) == {1}, "each worker once at a moment"
            two.stop(signal.SIGKILL)
        one.log.wait_for(run_of("cluster"), since=one.log.mark(), times=3)
        assert set(moments(both, "cluster").values()) == {1}
