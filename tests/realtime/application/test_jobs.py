"""Jobs that run again and again: when, on how many workers, and after a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime import App
from realtime.application.handlers import Handler
from realtime.application.jobs import Job, Jobs, Once, names_of, next_moment
from realtime.broker.base import WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.errors import BrokerUnavailable, DeclarationError
from realtime.testing import TestServer
from tests.support.aio import run_async

SHORT_S = 0.02


@pytest.mark.parametrize(
    ("now", "seconds", "last", "moment"),
    [(100.0, 30.0, None, 4), (119.9, 30.0, 3, 4), (119.9, 30.0, 4, 5), (120.0, 30.0, 4, 5), (10.0, 0.5, None, 21)],
)
def test_a_job_is_due_at_the_multiples_of_its_period_each_once(
    now: float, seconds: float, last: int | None, moment: int
) -> None:
    assert next_moment(now, seconds, last) == moment


async def run_on_workers(once: Once, nodes: list[str], runs: int, claims: Any) -> list[tuple[str, int]]:
    """Run one job on several workers until it ran so often; return which worker ran it at which moment."""
    ran: list[tuple[str, int]] = []
    enough = asyncio.Event()
    clock = 1000.0  # the moments are counted from here, at the pace of the loop
    begun = asyncio.get_running_loop().time()

    def now() -> float:
        return clock + asyncio.get_running_loop().time() - begun

    def on(worker: str) -> Job:
        async def job() -> None:
            ran.append((worker, round(now() / SHORT_S)))
            if len(ran) >= runs:
                enough.set()

        job.__qualname__ = "job"  # one job, in several workers
        return Job(Handler(job), SHORT_S, once)

    workers = [Jobs([on(f"{index} of {node}")], now=now) for index, node in enumerate(nodes)]
    for worker, node in zip(workers, nodes, strict=True):
        worker.start(claims, node)
    await enough.wait()
    for worker in workers:
        await worker.stop()
    return ran


@pytest.mark.parametrize(("once", "at_once"), [("cluster", 1), ("machine", 2), ("worker", 4)])
@run_async
async def test_as_many_workers_run_it_at_one_moment_as_it_says(once: Once, at_once: int) -> None:
    claimed: dict[str, int] = {}
    broker = MemoryBroker(WorkerId("w"))

    class Counting:
        async def allow(self, room: Any, who: str, rate: Any) -> bool:
            is_ours = await broker.allow(room, who, rate)
            claimed[who] = claimed.get(who, 0) + is_ours
            return is_ours

    ran = await run_on_workers(once, ["a", "a", "b", "b"], 12, Counting())
    if once == "worker":
        assert not claimed, "nothing has to be settled"
        assert len({worker for worker, _ in ran}) == at_once
    else:
        assert set(claimed.values()) == {1}, "each claim is won once"
        by_moment: dict[str, set[str]] = {}
        for who in claimed:
            by_moment.setdefault(who.split()[1], set()).add(who)
        *whole, _ = by_moment.values()  # the last moment was cut short
        assert {len(each) for each in whole} == {at_once}


@run_async
async def test_a_job_that_raises_is_logged_and_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    app, runs, enough = App(), [], asyncio.Event()

    @app.every(SHORT_S)
    async def sweep() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("no broom")
        enough.set()

    async with TestServer(app):
        await enough.wait()
    assert f"job failed job={sweep.__qualname__}" in caplog.text.replace('"', "")
    assert f"{__file__}, line {sweep.__code__.co_firstlineno}" in caplog.text
    assert "no broom" in caplog.text


@run_async
async def test_a_job_ends_with_its_worker() -> None:
    app, begun, ended = App(), asyncio.Event(), asyncio.Event()

    @app.every(SHORT_S, once="worker")
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with TestServer(app):
        await begun.wait()
    assert ended.is_set()


@run_async
async def test_without_the_broker_it_is_logged_once_that_a_job_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    asked, enough = [], asyncio.Event()

    class Away:
        async def allow(self, room: Any, who: str, rate: Any) -> bool:
            asked.append(who)
            if len(asked) == 3:
                enough.set()
            raise BrokerUnavailable("redis://x", "away")

    async def job() -> None:
        raise AssertionError("it does not run")

    jobs = Jobs([Job(Handler(job), SHORT_S, "cluster")])
    jobs.start(Away(), "a")
    await enough.wait()
    await jobs.stop()
    assert caplog.text.count("job not run") == 1


@run_async
async def test_jobs_whose_functions_share_a_name_all_run() -> None:
    app, ran, enough = App(), set(), asyncio.Event()
    for table in ("users", "rooms", "messages"):

        @app.every(SHORT_S)
        async def clean(table: str = table) -> None:
            ran.add(table)
            if len(ran) == 3:
                enough.set()

    async with TestServer(app):
        await enough.wait()


def test_a_job_has_the_same_name_in_every_worker() -> None:
    def clean() -> None: ...

    def sweep() -> None: ...

    clean.__qualname__, sweep.__qualname__ = "clean", "sweep"
    jobs = [Job(Handler(function), seconds, "cluster") for function, seconds in
            [(clean, 30), (clean, 0.5), (sweep, 30), (clean, 30)]]  # fmt: skip
    assert names_of(jobs) == ["clean/30s", "clean/0.5s", "sweep/30s", "clean/30s#2"]


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda app: app.every(print), "write @app.every(30), with seconds in parentheses"),
        (lambda app: app.every(0), "every: 0 seconds are no period"),
        (lambda app: app.every(5, once="always"), 'once="always" is none of cluster, machine, worker'),
        (lambda app: app.every(5)(lambda conn: None), "unsupported parameter `conn`; allowed: none"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(declare: Any, words: str) -> None:
    with pytest.raises(DeclarationError) as found:
        declare(App())
    assert words in str(found.value)
    assert __file__ in str(found.value)


@run_async
async def test_a_job_that_is_declared_too_late_is_refused() -> None:
    app = App()
    async with TestServer(app):
        with pytest.raises(DeclarationError, match="a job is declared before a worker starts"):
            app.every(5)(lambda: None)
