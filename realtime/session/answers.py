"""
What handlers return, send and publish, as JSON texts; and which field it is that JSON cannot say.

Runs in the worker, for the application's answers and for what a `Connection` is given. Encoding is one call where all
is well. Only after it has failed is the value searched, field by field, for the innermost one that cannot be encoded. A
client never sees any of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from realtime.errors import AnswerError

DEEPEST: Final = 64
"""Levels that are searched for the field. A value that contains itself has no end."""

UNSAYABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode(value: Any, what: Callable[..., str], *of: Any) -> bytes:
    """
    Return a value as a JSON text.

    Args:
        value: anything that JSON can say, or a model of pydantic.
        what: names the value, for the error. It is called only then.
        of: what it is called with.

    Raises:
        AnswerError: it cannot be said; the error names the field.
    """
    try:
        return _encode(value)
    except UNSAYABLE:
        field, culprit = _find(value, "$", DEEPEST)
        raise AnswerError(what(*of), field, f"a `{type(culprit).__name__}`") from None


def _find(value: Any, field: str, levels: int) -> tuple[str, Any]:
    """Return the innermost field of a value that cannot be encoded, and what stands there."""
    for name, part in _parts(value) if levels else ():
        try:
            _encode(part)
        except UNSAYABLE:
            return _find(part, f"{field}{name}", levels - 1)
    if isinstance(value, Mapping):
        for key in value:
            if not _is_key(key):
                return f"{field}.{key}", key
    return field, value


def _is_key(key: Any) -> bool:
    """Say whether something can be the key of a JSON object."""
    try:
        msgspec.json.encode({key: None})
    except UNSAYABLE:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Give the parts of a value that encode by themselves, each with the way to it."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f".{key}", part
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f".{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield f".{each.name}", getattr(value, each.name)


def _plain(value: Any) -> Any:
    """Return what JSON can say of a pydantic model."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"JSON cannot say a {type(value).__name__}")


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
