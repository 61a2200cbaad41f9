"""
Tasks that a part of a worker owns: none is forgotten, and a fault in one is logged and ends no other.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from realtime.tasks import SideTasks
from tests.support.aio import run_async


@run_async
async def test_what_is_under_way_gets_the_patience_that_was_given_and_is_then_cancelled() -> None:
    tasks, release = SideTasks(logging.getLogger("test")), asyncio.Event()
    ended: list[str] = []

    async def work(name: str, until: asyncio.Event) -> None:
        try:
            await until.wait()
            ended.append(f"{name} done")
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise

    tasks.spawn(work("quick", release))
    tasks.spawn(work("stuck", asyncio.Event()))
    asyncio.get_running_loop().call_soon(release.set)
    await tasks.close(0.05)
    assert ended == ["quick done", "stuck cancelled"]
    assert len(tasks) == 0


def test_a_fault_is_logged_and_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    @run_async
    async def run() -> None:
        tasks, done = SideTasks(logging.getLogger("test")), asyncio.Event()

        async def fail() -> None:
            raise RuntimeError("a fault of ours")

        async def go_on() -> None:
            await asyncio.sleep(0)
            done.set()

        tasks.spawn(fail())
        tasks.spawn(go_on())
        await done.wait()
        await tasks.close()

    run()
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "fail" in caplog.text
