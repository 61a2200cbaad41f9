"""
Declared namespaces: the pattern of each, and the handlers of its events.

Runs in the worker. The namespace "/" is always there. Another one exists where a handler or `app.namespace` declares
it, by its name or by a pattern as rooms have them: "/room-{id}". Of several patterns that match a name, the one with
the most literal characters counts. A mistake in a declaration is refused when it is made, with file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from realtime.application.event_handler import EventHandler
from realtime.application.pattern import Pattern, Variables, unclear
from realtime.errors import DeclarationError
from realtime.rooms.event_rooms import MAIN, is_namespace
from realtime.rooms.options import RESERVED_EVENTS

ANY_EVENT: Final = "*"
"""The name under which a handler takes the events that no other handler of the namespace takes."""


class NamespaceKind:
    """One declaration: a pattern, and the handlers by event. `where`: file and line of the first of them."""

    __slots__ = ("handlers", "pattern", "variables", "where")

    def __init__(self, pattern: Pattern, where: str) -> None:
        self.pattern = pattern
        self.where = where
        self.handlers: dict[str, EventHandler] = {}
        self.variables = Variables()

    def take(self, event: str, handler: EventHandler) -> None:
        """
        Add a handler.

        Raises:
            DeclarationError: the event has one, or it annotates a variable otherwise than another handler.
        """
        if event in self.handlers:
            problem = f"event {event!r} of namespace {self.pattern.text!r} is registered twice"
            raise DeclarationError(handler.where, f"{problem}; before in {self.handlers[event].where}")
        for variable, wanted in handler.annotations.items():
            problem = self.variables.annotate(variable, wanted)
            if problem:
                raise DeclarationError(handler.where, f"handler `{handler.name}()` {problem}")
        self.handlers[event] = handler


class FoundNamespace(NamedTuple):
    """A namespace's declaration, and the values of its pattern's variables."""

    kind: NamespaceKind
    variables: Mapping[str, Any]


class DeclaredNamespaces:
    """Every namespace of an application."""

    CACHE_MAX: Final = 1_000  # names whose declaration is remembered; above it all are forgotten

    def __init__(self) -> None:
        self._kinds = [NamespaceKind(Pattern(MAIN), "")]
        self._found: dict[str, FoundNamespace | None] = {}

    def declare(self, text: str, where: str) -> NamespaceKind:
        """
        Return the declaration of a pattern, made now where there is none.

        Raises:
            DeclarationError: it is no pattern of a namespace, or another pattern matches the same names, and neither
                has more literal characters.
        """
        for kind in self._kinds:
            if kind.pattern.text == text:
                return kind
        problem = "" if is_namespace(text) else 'it begins with "/", and has no comma'
        try:
            pattern = Pattern(text)
        except ValueError as error:
            problem = problem or str(error)
        if problem:
            raise DeclarationError(where, f"namespace {text!r}: {problem}")
        kind = NamespaceKind(pattern, where)
        by_pattern = {each.pattern: each for each in self._kinds}
        found = unclear(pattern, list(by_pattern))
        if found is not None:
            other, name = found
            raise DeclarationError(
                where, f"namespace {text!r} matches the same names as {other.text!r}, such as {name!r}"
            )
        self._kinds = sorted([*self._kinds, kind], key=lambda each: (-each.pattern.literal, each.pattern.text))
        self._found = {}
        return kind

    def handle(self, text: str, event: str, function: Any, where: str) -> None:
        """
        Declare a handler of an event.

        Raises:
            DeclarationError: as `declare`; or the event is Socket.IO's own, or the handler cannot be called.
        """
        if event in RESERVED_EVENTS:
            right = {"connect": "@app.on_connect", "disconnect": "@app.on_disconnect"}.get(event)
            instead = f"; write {right}" if right else ""
            raise DeclarationError(where, f"the event {event!r} is Socket.IO's own, and no client sends it{instead}")
        kind = self.declare(text, where)
        kind.take(event, EventHandler(function, frozenset(kind.pattern.names)))
        self._found = {}  # variables may be converted otherwise now

    def find(self, namespace: str) -> FoundNamespace | None:
        """Return the declaration that counts for a namespace; None for one that there is not."""
        if namespace in self._found:
            return self._found[namespace]
        found = None
        for kind in self._kinds if is_namespace(namespace) else ():
            texts = kind.pattern.match(namespace)
            if texts is not None:
                variables = kind.variables.convert(texts)
                found = None if variables is None else FoundNamespace(kind, variables)
                break
        if len(self._found) >= self.CACHE_MAX:
            self._found.clear()
        self._found[namespace] = found
        return found

    @property
    def patterns(self) -> list[str]:
        """The texts of all patterns."""
        return [kind.pattern.text for kind in self._kinds]

    @property
    def handlers(self) -> Iterator[EventHandler]:
        """Every handler."""
        for kind in self._kinds:
            yield from kind.handlers.values()
