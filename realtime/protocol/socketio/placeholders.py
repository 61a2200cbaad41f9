"""
Bytes within values: placeholders in a JSON text, and attachments behind it.

Pure. A Socket.IO packet carries each value of bytes as an attachment. In the JSON text stands in its place
`{"_placeholder": true, "num": 0}`, at any depth. The same number may stand in two places, and an attachment may stand
in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

MARK: Final = "_placeholder"
NUMBER: Final = "num"

_encode: Final = msgspec.json.Encoder().encode


class BadPlaceholder(ValueError):
    """A placeholder of an attachment that the packet does not have."""


def check_placeholders(data: bytes, count: int) -> None:
    """
    Look whether each placeholder in a JSON text means one of `count` attachments.

    Raises:
        BadPlaceholder: one does not.
    """
    try:
        waiting: list[Any] = [msgspec.json.decode(data)]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadPlaceholder(f"not readable: {error}") from error
    while waiting:  # not recursive: a reader may nest deeper than a Python function
        value = waiting.pop()
        if type(value) is list:
            waiting.extend(value)
        elif type(value) is dict:
            if value.get(MARK) is True:
                _number(value, count)
            else:
                waiting.extend(value.values())


def _number(value: dict[str, Any], count: int) -> int:
    number = value.get(NUMBER)
    if type(number) is not int or not 0 <= number < count:
        raise BadPlaceholder(f"a placeholder of attachment {number!r}, of {count}")
    return number


def with_attachments(value: Any, attachments: Sequence[bytes]) -> Any:
    """
    Return a decoded value with the attachments in the places of their placeholders. Lists and objects in it are
    changed, not copied.

    Raises:
        BadPlaceholder: a placeholder of an attachment that there is not, or a value nested too deeply.
    """
    try:
        return _with_attachments(value, attachments)
    except RecursionError as error:
        raise BadPlaceholder("a value nested too deeply") from error


def _with_attachments(value: Any, attachments: Sequence[bytes]) -> Any:
    if type(value) is dict:
        if value.get(MARK) is True:
            return attachments[_number(value, len(attachments))]
        for key, each in value.items():
            if type(each) in (dict, list):
                value[key] = _with_attachments(each, attachments)
    elif type(value) is list:
        for at, each in enumerate(value):
            if type(each) in (dict, list):
                value[at] = _with_attachments(each, attachments)
    return value


def without_attachments(value: Any) -> tuple[bytes, tuple[bytes, ...]]:
    """
    Return a value as a JSON text with placeholders, and the attachments: each `bytes` in it, in the order in which they
    stand. A value without bytes is its JSON text.

    Args:
        value: of what JSON has, and `bytes`, `bytearray`, `memoryview`, tuples, and structures of msgspec.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    attachments: list[bytes] = []

    def place(value: Any) -> Any:
        match value:
            case str() | int() | float() | None:
                return value
            case bytes() | bytearray() | memoryview():
                attachments.append(bytes(value))
                return {MARK: True, NUMBER: len(attachments) - 1}
            case dict():
                return {key: place(each) for key, each in value.items()}
            case list() | tuple():
                return [place(each) for each in value]
            case msgspec.Raw():
                return value
            case _:
                return place(msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview)))

    return _encode(place(value)), tuple(attachments)
