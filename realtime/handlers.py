"""
Calling what users wrote: plain functions or coroutines, with the arguments that they name.

Runs in the worker. A plain function runs in a thread, so that it may block; a coroutine runs on the event loop. What a
handler wants is read from its signature once, when it is registered: a mistake shows at import, and not when the first
client comes.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from realtime.errors import Reject

THREADS: Final = 16  # per worker, for handlers that are plain functions

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="handler")


class Handler:
    """One function of the application."""

    __slots__ = ("_asynchronous", "_function", "_named", "_places", "_wants_dict", "name", "positional")

    def __init__(self, function: Callable[..., Any], *, positional: int, named: frozenset[str] = frozenset()) -> None:
        """
        Args:
            function: what the user wrote; bound, if it is a method.
            positional: how many arguments it is offered by position; it may take fewer.
            named: the arguments that it is offered by name; it may take some.

        Raises:
            TypeError: it needs an argument that it is not offered. The text says which, and what it is offered.
        """
        self._function = function
        self._asynchronous = inspect.iscoroutinefunction(function)
        self.name = getattr(function, "__qualname__", repr(function))
        parameters = list(inspect.signature(function).parameters.values())
        takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self._named = named if takes_all else named & {each.name for each in parameters}
        places = [
            each
            for each in parameters
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) and each.name not in self._named
        ]
        self.positional = min(positional, len(places))
        # Given by name wherever that can be, for a pattern's variable may stand between: (self, conn, name, data).
        self._places = [None if each.kind is each.POSITIONAL_ONLY else each.name for each in places[: self.positional]]
        needed = [each.name for each in places[self.positional :] if each.default is each.empty]
        needed += [
            each.name
            for each in parameters
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty and each.name not in self._named
        ]
        if needed:
            offered = ", ".join([f"{positional} by position", *sorted(named)])
            raise TypeError(f"{self.name}: nobody gives it {', '.join(needed)} (it is offered {offered})")
        self._wants_dict = self.positional == positional and self._annotated_dict(places)

    def _annotated_dict(self, places: list[inspect.Parameter]) -> bool:
        if not self.positional:
            return False
        try:
            hints = typing.get_type_hints(self._function)
        except Exception:  # noqa: BLE001 - an annotation that cannot be resolved is no mistake of a handler
            return False
        hint = hints.get(places[self.positional - 1].name)
        return hint is dict or typing.get_origin(hint) is dict

    async def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it with those of the arguments that it takes."""
        given = {name: value for name, value in named.items() if name in self._named}
        first: list[Any] = []
        for place, value in zip(self._places, arguments, strict=False):
            if place is None:
                first.append(value)
            else:
                given[place] = value
        if self._asynchronous:
            return await self._function(*first, **given)
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(_pool, lambda: self._function(*first, **given))
        return await result if inspect.isawaitable(result) else result

    def decode(self, data: bytes | None) -> Any:
        """
        Return the value of a JSON text, for the handler's last argument.

        Raises:
            Reject: the handler asks for a `dict`, and the client sent something else; or a number that no number holds.
        """
        try:
            value = None if data is None else msgspec.json.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            raise Reject("bad request", code=107) from None
        if self._wants_dict and not isinstance(value, dict):
            raise Reject("bad request", code=107)
        return value


def encode(value: Any) -> bytes | None:
    """Return a handler's answer as a JSON text; None for none."""
    return None if value is None else msgspec.json.encode(value)
