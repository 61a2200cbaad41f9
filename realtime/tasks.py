"""
Beginning a task at once, where Python can.

Runs in the worker. A task that begins in a later turn of the loop costs that turn: a handle, a poll of the kernel, and
what the processor has forgotten meanwhile. Most commands of clients are answered without waiting for anything; from
Python 3.12 on such a task runs to its end right here, and one that has to wait goes on as any other does. With an older
Python it begins in the next turn. What depends on which of the two it is takes a `Begin` as a parameter, and asks it:
so each is tested, whatever the interpreter. Nothing is awaited here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final, Protocol


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
