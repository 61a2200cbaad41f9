"""What a process is doing, in words: threads where they stand, tasks with what they wait for."""

from __future__ import annotations

import asyncio
import threading

from sticky.worker import stacks
from tests.support.aio import run_async


async def wait_inside(event: asyncio.Event) -> None:
    await wait_deeper(event)


async def wait_deeper(event: asyncio.Event) -> None:
    await event.wait()


@run_async
async def test_each_task_has_its_coroutines_from_the_outermost_in_and_what_it_waits_for() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(wait_inside(event), name="the one that waits")
    await asyncio.sleep(0)
    text = stacks.describe()
    event.set()
    await task
    _, _, of_task = text.partition("task the one that waits\n")
    names = [line.rpartition(" in ")[2] for line in of_task.splitlines() if line.startswith("  File")]
    assert names[:3] == ["wait_inside", "wait_deeper", "Event.wait"]
    assert "waits for <FutureIter" in of_task or "waits for <_asyncio.FutureIter" in of_task


@run_async
async def test_the_task_that_describes_is_counted_and_not_shown() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.set_name("the one that describes")
    text = stacks.describe()
    assert "task the one that describes" not in text
    assert f"{len(asyncio.all_tasks())} tasks\n" in text


@run_async
async def test_each_thread_has_its_name_and_its_stack() -> None:
    begun, over = threading.Event(), threading.Event()

    def stand_here() -> None:
        begun.set()
        over.wait()

    thread = threading.Thread(target=stand_here, name="a thread of the application")
    thread.start()
    begun.wait()
    text = stacks.describe()
    over.set()
    thread.join()
    _, _, of_thread = text.partition("thread a thread of the application\n")
    assert "in stand_here" in of_thread.partition("\nthread ")[0]
    assert "thread MainThread\n" in text


@run_async
async def test_a_task_that_has_not_begun_is_where_its_coroutine_begins() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(wait_inside(event), name="new")
    text = stacks.describe()
    event.set()
    await task
    assert f"line {wait_inside.__code__.co_firstlineno}, in wait_inside" in text.partition("task new\n")[2]
