"""
Calling what users wrote: plain functions or coroutines, with the arguments that they name.

Runs in the worker. A plain function runs in a thread, so that it may block; a coroutine runs on the event loop. What a
handler wants is read from its signature once, when it is registered: a mistake shows at import, and not when the first
client comes. Data whose argument is annotated is validated before the handler is called: with `dict` or `list[int]`, a
`msgspec.Struct`, a dataclass, a `TypedDict`, or a model of pydantic, which is not needed for anything else.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import msgspec.inspect

from realtime.errors import Reject
from realtime.threads import in_thread

CONNECTION_AND_DATA: Final = 2  # who is offered so many arguments gets what a client sent as the second
TOLD_MAX: Final = 200  # characters of what a client is told of its mistake
THREADS: Final = 16  # per worker, for handlers that are plain functions

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="handler")


class Handler:
    """One function of the application."""

    __slots__ = ("_asynchronous", "_decode", "_function", "_is_plain", "_named", "_places", "name", "positional")

    def __init__(self, function: Callable[..., Any], *, positional: int, named: frozenset[str] = frozenset()) -> None:
        """
        Args:
            function: what the user wrote; bound, if it is a method.
            positional: how many arguments it is offered by position; it may take fewer.
            named: the arguments that it is offered by name; it may take some.

        Raises:
            TypeError: it needs an argument that it is not offered, or data of a type that no JSON becomes. The text
                says which, and what it may have.
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
        # Arguments can go as they come. Who shows another's signature may want them by name.
        self._is_plain = not self._named and not hasattr(function, "__wrapped__")
        needed = [each.name for each in places[self.positional :] if each.default is each.empty]
        needed += [
            each.name
            for each in parameters
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty and each.name not in self._named
        ]
        if needed:
            offered = ", ".join([f"{positional} by position", *sorted(named)])
            raise TypeError(f"{self.name}: nobody gives it {', '.join(needed)} (it is offered {offered})")
        is_given_data = self.positional == positional == CONNECTION_AND_DATA
        self._decode = self._decoder(self._annotation(places[1].name) if is_given_data else Any)

    def _annotation(self, name: str) -> Any:
        try:
            found = typing.get_type_hints(self._function).get(name, Any)
        except Exception:  # noqa: BLE001 - an annotation that cannot be resolved is no mistake of a handler
            return Any
        return Any if found is object else found

    def _decoder(self, wanted: Any) -> Callable[[bytes], Any]:
        if hasattr(wanted, "model_validate_json"):  # pydantic's
            return typing.cast(Callable[[bytes], Any], wanted.model_validate_json)
        if isinstance(msgspec.inspect.type_info(wanted), msgspec.inspect.CustomType):
            allowed = "a msgspec.Struct, a dataclass, a TypedDict, a pydantic model, or a type that JSON has"
            raise TypeError(f"{self.name}: what a client sends cannot become a {wanted!r}; it can be {allowed}")
        return msgspec.json.Decoder(wanted).decode

    @property
    def is_coroutine(self) -> bool:
        """Whether its answer has to be awaited."""
        return self._asynchronous

    def call_now(self, *arguments: Any, **named: Any) -> Any:
        """Call a plain function here and now, on the event loop: for what is asked so often that it must be quick."""
        given, first = self._given(arguments, named)
        return self._function(*first, **given)

    def __call__(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        """Call it with those of the arguments that it takes."""
        given: Mapping[str, Any] = {}
        first: Sequence[Any] = arguments[: self.positional]
        if not self._is_plain:
            given, first = self._given(arguments, named)
        if self._asynchronous:
            coroutine: Awaitable[Any] = self._function(*first, **given)
            return coroutine
        return self._in_thread(first, given)

    async def _in_thread(self, first: Sequence[Any], given: Mapping[str, Any]) -> Any:
        result = await in_thread(_pool, lambda: self._function(*first, **given))
        return await result if inspect.isawaitable(result) else result

    def _given(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return the arguments that it takes, by name and by position."""
        given = {name: value for name, value in named.items() if name in self._named}
        first: list[Any] = []
        for place, value in zip(self._places, arguments, strict=False):
            if place is None:
                first.append(value)
            else:
                given[place] = value
        return given, first

    def decode(self, data: bytes | None) -> Any:
        """
        Return the value of a JSON text, for the handler's last argument, in the type that it is annotated with.

        Raises:
            Reject: 107, with the field that is wrong and why; or with no more, where it is no JSON at all.
        """
        try:
            return self._decode(b"null" if data is None else data)
        except msgspec.ValidationError as error:
            raise Reject(f"bad request: {error}"[:TOLD_MAX], code=107) from None
        except (msgspec.MsgspecError, RecursionError):
            raise Reject("bad request", code=107) from None
        except ValueError as error:
            raise Reject(f"bad request: {_first_mistake(error)}"[:TOLD_MAX], code=107) from None


def _first_mistake(error: ValueError) -> str:
    """Say the first of what pydantic found: the field and why."""
    if not hasattr(error, "errors"):
        return "not valid"
    found = error.errors()[0]
    where = ".".join(map(str, found["loc"]))
    return f"{where}: {found['msg']}" if where else str(found["msg"])


def encode(value: Any) -> bytes | None:
    """Return a handler's answer as a JSON text; None for none."""
    return None if value is None else msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON can say of a pydantic model."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"JSON cannot say a {type(value).__name__}")
