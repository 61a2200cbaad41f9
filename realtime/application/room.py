"""
Declared rooms: the pattern of each family, what its rooms keep, and its handlers.

Runs in the worker. Of several patterns that match a room, the one with the most literal characters counts; two that
match one room with as many are refused when they are declared. A declaration is checked when it is made: a mistake in
it is a `DeclarationError` with the file and the line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from realtime.application.handlers import Handler
from realtime.application.pattern import Pattern, Variables, unclear
from realtime.application.source import did_you_mean, place_of
from realtime.broker.base import PRIVATE
from realtime.errors import DeclarationError
from realtime.rooms.options import RoomOptions

HANDLERS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_subscribe": ("conn", "data"),
    "on_publish": ("conn", "data"),
    "on_leave": ("member",),
    "on_empty": (),
    "accepts": ("conn", "tags"),
}
"""The handlers that rooms may have, and what each is offered by position."""

assert all(name.startswith(("on", "ac")) for name in HANDLERS), "`_misspelt` looks at no other names"

LIKENESS: Final = 0.85
"""From which likeness a name without `on_` is taken for a handler: `accept` is (0.92), `accepted` is not (0.8)."""


class RoomKind:
    """One declaration: a pattern, how its rooms are kept, and the handlers. `where`: file and line."""

    __slots__ = ("handlers", "options", "pattern", "variables", "where")

    def __init__(self, pattern: Pattern, options: RoomOptions, where: str = "") -> None:
        """
        Raises:
            DeclarationError: a variable has the name of something else that handlers are offered, or there is a `*`
                without braces.
        """
        if "*" in pattern.text.replace("{*}", ""):
            meant = pattern.text.replace("{*}", "*").replace("*", "{*}")
            problem = f"room {pattern.text!r}: `*` stands for no characters by itself; did you mean `{meant}`?"
            raise DeclarationError(where, problem)
        self.pattern = pattern
        self.options = options
        self.where = where
        self.handlers: dict[str, Handler] = {}
        self.variables = Variables()
        offered = {name for names in HANDLERS.values() for name in names}
        if taken := sorted(offered & set(pattern.names)):
            problem = (
                f"room {pattern.text!r}: a variable cannot be called `{taken[0]}`: handlers have a parameter of it"
            )
            raise DeclarationError(where, problem)

    def take(self, handlers: object) -> None:
        """
        Take the handlers out of an object.

        Raises:
            DeclarationError: there is an `on_*` that rooms do not have; a handler asks for what it is not given; or
                handlers and options contradict each other.
        """
        self._refuse_unknown(handlers)
        for name, offers in HANDLERS.items():
            function = getattr(handlers, name, None)
            if function is not None:
                if not callable(function):
                    problem = f"{type(handlers).__name__}.{name} is a {type(function).__name__}, and no function"
                    raise DeclarationError(self.where, problem)
                self._take_one(name, Handler(function, offers=offers, variables=frozenset(self.pattern.names)))
        self._check_options()
        self.options = self.options.with_handlers(
            publish=self._may_publish, leave="on_leave" in self.handlers, empty="on_empty" in self.handlers
        )

    def _refuse_unknown(self, handlers: object) -> None:
        """
        Refuse an `on_*` that rooms do not have, and a method whose name differs little from a handler's.

        A handler whose name is misspelt is never called. Where that is `on_subscribe`, the room would be open to all.
        """
        for name in dir(handlers):
            if name in HANDLERS or not callable(function := getattr(handlers, name)):
                continue
            meant = did_you_mean(name, HANDLERS) if name.startswith("on_") else _misspelt(name)
            if meant or name.startswith("on_"):
                problem = f"{type(handlers).__name__}.{name} is no handler of a room{meant or '.'}"
                raise DeclarationError(place_of(function), f"{problem} A room may have: {', '.join(HANDLERS)}")

    def _take_one(self, name: str, handler: Handler) -> None:
        for variable in self.pattern.names:
            if variable in handler.annotations:
                problem = self.variables.annotate(variable, handler.annotations[variable])
                if problem:
                    raise DeclarationError(handler.where, f"handler `{handler.name}()` {problem}")
        self.handlers[name] = handler

    @property
    def _may_publish(self) -> bool:
        return self.options.publish or "on_publish" in self.handlers

    def _check_options(self) -> None:
        accepts = self.handlers.get("accepts")
        if accepts is not None and accepts.is_coroutine:
            problem = f"{accepts.name} is asked for every member: it cannot be a coroutine"
            raise DeclarationError(accepts.where, problem)
        if accepts is not None and self.options.delta:
            problem = "delta cannot be combined with accepts: a filtered member lacks the base message"
            raise DeclarationError(accepts.where, problem)
        if "publish" in self.options.for_others and not self._may_publish:
            problem = f"{self.pattern.text}: for_others has 'publish', but there is no on_publish, nor open=True"
            raise DeclarationError(self.where, problem)


@dataclass(frozen=True, slots=True)
class Found:
    """A room's declaration, and the values of its pattern's variables, as its handlers annotate them."""

    kind: RoomKind
    variables: Mapping[str, Any]


class Rooms:
    """Every declaration of an application."""

    CACHE_MAX: Final = 10_000  # names whose declaration is remembered; above it all are forgotten

    def __init__(self) -> None:
        self._kinds: list[RoomKind] = []
        self._found: dict[str, Found | None] = {}

    def declare(self, kind: RoomKind) -> None:
        """
        Add a declaration. Harmless when it is there already.

        Raises:
            DeclarationError: another pattern matches the same rooms, and neither has more literal characters.
        """
        if kind in self._kinds:
            return
        by_pattern = {each.pattern: each for each in self._kinds}
        found = unclear(kind.pattern, list(by_pattern))
        if found is not None:
            raise DeclarationError(kind.where, _unclear_text(kind, by_pattern[found[0]], found[1]))
        # Others are put in their place, and not changed: another thread may be looking for a room in them.
        self._kinds = sorted(
            [*self._kinds, kind], key=lambda each: (-each.pattern.literal, len(each.pattern.names), each.pattern.text)
        )
        self._found = {}

    def find(self, room: str) -> Found | None:
        """Return the declaration that counts for a room."""
        known = self._found
        try:
            return known[room]
        except KeyError:
            pass
        if room.startswith(PRIVATE):  # a room of events: no pattern matches it, not even one for any name
            return None
        found = None
        for kind in self._kinds:
            texts = kind.pattern.match(room)
            if texts is not None:
                # A name whose variable cannot be converted is no room, and not one of a pattern that matches more.
                variables = kind.variables.convert(texts)
                found = None if variables is None else Found(kind, variables)
                break
        if len(known) >= self.CACHE_MAX:
            known.clear()
        known[room] = found
        return found

    @property
    def kinds(self) -> Sequence[RoomKind]:
        """Every declaration."""
        return self._kinds

    @property
    def patterns(self) -> list[str]:
        """The texts of all patterns, in the order of their declarations' precedence."""
        return [kind.pattern.text for kind in self._kinds]


def _misspelt(name: str) -> str:
    """
    Return "; did you mean …?" for a method that looks like a handler without beginning with `on_`; else "".

    `onSubscribe`, `_on_subscribe` and `accept` are mistakes. A method `publish` that handlers share is none.
    """
    plain = name.replace("_", "").lower()
    if not plain.startswith(("on", "ac")) or name.startswith("__"):
        return ""
    handlers = {each.replace("_", ""): each for each in HANDLERS}
    near = difflib.get_close_matches(plain, handlers, 1, LIKENESS)
    return f"; did you mean `{handlers[near[0]]}`?" if near else ""


def _unclear_text(kind: RoomKind, other: RoomKind, room: str) -> str:
    """Return why two declarations cannot stand side by side."""
    before = f" (declared in {other.where})" if other.where else ""
    if kind.pattern.text == other.pattern.text:
        return f"room {kind.pattern.text!r} is declared twice{before}"
    return (
        f"room {kind.pattern.text!r} matches the same rooms as {other.pattern.text!r}{before}, such as {room!r}; "
        "the pattern with more literal characters would count, and both have as many"
    )
