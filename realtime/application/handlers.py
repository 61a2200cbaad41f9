"""
Calling what users wrote: plain functions or coroutines, with the arguments that they name.

Runs in the worker. A plain function runs in a thread, so that it may block; a coroutine runs on the event loop. What a
handler takes is read from its signature once, when it is registered (signature.py). Data whose parameter is annotated
is validated before the handler is called: with `dict` or `list[int]`, a `msgspec.Struct`, a dataclass, a `TypedDict`,
or a model of pydantic, which is not needed for anything else.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import Any, Final

import msgspec
import msgspec.inspect

from realtime.application.signature import DATA, read_signature
from realtime.errors import DeclarationError, Reject
from realtime.threads import in_thread

CLIENT_TEXT_MAX: Final = 200  # characters of the message by which a client learns of its mistake
THREADS: Final = 16  # per worker, for handlers that are plain functions

_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="handler")


class Handler:
    """
    One function of the application.

    Attributes:
        function: what the user wrote.
        name: its name, with its class.
        where: its file and line.
        positional: how many arguments it takes by position.
        annotations: of `data` and of its room's variables, resolved.
    """

    __slots__ = (
        "_asynchronous", "_decode", "_is_plain", "_named", "_places", "annotations", "function", "name", "positional",
        "where",
    )  # fmt: skip

    def __init__(
        self, function: Callable[..., Any], *, offers: Sequence[str] = (), variables: frozenset[str] = frozenset()
    ) -> None:
        """
        Args:
            function: what the user wrote; bound, if it is a method.
            offers: the names of the arguments that it is offered by position, in order; it may take fewer.
            variables: the names of the arguments that it is offered by name; it may take some.

        Raises:
            DeclarationError: it has a parameter that it is not offered, or data of a type that no JSON becomes.
        """
        signature = read_signature(function, offers, variables)
        self.function = function
        self.name, self.where = signature.name, signature.where
        self.positional = signature.positional
        self.annotations = signature.annotations
        self._asynchronous = inspect.iscoroutinefunction(function)
        self._named = signature.named
        self._places = signature.places
        self._is_plain = signature.is_plain
        self._decode = self._decoder(signature.annotations.get(DATA, Any))

    def _decoder(self, wanted: Any) -> Callable[[bytes], Any]:
        if hasattr(wanted, "model_validate_json"):  # pydantic's
            return typing.cast(Callable[[bytes], Any], wanted.model_validate_json)
        check_type(wanted, self.where, self.name)
        return msgspec.json.Decoder(wanted).decode

    @property
    def code(self) -> CodeType | None:
        """Its code, below its decorators; None where it is not written in Python."""
        return getattr(inspect.unwrap(getattr(self.function, "__func__", self.function)), "__code__", None)

    @property
    def is_coroutine(self) -> bool:
        """Whether its answer has to be awaited."""
        return self._asynchronous

    def call_now(self, *arguments: Any, **named: Any) -> Any:
        """Call a plain function here and now, on the event loop: for what is asked so often that it must be quick."""
        given, first = self._given(arguments, named)
        return self.function(*first, **given)

    def __call__(self, *arguments: Any, **named: Any) -> Awaitable[Any]:
        """Call it with those of the arguments that it takes."""
        given: Mapping[str, Any] = {}
        first: Sequence[Any] = arguments[: self.positional]
        if not self._is_plain:
            given, first = self._given(arguments, named)
        if self._asynchronous:
            coroutine: Awaitable[Any] = self.function(*first, **given)
            return coroutine
        return self._in_thread(first, given)

    def _in_thread(self, first: Sequence[Any], given: Mapping[str, Any]) -> Awaitable[Any]:
        return run_in_thread(lambda: self.function(*first, **given))

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
            raise Reject(f"bad request: {error}"[:CLIENT_TEXT_MAX], code=107) from None
        except (msgspec.MsgspecError, RecursionError):
            raise Reject("bad request", code=107) from None
        except ValueError as error:
            raise Reject(f"bad request: {first_mistake(error)}"[:CLIENT_TEXT_MAX], code=107) from None


def check_type(wanted: Any, where: str, name: str) -> None:
    """
    See that what a client sends can become a type that a handler's parameter is annotated with.

    Raises:
        DeclarationError: it cannot.
    """
    try:
        is_possible = not isinstance(msgspec.inspect.type_info(wanted), msgspec.inspect.CustomType)
    except TypeError:
        is_possible = False
    if not is_possible:
        allowed = "a msgspec.Struct, a dataclass, a TypedDict, a pydantic model, or a type that JSON has"
        problem = f"what a client sends cannot become a {wanted!r}; it can be {allowed}"
        raise DeclarationError(where, f"handler `{name}()`: {problem}")


async def run_in_thread(call: Callable[[], Any]) -> Any:
    """Run a handler that is a plain function, so that it may block, and return its result."""
    result = await in_thread(_pool, call)
    return await result if inspect.isawaitable(result) else result


def first_mistake(error: ValueError) -> str:
    """Say the first of what pydantic found: the field and why."""
    if not hasattr(error, "errors"):
        return "not valid"
    found = error.errors()[0]
    where = ".".join(map(str, found["loc"]))
    return f"{where}: {found['msg']}" if where else str(found["msg"])
