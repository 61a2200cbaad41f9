"""Tasks that begin at once, where Python can."""

from __future__ import annotations

import asyncio

import pytest

from realtime.tasks import BEGIN, begin
from tests.support.aio import run_async


@run_async
async def test_work_that_waits_for_nothing_is_done_at_once() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    task = begin(work())
    assert (task.done(), bool(done)) == (BEGIN.is_eager, BEGIN.is_eager)
    await task
    assert done == [1]


@run_async
async def test_work_that_waits_goes_on_later_as_a_task_of_its_own() -> None:
    gate = asyncio.Event()
    seen: list[asyncio.Task[object] | None] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        async with asyncio.timeout(60):
            await gate.wait()
        seen.append(asyncio.current_task())

    task = begin(work())
    assert not task.done()
    gate.set()
    await task
    assert seen == [task, task]


@run_async
async def test_what_it_raises_is_the_tasks() -> None:
    async def work() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await begin(work())
