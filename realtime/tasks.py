"""
Tasks: beginning one at once, where Python can; and the tasks that a part of a worker owns.

Runs in the worker. A task that starts in a later turn of the event loop costs a handle, a poll of the kernel, and cold
processor caches. Most commands of clients are answered without waiting for anything. From Python 3.12 on, such a task
runs to its end inside `begin`. A task that must wait goes on like any other. An older Python starts it in the next
turn. Code that depends on the difference takes a `Begin` as a parameter, so tests cover both with any interpreter.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from realtime.log_lines import log


class Begin(Protocol):
    """Begins tasks, in one of the two ways."""

    is_eager: bool
    """Whether a task begins at once, and may be done when it is returned."""

    def __call__(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Return the task of `work`. To be called on the event loop."""


class Lazily:
    """A `Begin`: a task begins in the next turn of the loop."""

    is_eager = False

    def __call__(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


class Eagerly:
    """A `Begin`: a task begins at once. Needs Python 3.12."""

    is_eager = True

    def __call__(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 12):
            return asyncio.Task(work, loop=loop, eager_start=True)
        raise AssertionError("an older Python begins no task at once: `BEGIN` is what this one can")


BEGIN: Final[Begin] = Eagerly() if sys.version_info >= (3, 12) else Lazily()


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return the task of `work`, which may be done already. To be called on the event loop."""
    return BEGIN(work)


class SideTasks:
    """
    The tasks that one part of a worker runs beside its own calls. That part owns them: it must call `close`.

    An exception of a task is a fault of ours. It is logged with its traceback, and ends nothing else.
    """

    __slots__ = ("_logger", "_tasks")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._tasks: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work`, from the next turn of the event loop on."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log(self._logger, logging.ERROR, "task failed", task=task.get_coro(), exc_info=error)

    async def close(self, patience_s: float = 0.0) -> None:
        """Wait `patience_s` for the tasks to end, then cancel what is left and await it."""
        if self._tasks and patience_s > 0:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
