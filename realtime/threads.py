"""
Calls from any thread, executed on the worker's event loop.

Runs in the worker. Connections, rooms and users belong to one event loop. A handler that is a plain function runs in a
thread, and an application may have threads of its own. A method declared with `from_any_thread` or
`from_any_thread_at_once` always runs on that loop:

- Called on the loop itself, it stays a coroutine to await, or a plain call.
- Called in a plain thread, it blocks until it is done, and returns its result or raises its exception.
- Called in a thread with another event loop, a coroutine method returns an awaitable of that loop.

Calls of one thread take effect in their order. The caller's context variables are visible. The worker's loop is never
blocked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

ENDED: Final = "the worker has ended, so this call cannot run"
CHECK_S: Final = 1.0  # how often a waiting thread checks whether the loop still exists

P = ParamSpec("P")
T = TypeVar("T")

_calling_task: ContextVar[asyncio.Task[Any] | None] = ContextVar("realtime_calling_task", default=None)


class LoopBound(Protocol):
    """An object that belongs to an event loop."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return that loop; None where no worker runs the object."""


S = TypeVar("S", bound=LoopBound)


def from_any_thread(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method callable in any thread, as the module's docstring says."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        running, loop = _running(), self.event_loop()
        if loop is None and running is None:
            return asyncio.run(method(self, *args, **kwargs))
        if loop is None or running is loop:
            return method(self, *args, **kwargs)
        future = _submit(loop, lambda: method(self, *args, **kwargs))
        return _wait(loop, future) if running is None else asyncio.wrap_future(future, loop=running)

    return call


def from_any_thread_at_once(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a plain method callable in any thread. The method must return at once."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        loop = self.event_loop()
        if loop is None or _running() is loop:
            return method(self, *args, **kwargs)

        async def on_the_loop() -> T:
            return method(self, *args, **kwargs)

        return _wait(loop, _submit(loop, on_the_loop))

    return call


class _Done:
    """What was done already, for callers that await it."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # which makes it a generator, that ends at once


def done() -> Any:
    """
    Return what a method returns that has been done and may be awaited: in an event loop something that is awaited in no
    time; None in a thread without one, where a coroutine method returns its result as well.
    """
    return None if _running() is None else _Done()


async def in_thread(pool: concurrent.futures.Executor, function: Callable[[], T]) -> T:
    """Run a function in a thread of the pool, with the caller's context variables."""
    context = copy_context()
    context.run(_calling_task.set, asyncio.current_task())
    return await asyncio.get_running_loop().run_in_executor(pool, context.run, function)


def is_calling(task: asyncio.Task[Any] | None) -> bool:
    """Return whether this task is the current one, or started the thread whose call runs now."""
    return task is not None and task in (asyncio.current_task(), _calling_task.get())


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _submit(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]
) -> concurrent.futures.Future[T]:
    """
    Schedule a coroutine on the loop. `make` is called there.

    Raises:
        RuntimeError: the loop is closed.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def begin() -> None:
        if future.set_running_or_notify_cancel():
            task = loop.create_task(_carry_out(make, future))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:
        raise RuntimeError(ENDED) from None
    return future


_tasks: set[asyncio.Task[None]] = set()  # strong references, because an event loop has only weak ones


async def _carry_out(make: Callable[[], Awaitable[T]], future: concurrent.futures.Future[T]) -> None:
    """Run a coroutine and pass its result or exception to a waiting thread."""
    try:
        result = await make()
    except asyncio.CancelledError as error:
        # Two causes: the coroutine cancelled itself, or the ending loop cancels this task. Only the latter counts in
        # `cancelling`, and the thread gets it as the end of the worker.
        task = asyncio.current_task()
        is_ending = task is not None and task.cancelling()
        future.set_exception(RuntimeError(ENDED) if is_ending else error)
        raise
    except BaseException as error:  # noqa: BLE001 - the caller, which waits in its thread, gets it
        future.set_exception(error)
    else:
        future.set_result(result)


def _wait(loop: asyncio.AbstractEventLoop, future: concurrent.futures.Future[T]) -> T:
    """Block until the future is done. Raise RuntimeError when the loop ends before that."""
    assert _running() is not loop, "the loop would wait for itself"
    while True:
        try:
            return future.result(CHECK_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the method itself raised TimeoutError
            if loop.is_closed():
                raise RuntimeError(ENDED) from None
