"""Run a coroutine test to its end on a fresh event loop, with a deadline that only a hang reaches."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

DEADLINE_S = 60.0


def run_async(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a coroutine function a plain test."""

    @functools.wraps(test)
    def plain(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(*args, **kwargs), DEADLINE_S)

        asyncio.run(bounded())

    return plain


def run_async_for(deadline_s: float) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Make a coroutine function plain, with a deadline of its own."""

    def wrap(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def plain(*args: Any, **kwargs: Any) -> None:
            async def bounded() -> None:
                await asyncio.wait_for(test(*args, **kwargs), deadline_s)

            asyncio.run(bounded())

        return plain

    return wrap


async def eventually(ask: Callable[[], Awaitable[object]], *, every_s: float = 0.01) -> None:
    """Ask until the answer is yes: of what is in another process, where nobody tells. The test's deadline ends it."""
    while not await ask():  # noqa: ASYNC110
        await asyncio.sleep(every_s)
