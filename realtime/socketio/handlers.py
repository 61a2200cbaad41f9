"""
The handlers of an `AsyncServer`: which one an event is for, and how it is called.

Runs in the worker, on its event loop. Plain functions run there too, as python-socketio runs them: one that blocks
holds up all clients of the worker. Which handler gets an event, from the first to the last:

    on("said", namespace="/chat")       f(sid, *args)
    on("*", namespace="/chat")          f(event, sid, *args)
    on("said", namespace="*")           f(namespace, sid, *args)
    on("*", namespace="*")              f(event, namespace, sid, *args)
    AsyncNamespace("/chat")             its method on_said(sid, *args)
    AsyncNamespace("*")                 its method on_said(namespace, sid, *args)

`connect` and `disconnect` are in none of the `*`, for these would get them by surprise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from realtime.socketio.calling import DISCONNECT, LIFE, call, fitted
from realtime.socketio.namespace import AsyncNamespace

ANY: Final = "*"


class ChosenHandler(NamedTuple):
    """
    A handler, and the arguments that come before those of the event. `is_fitted`: it gets no more than it takes.
    """

    function: Callable[..., Any]
    first: tuple[str, ...] = ()
    is_fitted: bool = False

    async def __call__(self, *args: Any) -> Any:
        """Call it, and return what it returns."""
        given = (*self.first, *args)
        return await call(self.function, fitted(self.function, given) if self.is_fitted else given)


class Handlers:
    """All handlers of one server."""

    def __init__(self) -> None:
        self._functions: dict[str, dict[str, Callable[..., Any]]] = {}  # by namespace, by event
        self._objects: dict[str, AsyncNamespace] = {}

    def add(self, event: str, namespace: str, function: Callable[..., Any]) -> None:
        """Have a function take an event, in place of one that did before."""
        self._functions.setdefault(namespace, {})[event] = function

    def add_namespace(self, handler: AsyncNamespace) -> None:
        """Have an object take the events of its namespace that no function takes."""
        self._objects[handler.namespace] = handler

    def find(self, event: str, namespace: str) -> ChosenHandler | None:
        """Return what takes an event; None where nothing does."""
        for place, first in ((namespace, ()), (ANY, (namespace,))):
            functions = self._functions.get(place, {})
            if event in functions:
                return ChosenHandler(functions[event], first, event in LIFE)
            if ANY in functions and event not in LIFE:
                return ChosenHandler(functions[ANY], (event, *first))
        for place, first in ((namespace, ()), (ANY, (namespace,))):
            handler = self._objects.get(place)
            if handler is not None and handler.takes(event):
                return ChosenHandler(handler.trigger_event, (event, *first))
        return None

    @property
    def have_disconnect(self) -> bool:
        """Whether any handler learns of clients that are gone."""
        functions = any(DISCONNECT in each for each in self._functions.values())
        return functions or any(each.takes(DISCONNECT) for each in self._objects.values())
