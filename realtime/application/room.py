"""
Declared rooms: patterns, what each keeps, and the handle by which an application speaks to a room.

Runs in the worker. A pattern is text with variables, `chat:{name}`; a variable stands for one or more characters other
than `:`. Names that clients send are compared piece by piece and never become a pattern themselves. Of several patterns
that fit, the one with the most literal characters counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from realtime.application.handlers import Handler
from realtime.broker.base import MemberCounts, MembersPage, Position, Publication, PublishRequest, Room
from realtime.rooms.options import RoomOptions
from realtime.threads import from_any_thread

if TYPE_CHECKING:
    from realtime.application.app import App
    from realtime.session.connection import Connection

_PIECES: Final = re.compile(r"\{([^{}]*)\}")
HOOKS: Final = {"on_subscribe": 2, "on_publish": 2, "on_leave": 1, "on_empty": 0, "accepts": 2}  # arguments by position
C = TypeVar("C", bound=type)


class Pattern:
    """The names of a family of rooms."""

    __slots__ = ("_expression", "literal", "names", "text")

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: it is empty, or a variable has no name or one that another has.
        """
        pieces = _PIECES.split(text)
        names = pieces[1::2]
        if not text or "{" in "".join(pieces[0::2]) or "}" in "".join(pieces[0::2]):
            raise ValueError(f"{text!r} is no pattern: write chat:lobby or chat:{{name}}")
        for name in names:
            if name != "*" and not name.isidentifier():
                raise ValueError(f"{text!r}: {name!r} is no name for a variable")
        if len(set(names)) != len(names):
            raise ValueError(f"{text!r}: two variables have one name")
        self.text = text
        self.names = tuple(name for name in names if name != "*")
        self.literal = sum(map(len, pieces[0::2]))
        expression = ""
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                expression += re.escape(piece)
            else:
                expression += "(?:.+)" if piece == "*" else f"(?P<{piece}>[^:]+)"
        self._expression = re.compile(expression, re.DOTALL)

    def match(self, room: str) -> dict[str, str] | None:
        """Return the variables' values, or None for a room of another family."""
        found = self._expression.fullmatch(room)
        return None if found is None else found.groupdict()


class RoomKind:
    """One declaration: a pattern, how its rooms are kept, and the handlers."""

    __slots__ = ("handlers", "options", "pattern")

    def __init__(self, pattern: Pattern, options: RoomOptions) -> None:
        self.pattern = pattern
        self.options = options
        self.handlers: dict[str, Handler] = {}

    def take(self, handlers: object) -> None:
        """
        Take the handlers out of an object.

        Raises:
            TypeError: a handler asks for what it is not given.
        """
        named = frozenset(self.pattern.names)
        for name, positional in HOOKS.items():
            function = getattr(handlers, name, None)
            if function is not None:
                self.handlers[name] = Handler(function, positional=positional, named=named)
        if "accepts" in self.handlers and self.handlers["accepts"].is_coroutine:
            raise TypeError(f"{self.handlers['accepts'].name} is asked for every member: it cannot be a coroutine")
        if "accepts" in self.handlers and self.options.delta:
            raise ValueError("delta cannot be combined with accepts: a filtered member lacks the base message")
        options = self.options.with_handlers(
            publish="on_publish" in self.handlers,
            leave="on_leave" in self.handlers,
            empty="on_empty" in self.handlers,
        )
        if "publish" in options.for_others and not options.publish:
            raise ValueError(
                f"{self.pattern.text}: for_others has 'publish', but there is no on_publish, nor open=True"
            )
        self.options = options


@dataclass(frozen=True, slots=True)
class Found:
    """A room's declaration, and the values of its pattern's variables."""

    kind: RoomKind
    variables: Mapping[str, str]


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
            ValueError: the same pattern was declared before.
        """
        if kind in self._kinds:
            return
        if any(each.pattern.text == kind.pattern.text for each in self._kinds):
            raise ValueError(f"room {kind.pattern.text!r} is declared twice")
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
        found = None
        for kind in self._kinds:
            variables = kind.pattern.match(room)
            if variables is not None:
                found = Found(kind, variables)
                break
        if len(known) >= self.CACHE_MAX:
            known.clear()
        known[room] = found
        return found

    def __iter__(self) -> Any:
        return iter(self._kinds)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a room's history, and the position at the top of its stream."""

    publications: Sequence[Publication]
    top: Position


class RoomHandle:
    """
    One room, or a family of rooms, of an application.

    As a decorator it declares the family and takes the class's handlers; with a concrete name it publishes and reads.
    Every method may be called in any thread, as threads.py says.
    """

    __slots__ = ("_app", "_declare", "name")

    def __init__(self, app: App, name: str, declare: Callable[[object], None]) -> None:
        self._app = app
        self._declare = declare
        self.name = Room(name)

    def __call__(self, handlers: C) -> C:
        """Declare the rooms, with the handlers of this class."""
        self._declare(handlers())
        return handlers

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application."""
        return self._app.event_loop()

    @from_any_thread
    async def publish(
        self,
        data: Any,
        *,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        exclude: Connection | str = "",
    ) -> Position:
        """
        Publish into the room, on all workers. No handler is asked.

        Args:
            data: anything that JSON can say; bytes, in a room that is `binary`.
            tags: short texts beside it, not part of the data.
            idempotency_key: a second publication with the same key within 300 s is not made.
            exclude: a connection, or the id of one, that does not get it; by another connection its user does.

        Returns:
            The position of the publication; offset 0 in a room without history.

        Raises:
            BrokerUnavailable: it may or may not have been published.
            RuntimeError: no worker runs this application.
        """
        broker, options = self._app.hub.broker, self._options
        published = await broker.publish(
            PublishRequest(
                self.name,
                data if isinstance(data, bytes) and options.binary else msgspec.json.encode(data),
                options.retention,
                tags=tags,
                idempotency_key=idempotency_key,
                exclude=exclude if isinstance(exclude, str) else exclude.id,
            )
        )
        return published.position

    @property
    def _options(self) -> RoomOptions:
        options = self._app.room_options(self.name)
        if options is None:
            raise KeyError(self.name)
        return options

    @from_any_thread
    async def history(self, limit: int = 100, *, since: Position | None = None, reverse: bool = False) -> Page:
        """Return up to `limit` publications: oldest first, or newest first with `reverse`."""
        broker, retention = self._app.hub.broker, self._options.retention
        page = await broker.history(self.name, retention=retention, since=since, limit=limit, reverse=reverse)
        return Page(page.publications, page.top)

    @from_any_thread
    async def forget_history(self) -> None:
        """Remove the room's publications."""
        await self._app.hub.broker.forget_history(self.name)

    @from_any_thread
    async def presence(self) -> dict[str, dict[str, Any]]:
        """Return who is in the room, on all workers: connection id -> `user` and `info`."""
        members = await self._app.hub.members.all(self.name)
        return {
            client: {"user": info.user, "info": info.conn_info and msgspec.json.decode(info.conn_info)}
            for client, info in members.items()
        }

    @from_any_thread
    async def presence_page(self, cursor: str = "", *, limit: int = 1000) -> MembersPage:
        """
        Return about `limit` of those in the room, and the `cursor` of the next page; "" after the last. Who is there
        from the first page to the last is in at least one.
        """
        return await self._app.hub.broker.members_page(self.name, cursor=cursor, limit=limit)

    @from_any_thread
    async def presence_stats(self) -> MemberCounts:
        """Count who is in the room, on all workers: connections, and users."""
        return await self._app.hub.members.counts(self.name)
