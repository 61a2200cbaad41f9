"""
The names of a family of rooms: `chat:{name}`, and what its variables may be.

Runs in the worker. A pattern is text with variables; a variable stands for one or more characters other than `:`, and
`{*}` for any rest of a name. Names that clients send are compared piece by piece and never become a pattern themselves.
A variable is text unless a handler annotates it, as in `number: int`. Then it is converted, and a name whose variable
cannot be converted is no room of the family. Text has to be as the value is written: `07` is no `int`, for else one
value would have several rooms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import msgspec.inspect

_PIECES: Final = re.compile(r"\{([^{}]*)\}")
_ANY: Final = ""
"""In the tokens of a pattern: any character."""
_NOT_COLON: Final = ":"
"""In the tokens of a pattern, as a class: any character but a colon."""

CONVERTED: Final = (
    msgspec.inspect.IntType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.LiteralType,
    msgspec.inspect.EnumType,
)
UNCONVERTED: Final = (msgspec.inspect.StrType, msgspec.inspect.AnyType)
ALLOWED: Final = "str, int, uuid.UUID, an Enum, or a Literal"


class Pattern:
    """The names of a family of rooms."""

    __slots__ = ("_expression", "_tokens", "literal", "names", "text")

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: it is empty, or a variable has no name or one that another has.
        """
        pieces = _PIECES.split(text)
        assert len(pieces) % 2, "one group: the split gives text, a name, text, …, and ends with text"
        names = pieces[1::2]
        between = "".join(pieces[0::2])
        if not text or "{" in between or "}" in between:
            raise ValueError("this is no pattern; write chat:lobby or chat:{name}")
        for name in names:
            if name != "*" and not name.isidentifier():
                type_ = "; a type is the annotation of the handler's parameter" if ":" in name else ""
                raise ValueError(f"{name!r} is no name for a variable{type_}")
        if len(set(names)) != len(names):
            raise ValueError("two variables have one name")
        self.text = text
        self.names = tuple(name for name in names if name != "*")
        self.literal = sum(map(len, pieces[0::2]))
        expression = ""
        tokens: list[tuple[str, bool, bool]] = []
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                expression += re.escape(piece)
                tokens += [(character, True, False) for character in piece]
            else:
                expression += "(?:.+)" if piece == "*" else f"(?P<{piece}>[^:]+)"
                kind = _ANY if piece == "*" else _NOT_COLON
                tokens += [(kind, False, False), (kind, False, True)]
        self._expression = re.compile(expression, re.DOTALL)
        self._tokens = tokens

    def match(self, room: str) -> dict[str, str] | None:
        """Return the variables' values, or None for a room of another family."""
        found = self._expression.fullmatch(room)
        return None if found is None else found.groupdict()

    def common(self, other: Pattern) -> str | None:
        """
        Return a name that both patterns match, or None where there is none.

        Walks both patterns at once. A token is a character, or a class of characters; the second token of a variable
        repeats. The shortest common name is found first.
        """
        mine, theirs = self._tokens, other._tokens
        reached = {(0, 0)}
        waiting = [(0, 0, "")]
        for at, there, text in waiting:
            if at == len(mine) and there == len(theirs):
                assert self.match(text) is not None, "the tokens say what the expression says"
                assert other.match(text) is not None, "the tokens say what the expression says"
                return text
            following: list[tuple[int, int, str]] = []
            if at < len(mine) and mine[at][2]:
                following.append((at + 1, there, text))
            if there < len(theirs) and theirs[there][2]:
                following.append((at, there + 1, text))
            if at < len(mine) and there < len(theirs):
                character = _meet(mine[at], theirs[there])
                if character is not None:
                    following.append((at + (not mine[at][2]), there + (not theirs[there][2]), text + character))
            for each in following:
                if each[:2] not in reached:
                    reached.add(each[:2])
                    waiting.append(each)
        return None


def _meet(one: tuple[str, bool, bool], other: tuple[str, bool, bool]) -> str | None:
    """Return a character that both tokens match, or None."""
    (kind, is_literal, _), (other_kind, is_other_literal, _) = one, other
    if is_literal and is_other_literal:
        return kind if kind == other_kind else None
    if is_literal or is_other_literal:
        character, class_ = (kind, other_kind) if is_literal else (other_kind, kind)
        return None if class_ == _NOT_COLON and character == ":" else character
    return "x"


class Variables:
    """
    What the handlers of one family annotate its variables with.

    The handlers agree on a variable, or do not annotate it: its value is the same for all.
    """

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}

    def annotate(self, name: str, wanted: Any) -> str:
        """Note a handler's annotation of a variable. Return what is wrong with it; "" where nothing is."""
        try:
            kind = msgspec.inspect.type_info(wanted)
        except TypeError:
            return f"annotates the variable `{name}` with {wanted!r}; a variable can be {ALLOWED}"
        if isinstance(kind, msgspec.inspect.AnyType):
            return ""
        if not isinstance(kind, (*CONVERTED, *UNCONVERTED)):
            return f"annotates the variable `{name}` with {wanted!r}; a variable can be {ALLOWED}"
        if self._types.setdefault(name, wanted) != wanted:
            return f"annotates the variable `{name}` with {wanted!r}, and another handler with {self._types[name]!r}"
        return ""

    def convert(self, texts: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Return the values of the variables; None where one cannot be converted, and there is no such room."""
        if not self._types:
            return texts
        values: dict[str, Any] = dict(texts)
        for name, wanted in self._types.items():
            if name not in texts:
                continue
            try:
                value = values[name] = msgspec.convert(texts[name], wanted, strict=False)
            except (msgspec.ValidationError, ValueError):
                return None
            if _written(value) != texts[name]:
                return None
        assert values.keys() == texts.keys(), "a handler gets the variables of its pattern, and no others"
        return values


def _written(value: Any) -> str:
    """Return the one text by which a value stands in the name of a room."""
    return str(getattr(value, "value", value))


def unclear(pattern: Pattern, others: Sequence[Pattern]) -> tuple[Pattern, str] | None:
    """Return a pattern of `others` that counts as much as this one, with a room that both match; None without one."""
    for other in others:
        room = pattern.common(other) if other.literal == pattern.literal else None
        if room is not None:
            return other, room
    return None
