"""
What stands around the methods by which an application declares something.

Runs at import of the application. `with_options` gives a method the parameters of `RoomOptions`, so that each option is
declared once: the method gets the options as one object. Its signature and its docstring, for `help()`, editors and the
reference, are completed from the constructor of `RoomOptions`. `written_as` refuses a call that a method has no place
for, such as empty parentheses behind a decorator. Nothing here knows an option by its name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from realtime.application.source import calling_place, did_you_mean
from realtime.errors import DeclarationError
from realtime.rooms.options import RoomOptions

Self = TypeVar("Self")
Result = TypeVar("Result")
Options = ParamSpec("Options")
Method = TypeVar("Method", bound=Callable[..., Any])


def _declare(
    options: Callable[Options, RoomOptions],
) -> Callable[[Callable[[Self, str, RoomOptions], Result]], Callable[Concatenate[Self, str, Options], Result]]:
    """Return the decorator, typed by the constructor: a type checker knows each option."""

    def decorate(
        method: Callable[[Self, str, RoomOptions], Result],
    ) -> Callable[Concatenate[Self, str, Options], Result]:
        @functools.wraps(method)
        def declared(self: Self, name: str = "", /, *args: Options.args, **kwargs: Options.kwargs) -> Result:
            try:  # "" is no pattern, and refused as such
                kept = options(*args, **kwargs)
            except TypeError as error:
                raise DeclarationError(calling_place(), f"room {name!r}: {_unknown(kwargs) or error}") from None
            except ValueError as error:
                raise DeclarationError(calling_place(), f"room {name!r}: {error}") from None
            return method(self, name, kept)

        own = list(inspect.signature(method).parameters.values())[:2]
        declared.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*own, *inspect.signature(options).parameters.values()],
            return_annotation=inspect.signature(method).return_annotation,
        )
        del declared.__wrapped__
        declared.__doc__ = _joined(inspect.getdoc(method) or "", inspect.getdoc(RoomOptions.__init__) or "")
        return declared

    return decorate


def _unknown(given: Mapping[str, object]) -> str:
    """Name an option that there is not, and what it may have meant; "" where all are known."""
    known = list(inspect.signature(RoomOptions).parameters)
    for name in given:
        if name not in known:
            return f"there is no option `{name}`{did_you_mean(name, known) or ';'} options: {', '.join(known)}"
    return ""


def _joined(method: str, options: str) -> str:
    """Return a method's docstring with the arguments, and the errors, of the options after its own."""
    assert options.startswith("Args:\n"), "the options are a list of arguments, and continue the method's"
    return method.rstrip() + "\n" + options.removeprefix("Args:\n")


with_options = _declare(RoomOptions)


def written_as(right: str) -> Callable[[Method], Method]:
    """
    Have a method refuse a call that its parameters have no place for, with file and line, and what to write instead.

    Python would raise a TypeError from within this package, and name neither the decorator nor the line.

    Args:
        right: what to write instead, as the end of the sentence.
    """

    def decorate(method: Method) -> Method:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise DeclarationError(calling_place(), f"@app.{method.__name__}(…): {error}; {right}") from None
            return method(*args, **kwargs)

        return cast(Method, checked)

    return decorate


def hook(method: Method) -> Method:
    """Mark a decorator that has no options: written with parentheses, it gets no function."""
    return written_as(f"did you mean `@app.{method.__name__}`, without parentheses?")(method)
