"""
What a handler asks for: its parameters, and the types that they are annotated with.

Runs in the worker, when an application is declared. A mistake shows at import, with file and line, and not when the
first client comes. Nothing here calls a handler.

A handler is offered some values by position (`conn`, `data`, …), of which it may take fewer, and its room's variables
by name. Only the annotations that matter are resolved: those of `data` and of the variables. Others may name what is
imported for type checkers alone. An annotation that matters and cannot be resolved is refused, for without it the data
of clients would be taken unchecked.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final

from realtime.application.source import caller, calling_place, did_you_mean, place_of
from realtime.errors import DeclarationError

DATA: Final = "data"
"""The name of the one value that comes from a client, and is checked against its parameter's annotation."""

CONN: Final = "conn"

MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Signature:
    """
    What one handler takes of what it is offered.

    Attributes:
        name: of the function, with its class.
        where: file and line.
        positional: how many of the values it takes that are offered by position.
        places: the parameters that take them; None for one that has no name to be given by.
        named: the variables that it takes.
        is_plain: whether arguments can go as they come.
        annotations: of `data` and of the variables, resolved, under the names by which they are offered.
    """

    name: str
    where: str
    positional: int
    places: Sequence[str | None]
    named: frozenset[str]
    is_plain: bool
    annotations: Mapping[str, Any]


def read_signature(function: Callable[..., Any], offers: Sequence[str], variables: frozenset[str]) -> Signature:
    """
    Return what a handler takes.

    Args:
        function: what the user wrote; bound, if it is a method.
        offers: the names of what it is offered by position, in order.
        variables: the names of what it is offered by name.

    Raises:
        DeclarationError: it has a parameter that it is not offered, or in another place, or an annotation that matters
            and cannot be resolved.
    """
    if not callable(function):
        raise DeclarationError(calling_place(), f"a handler is a function, and no {type(function).__name__}")
    name, where = getattr(function, "__qualname__", repr(function)), place_of(function)
    parameters = list(inspect.signature(function).parameters.values())
    takes_all = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
    named = variables if takes_all else variables & {each.name for each in parameters}
    places = [
        each
        for each in parameters
        if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) and each.name not in named
    ]
    problem = _problem(parameters, places, offers, variables)
    if problem:
        allowed = ", ".join(f"`{each}`" for each in [*offers, *sorted(variables)]) or "none"
        raise DeclarationError(where, f"handler `{name}()` {problem}; allowed: {allowed}")
    taken = places[: len(offers)]
    annotations = {
        offer: annotation_of(function, name, where, each.name)
        for offer, each in zip(offers, taken, strict=False)
        if offer == DATA
    }
    written = {each.name for each in parameters}
    annotations |= {each: annotation_of(function, name, where, each) for each in sorted(named & written)}
    return Signature(
        name=name,
        where=where,
        positional=len(taken),
        # Given by name wherever that can be, for a pattern's variable may stand between: (self, conn, name, data).
        places=[None if each.kind is Parameter.POSITIONAL_ONLY else each.name for each in taken],
        named=named,
        # A function that shows the signature of another one may want its arguments by name.
        is_plain=not named and not hasattr(function, "__wrapped__"),
        annotations=annotations,
    )


def _problem(
    parameters: Sequence[Parameter], places: Sequence[Parameter], offers: Sequence[str], variables: frozenset[str]
) -> str:
    """Return what is wrong with a handler's parameters; "" where nothing is."""
    for each in parameters:
        if each.kind is Parameter.VAR_POSITIONAL:
            return f"has an unsupported parameter `*{each.name}` (a decorator around a handler needs functools.wraps)"
    needed = [each.name for each in places[len(offers) :] if each.default is each.empty]
    needed += [
        each.name
        for each in parameters
        if each.kind is Parameter.KEYWORD_ONLY and each.default is each.empty and each.name not in variables
    ]
    if needed:
        # One parameter is too many. Name the one that is not called like anything that is offered.
        known = {*offers, *variables}
        strange = [each.name for each in places if each.name not in known and each.default is each.empty]
        misspelt = [each for each in strange if did_you_mean(each, variables)]
        culprit = [*misspelt, *(each for each in needed if each not in known), *strange, *needed][0]
        return f"has an unsupported parameter `{culprit}`{did_you_mean(culprit, known - {culprit}).rstrip('?')}"
    for index, each in enumerate(places[: len(offers)]):
        if each.name in (CONN, DATA) and each.name not in offers:
            return f"has `{each.name}`, which it is not given: `{offers[index]}` is in that place"
        if each.name in offers and offers.index(each.name) != index:
            order = ", ".join(f"`{offer}`" for offer in offers)
            return f"has `{each.name}` in the place of `{offers[index]}`, for they are given in order: {order}"
    return ""


def annotation_of(function: Callable[..., Any], name: str, where: str, parameter: str) -> Any:
    """
    Return what one parameter is annotated with, resolved; Any where it is not annotated.

    Raises:
        DeclarationError: a name in it means nothing where the handler stands.
    """
    target = inspect.unwrap(getattr(function, "__func__", function))
    written = _written(target).get(parameter, MISSING)
    if written is MISSING:
        return Any
    alone = types.SimpleNamespace(__annotations__={parameter: written})
    try:
        found = typing.get_type_hints(
            alone, getattr(target, "__globals__", {}), _names_around(function), include_extras=True
        )[parameter]
    except Exception as error:  # noqa: BLE001 - resolving runs what the user wrote, which may raise anything
        text = written if isinstance(written, str) else repr(written)
        raise DeclarationError(
            where,
            f"handler `{name}()`: the annotation `{text}` of `{parameter}` cannot be resolved ({error}); "
            "import what it names also at run time, and not under `if TYPE_CHECKING:`, for it checks what clients send",
        ) from None
    return Any if found is object else found


def _written(target: Any) -> Mapping[str, Any]:
    """Return the annotations as they are written; unresolved ones do not raise, on any version of Python."""
    if sys.version_info >= (3, 14):
        import annotationlib

        found: Mapping[str, Any] = annotationlib.get_annotations(target, format=annotationlib.Format.FORWARDREF)
        return found
    return getattr(target, "__annotations__", {})


def _names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names that are visible where a handler stands: of the function around it, and of its class."""
    frame = caller()
    names = dict(frame.f_locals) if frame is not None else {}
    owner = getattr(function, "__self__", None)
    if owner is not None:
        for each in reversed(type(owner).__mro__):
            names.update(vars(each))
    return names
