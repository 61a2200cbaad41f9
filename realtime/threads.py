"""
Calls from any thread, with the effect that they have on the worker's event loop.

Runs in the worker. Connections, rooms and users belong to one event loop. A handler that is a plain function runs in a
thread, and so may anything else of an application. A method that is declared `from_any_thread` or
`from_any_thread_at_once` is always run by the loop:

- on the loop itself it is what it was written as: a coroutine to await, or a plain call;
- in a thread it blocks until it is done, and returns its result or raises its exception;
- in a thread with an event loop of its own, a coroutine method returns what that loop can await.

Calls of one thread take effect in their order. The context variables of the caller are seen. It never blocks the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

ENDED: Final = "the worker has ended, and nothing can be done in it any more"
LOOK_S: Final = 1.0  # how often a thread that waits looks whether its loop is still there

P = ParamSpec("P")
T = TypeVar("T")

_caller: ContextVar[asyncio.Task[Any] | None] = ContextVar("realtime_caller", default=None)


class Homed(Protocol):
    """Something that belongs to an event loop."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return that loop; None where no worker runs it."""


S = TypeVar("S", bound=Homed)


def from_any_thread(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method callable in any thread, as the module says."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        running, home = _running(), self.event_loop()
        if home is None and running is None:
            return asyncio.run(method(self, *args, **kwargs))
        if home is None or running is home:
            return method(self, *args, **kwargs)
        future = _submit(home, lambda: method(self, *args, **kwargs))
        return _wait(home, future) if running is None else asyncio.wrap_future(future, loop=running)

    return call


def from_any_thread_at_once(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a plain method, which returns at once, callable in any thread."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        home = self.event_loop()
        if home is None or _running() is home:
            return method(self, *args, **kwargs)

        async def on_the_loop() -> T:
            return method(self, *args, **kwargs)

        return _wait(home, _submit(home, on_the_loop))

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
    """Run a function in a thread of the pool, with the context variables of the caller."""
    context = copy_context()
    context.run(_caller.set, asyncio.current_task())
    return await asyncio.get_running_loop().run_in_executor(pool, context.run, function)


def is_calling(task: asyncio.Task[Any] | None) -> bool:
    """Say whether it is this task in which we are, or for which a thread has called us."""
    return task is not None and task in (asyncio.current_task(), _caller.get())


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _submit(
    home: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]
) -> concurrent.futures.Future[T]:
    """
    Have the loop run a coroutine, which is made there.

    Raises:
        RuntimeError: the loop has ended.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def begin() -> None:
        if future.set_running_or_notify_cancel():
            task = home.create_task(_carry_out(make, future))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    try:
        home.call_soon_threadsafe(begin)
    except RuntimeError:
        raise RuntimeError(ENDED) from None
    return future


_tasks: set[asyncio.Task[None]] = set()  # an event loop itself keeps only weak references


async def _carry_out(make: Callable[[], Awaitable[T]], future: concurrent.futures.Future[T]) -> None:
    try:
        result = await make()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        is_ending = task is not None and task.cancelling()
        future.set_exception(RuntimeError(ENDED) if is_ending else error)
        raise
    except BaseException as error:  # noqa: BLE001 - it is the caller's, who waits for it in its thread
        future.set_exception(error)
    else:
        future.set_result(result)


def _wait(home: asyncio.AbstractEventLoop, future: concurrent.futures.Future[T]) -> T:
    """Block until it is done, or the loop has ended without it."""
    while True:
        try:
            return future.result(LOOK_S)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # it is the method's own
            if home.is_closed():
                raise RuntimeError(ENDED) from None
