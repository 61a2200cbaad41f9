"""
Plain data: values that another process can have as they are, and `conn.state`, which holds nothing else.

Pure. A session moves between processes as bytes, so what an application keeps in `conn.state` has to come back equal
and of the same type. msgpack has no sets and no tuples; both are written as extensions. What cannot come back equal is
refused, and never dropped: when it is set, with the key in the message, or at `pack`, where something was changed in
place. Nothing here is ever unpickled, and no class of the application is ever called.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec.msgpack import Ext

DEPTH_MAX: Final = 100  # containers in containers: what is deeper contains itself, or is no state of a connection
INT_BITS: Final = 64  # msgpack's integers

TUPLE: Final = 1
SET: Final = 2
FROZENSET: Final = 3
TIME: Final = 4  # as ISO 8601, with or without an offset from UTC

ALLOWED: Final = (
    "None, bool, int of 64 bits, float, str, bytes, datetime, and list, tuple, set, frozenset and dict of these"
)

_SIMPLE: Final = frozenset((type(None), bool, float, bytes))
_KEYS: Final = frozenset((str, int, bytes))
_ZONES: Final = frozenset((type(None), datetime.timezone))

_encode: Final = msgspec.msgpack.Encoder().encode


class NotPlain(TypeError):
    """A value cannot be moved to another process. `path` names it, such as `conn.state['cart'][2]`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; plain data is {ALLOWED}"


def pack(value: Any, path: str) -> bytes:
    """
    Return a value as bytes, of which `unpack` makes an equal value of the same types.

    Args:
        value: anything.
        path: what the value is called in an error.

    Raises:
        NotPlain: something in it is not plain data.
    """
    return _encode(_marked(value, path, DEPTH_MAX))


def unpack(data: bytes) -> Any:
    """Return the value that `pack` was given."""
    return msgspec.msgpack.decode(data, ext_hook=_unmarked)


def check(value: Any, path: str) -> None:
    """
    See that a value is plain data.

    Raises:
        NotPlain: something in it is not.
    """
    _marked(value, path, DEPTH_MAX)


def _marked(value: Any, path: str, depth: int) -> Any:
    """Return a value that msgpack says in full: tuples, sets and times are extensions."""
    # The exact type, also for keys: a subclass, such as an IntEnum, would come back as what it stands on.
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if kind is str:
        return _text(value, path)
    if kind is int:
        if not -(2 ** (INT_BITS - 1)) <= value < 2**INT_BITS:
            raise NotPlain(path, f"an int of more than {INT_BITS} bits")
        return value
    if depth == 0:
        raise NotPlain(path, f"more than {DEPTH_MAX} containers in one another")
    if kind is dict or kind is PlainState:
        return {_key(key, path): _marked(each, f"{path}[{key!r}]", depth - 1) for key, each in value.items()}
    if kind is list:
        return _items(value, path, depth)
    if kind is tuple:
        return Ext(TUPLE, _encode(_items(value, path, depth)))
    if kind is set or kind is frozenset:
        return Ext(SET if kind is set else FROZENSET, _encode(_items(value, path, depth)))
    if kind is datetime.datetime and type(value.tzinfo) in _ZONES:  # ISO 8601 cannot say a zone by its name
        return Ext(TIME, value.isoformat().encode())
    raise NotPlain(path, f"{kind.__name__} is not plain data")


def _items(values: Iterable[Any], path: str, depth: int) -> list[Any]:
    """Return the marked items of a container. The path names each by its number."""
    return [_marked(each, f"{path}[{number}]", depth - 1) for number, each in enumerate(values)]


def _key(key: Any, path: str) -> Any:
    """Return a marked key. A tuple could be a key in Python, and a list, as which it is written, could not."""
    if type(key) not in _KEYS:
        raise NotPlain(f"{path}[{key!r}]", f"a key of type {type(key).__name__}, and not str, int or bytes")
    return _marked(key, f"{path}[{key!r}]", 0)


def _text(value: str, path: str) -> str:
    """Return a text that UTF-8 can say."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotPlain(path, "a str with a lone surrogate") from None
    return value


def _tuple(data: bytes) -> Any:
    return tuple(unpack(data))


_UNMARKED: Final[Mapping[int, Callable[[bytes], Any]]] = {
    TUPLE: _tuple,
    SET: lambda data: set(unpack(data)),
    FROZENSET: lambda data: frozenset(unpack(data)),
    TIME: lambda data: datetime.datetime.fromisoformat(data.decode()),
}


def _unmarked(code: int, data: memoryview) -> Any:
    return _UNMARKED[code](bytes(data))


class PlainState(dict[str, Any]):
    """`conn.state`: a dict that refuses, when it is set, what could not move with the connection."""

    __slots__ = ()

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if values:
            self.update(values)

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value. Raises `NotPlain` where it could not move, with the key in its text."""
        check({key: value}, "conn.state")
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set a value where there is none. Raises as setting does."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **named: Any) -> None:
        """Set several values, or none of them. Raises as setting does."""
        values = dict(*others, **named)
        check(values, "conn.state")  # all or nothing: a value that is refused leaves the others out as well
        super().update(values)

    def __ior__(self, other: Any) -> PlainState:  # type: ignore[override, misc]
        self.update(other)
        return self
