"""
Handlers of events: `async def f(conn, text: str, *more)`, and how they are called with what a client sent.

Runs in the worker. What a handler takes is read from its signature once, when it is registered. The first parameter is
the connection, the next ones are the event's arguments by position, but for the variables of the namespace's pattern.
An argument whose parameter is annotated is validated before the handler is called, as the data of `@app.rpc` is. A
client may send more arguments than the handler takes, as everywhere in Socket.IO; the rest is not looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import Parameter
from types import CodeType
from typing import Any, Final

import msgspec

from realtime.application.handlers import CLIENT_TEXT_MAX, check_type, first_mistake, run_in_thread
from realtime.application.signature import annotation_of
from realtime.application.source import calling_place, place_of
from realtime.errors import DeclarationError, Reject
from realtime.session.events import BYTES

BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

Check = Callable[[Any], Any]

_NONE: Final = object()


class EventHandler:
    """
    One function of the application that takes events.

    Attributes:
        function: what the user wrote.
        name: its name, with its class.
        where: its file and line.
        annotations: of the variables of its namespace's pattern, resolved.
    """

    __slots__ = (
        "_checks", "_is_coroutine", "_named", "_needed", "_order", "_places", "_rest", "_takes_conn", "annotations",
        "function", "name", "where",
    )  # fmt: skip

    def __init__(
        self, function: Callable[..., Any], variables: frozenset[str] = frozenset(), *, takes_conn: bool = True
    ) -> None:
        """
        Args:
            function: what the user wrote; bound, if it is a method.
            variables: the names of what it is offered by name.
            takes_conn: its first parameter is the connection, else an argument: for events between workers.

        Raises:
            DeclarationError: it needs a parameter that it is not offered, or one that no value of JSON becomes.
        """
        if not callable(function):
            raise DeclarationError(calling_place(), f"a handler is a function, and no {type(function).__name__}")
        self.function = function
        self.name = getattr(function, "__qualname__", repr(function))
        self.where = place_of(function)
        self._is_coroutine = inspect.iscoroutinefunction(function)
        parameters = list(inspect.signature(function).parameters.values())
        takes_all = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
        self._named = variables if takes_all else variables & {each.name for each in parameters}
        for each in parameters:
            if each.kind is Parameter.KEYWORD_ONLY and each.default is each.empty and each.name not in variables:
                known = ", ".join(f"`{name}`" for name in sorted(variables)) or "none"
                problem = f"has an unsupported parameter `{each.name}` that is given by name; allowed: {known}"
                raise DeclarationError(self.where, f"handler `{self.name}()` {problem}")
        places = [each for each in parameters if each.kind in BY_POSITION]
        self._takes_conn = takes_conn
        behind = places[1:] if takes_conn else places
        arguments = [each for each in behind if each.name not in self._named]
        self._order = [each.name if each.name in self._named else None for each in behind]
        rest = next((each for each in parameters if each.kind is Parameter.VAR_POSITIONAL), None)
        self._places = [each.name for each in arguments]
        self._needed = sum(each.default is each.empty for each in arguments)
        self._checks = [self._check_of(each.name) for each in arguments]
        self._rest = None if rest is None else (self._check_of(rest.name),)
        if takes_conn and not places and rest is None:
            raise DeclarationError(self.where, f"handler `{self.name}()` takes no connection: write it as f(conn, …)")
        written = {each.name for each in parameters}
        self.annotations = {
            each: annotation_of(function, self.name, self.where, each) for each in sorted(self._named & written)
        }

    def _check_of(self, parameter: str) -> Check | None:
        """Return what validates the value of a parameter; None where anything may come."""
        wanted = annotation_of(self.function, self.name, self.where, parameter)
        if wanted is Any:
            return None
        if hasattr(wanted, "model_validate"):  # pydantic's
            validate: Check = wanted.model_validate
            return validate
        check_type(wanted, self.where, self.name)
        return lambda value: msgspec.convert(value, wanted, builtin_types=BYTES, str_keys=True)

    @property
    def code(self) -> CodeType | None:
        """Its code, below its decorators; None where it is not written in Python."""
        return getattr(inspect.unwrap(getattr(self.function, "__func__", self.function)), "__code__", None)

    def __call__(self, conn: object, args: Sequence[Any], variables: Mapping[str, Any]) -> Awaitable[Any]:
        """
        Call it with the arguments of an event.

        Raises:
            Reject: 107, with the argument that is wrong and why.
        """
        if len(args) < self._needed:
            problem = f"argument {len(args) + 1} (`{self._places[len(args)]}`) is missing"
            raise Reject(f"bad request: {problem}"[:CLIENT_TEXT_MAX], code=107)
        given = [
            value if check is None else self._checked(check, value, at)
            for at, (check, value) in enumerate(zip(self._checks, args, strict=False))
        ]
        named: Mapping[str, Any] = {}
        if self._named:
            given, named = self._with_variables(given, variables)
        if self._rest is not None:
            check = self._rest[0]
            begin = len(self._checks)
            rest = args[begin:]
            given += rest if check is None else [self._checked(check, each, begin + at) for at, each in enumerate(rest)]
        if self._takes_conn:
            given.insert(0, conn)
        if self._is_coroutine:
            coroutine: Awaitable[Any] = self.function(*given, **named)
            return coroutine
        return run_in_thread(lambda: self.function(*given, **named))

    def _with_variables(self, given: Sequence[Any], variables: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """
        Return what the handler gets by position, and by name. A variable stands by position where its parameter does,
        for arguments may follow; behind an argument that the client left out, it is given by name.
        """
        named = {name: value for name, value in variables.items() if name in self._named}
        placed: list[Any] = []
        waiting = iter(given)
        for name in self._order:
            if name is not None:
                placed.append(named.pop(name))
            elif (value := next(waiting, _NONE)) is not _NONE:
                placed.append(value)
            else:
                break
        return placed, named

    def _checked(self, check: Check, value: Any, at: int) -> Any:
        """Return an argument in the type of its parameter."""
        try:
            return check(value)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:  # pydantic's are ValueErrors
            name = f" (`{self._places[at]}`)" if at < len(self._places) else ""
            problem = str(error) if isinstance(error, msgspec.ValidationError) else _mistake(error)
            raise Reject(f"bad request: argument {at + 1}{name}: {problem}"[:CLIENT_TEXT_MAX], code=107) from None


def _mistake(error: Exception) -> str:
    """Say what is wrong with a value, without what it is."""
    return first_mistake(error) if isinstance(error, ValueError) else "not valid"
