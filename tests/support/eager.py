"""Tasks that begin at once, with any Python: so that one interpreter tests both ways of `realtime.tasks`."""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from realtime.tasks import Begin, Eagerly


class Emulated:
    """A `Begin` for Python 3.11: runs the first step of a task where another one may be running."""

    is_eager = True

    def __call__(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        loop, outer = asyncio.get_running_loop(), asyncio.current_task()
        steps: list[tuple[Callable[[], None], Context]] = []

        class Catching:
            """A loop as a task sees it that is being made: its first step is not scheduled."""

            def get_debug(self) -> bool:
                return False

            def call_soon(self, step: Callable[[], None], *, context: Context) -> None:
                steps.append((step, context))

        task = tasks._PyTask(work, loop=Catching())  # type: ignore[attr-defined]
        task._loop = loop
        [(step, context)] = steps
        if outer is not None:
            tasks._leave_task(loop, outer)  # type: ignore[attr-defined]
        try:
            context.run(step)
        finally:
            if outer is not None:
                tasks._enter_task(loop, outer)  # type: ignore[attr-defined]
        found: asyncio.Task[None] = task
        return found


EAGERLY: Begin = Eagerly() if sys.version_info >= (3, 12) else Emulated()
