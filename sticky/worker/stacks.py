"""
What a process is doing, in words: where each of its threads stands, and what each asyncio task waits for.

Runs in the worker, when an operator requests it (`realtime inspect`). It reads and changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any


def describe() -> str:
    """Return the stacks of all threads, then all tasks of the running loop, each with what it waits for."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame)[-20:])
        parts.append(f"thread {names.get(ident, ident)}\n{stack}")
    tasks = sorted(asyncio.all_tasks(), key=asyncio.Task.get_name)
    current = asyncio.current_task()
    parts.append(f"{len(tasks)} tasks\n")
    for task in tasks:
        if task is not current:
            parts.append(f"task {task.get_name()}\n{''.join(_waiting(task))}")
    return "\n".join(parts)


def _waiting(task: asyncio.Task[Any]) -> Iterator[str]:
    """Yield where a task waits: each coroutine from the outermost in, then what the innermost waits for."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        code = getattr(awaited, "cr_code", None) or getattr(awaited, "gi_code", None)
        if code is None:
            yield f"  waits for {awaited!r}\n"
            return
        line = frame.f_lineno if frame is not None else code.co_firstlineno
        yield f'  File "{code.co_filename}", line {line}, in {code.co_qualname}\n'
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
