"""
Beginning a task at once, where Python can.

Runs in the worker. A task that begins in a later turn of the loop costs that turn: a handle, a poll of the kernel, and
what the processor has forgotten meanwhile. Most commands of clients are answered without waiting for anything; from
Python 3.12 on such a task runs to its end right here, and one that has to wait goes on as any other does. With an older
Python it begins in the next turn. Nothing is awaited here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

IS_EAGER: Final = sys.version_info >= (3, 12)


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return the task of `work`, which may be done already. To be called on the event loop."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
