"""
Starts a task at once, where Python can.

Runs in the worker. A task that starts in a later turn of the event loop costs a handle, a poll of the kernel, and
cold processor caches. Most commands of clients are answered without waiting for anything. From Python 3.12
on, such a task runs to its end inside `begin`. A task that must wait goes on like any other. An older Python starts it
in the next turn. This module awaits nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final

IS_EAGER: Final = sys.version_info >= (3, 12)


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task, and return it; it may be done already. Must be called on the event loop."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
