"""
Kinds of values that a setting can have: the protocol of them all, and the kinds of text.

Pure: text, or a value from TOML, goes in; the value or a `ValueError` comes out. They run in whatever process resolves
settings, and never read a file, the environment or the network. Each kind can say what it allows, in words that finish
the sentence "… is not …". Numbers are in quantities.py, addresses in addresses.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol


class ValueKind(Protocol):
    """What a setting accepts."""

    @property
    def metavar(self) -> str:
        """The word for the value in `--help`."""

    @property
    def allowed(self) -> str:
        """What is allowed, as in "'x' is not {allowed}"."""

    def parse(self, value: object) -> Any:
        """
        Make the value out of text or of what TOML gave.

        Raises:
            ValueError: it is not of this kind. Its text, when there is one, names what is wrong in particular.
        """


@dataclass(frozen=True)
class Text:
    """A non-empty text, perhaps of a given form."""

    metavar: str = "TEXT"
    allowed: str = "a text"
    pattern: str = r".+"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Secret:
    """A text that is never shown, not even in the error that refuses it."""

    min_bytes: int
    metavar: str = "TEXT"

    @property
    def allowed(self) -> str:
        return f"a secret of at least {self.min_bytes} bytes"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        size = len(value.encode())  # bytes are what is hashed, and not characters
        if size < self.min_bytes:
            raise ValueError(f"it has {size}; `openssl rand -hex 32` makes a good one")
        return value


@dataclass(frozen=True)
class Choice:
    """One word out of a few, in any case: `INFO` is a level of the log as well."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.words)

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.words)}"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or value.lower() not in self.words:
            raise ValueError
        return value.lower()


@dataclass(frozen=True)
class Flag:
    """
    Yes or no, in the words that environment files use.

    TOML has its own `true` and `false`. Any other word is refused: `REALTIME_ANONYMOUS=nope` must not mean yes.
    """

    metavar: str = ""
    allowed: str = "yes or no (true, false, on, off, 1, 0)"

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        word = value.lower() if isinstance(value, str) else None
        if word in ("1", "yes", "true", "on"):
            return True
        if word in ("0", "no", "false", "off"):
            return False
        raise ValueError


@dataclass(frozen=True)
class Variable:
    """A variable of the environment."""

    metavar: str = "NAME=VALUE"
    allowed: str = "a variable such as CUDA_VISIBLE_DEVICES={slot}"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*", value):
            raise ValueError
        return value


@dataclass(frozen=True)
class Many:
    """
    Several values of one kind: a list in TOML, else separated by commas, else the option given again.

    A value that is given twice counts once, for an address cannot be bound twice. An empty part counts for nothing, so
    that `a,` and an empty list are no errors.
    """

    each: ValueKind
    has_commas: bool = False  # a value may hold one: nothing is separated

    @property
    def metavar(self) -> str:
        return self.each.metavar

    @property
    def allowed(self) -> str:
        return self.each.allowed

    def parse(self, value: object) -> tuple[Any, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        found: list[Any] = []
        for item in items:
            for part in item.split(",") if isinstance(item, str) and not self.has_commas else [item]:
                part = part.strip() if isinstance(part, str) else part
                if part == "":
                    continue
                try:  # the error names the part that is wrong, and not the whole list
                    parsed = self.each.parse(part)
                except ValueError as error:
                    raise PartError(part, str(error)) from None
                if parsed not in found:
                    found.append(parsed)
        return tuple(found)


class PartError(ValueError):
    """One of several values is wrong."""

    def __init__(self, part: object, problem: str) -> None:
        super().__init__(problem)
        self.part = part
