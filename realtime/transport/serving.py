"""
Notes which hosted requests are in flight, for the primary to know after a crash (sticky/handoff/journal.py).

Runs in the worker. A request is in flight until its answer begins. An answer that goes on for long, such as a stream of
events, is in flight only while the application's code runs: a client that listens is not to blame for what happens
meanwhile. A hosted WebSocket is in flight from a message until the application asks for the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from realtime.transport.asgi import RequestConnection
from sticky.handoff.journal import Mark


class Serving:
    """
    The call of an application for one request. Each step of it is noted.

    It is awaited in place of the call. What a debugger asks of a coroutine it answers with the call's own.
    """

    __slots__ = ("_call", "_connection", "_mark", "_steps")

    def __init__(self, call: Awaitable[None], mark: Mark, connection: RequestConnection) -> None:
        """
        Args:
            call: of the application.
            mark: by which the primary knows that the request is in flight.
            connection: knows whether the answer has begun.
        """
        self._call = call
        self._steps: Any = call.__await__()
        self._mark = mark
        self._connection = connection

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def __iter__(self) -> Serving:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        self._mark.begin()
        try:
            return self._steps.send(value)
        finally:
            if self._connection.has_begun():
                self._mark.end()

    def throw(self, *error: Any) -> Any:
        self._mark.begin()
        try:
            return self._steps.throw(*error)
        finally:
            if self._connection.has_begun():
                self._mark.end()

    def close(self) -> None:
        self._steps.close()

    @property
    def cr_frame(self) -> Any:
        return getattr(self._call, "cr_frame", None)

    @property
    def cr_code(self) -> Any:
        return getattr(self._call, "cr_code", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self._call, "cr_await", None)


def receiving(receive: Callable[[], Awaitable[Any]], mark: Mark) -> Callable[[], Awaitable[Any]]:
    """Return an ASGI `receive` that notes what it gives as in flight until it is asked again."""

    async def receive_next() -> Any:
        mark.end_soon()
        message = await receive()
        mark.begin()
        return message

    return receive_next
