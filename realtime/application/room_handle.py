"""
`RoomHandle`: the handle by which an application declares a family of rooms, or speaks to one room.

Runs in the worker. A handle that has options is a declaration: it has to decorate a class, or to say `open=True`. It is
refused when it is used to publish or read, for its options would mean nothing there. A handle without options speaks
to one room, which is declared elsewhere. It asks no handler of the application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from realtime.application.room import HANDLERS, RoomKind, Rooms
from realtime.application.source import calling_place, place_of
from realtime.application.values import Page, Publication
from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, MembersPage, Position, PublishRequest, Room
from realtime.errors import DeclarationError, NotKept, RoomIsPattern, UnknownHandler, UnknownRoom
from realtime.rooms.hub import Hub
from realtime.session.answers import encode
from realtime.session.connection import Connection
from realtime.threads import from_any_thread

C = TypeVar("C", bound=type)

PRESENCE = "presence=True"
HISTORY = "history=N"


class RunningApp(Protocol):
    """The application that a handle belongs to, as far as a handle needs it."""

    rooms: Rooms

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application; None before that."""

    @property
    def hub(self) -> Hub:
        """The rooms of the worker that runs the application."""


class RoomHandle:
    """
    One room, or a family of rooms, of an application.

    As a decorator it declares the family and takes the class's handlers; with a concrete name it publishes and reads.
    Every method may be called in any thread, as threads.py says.
    """

    __slots__ = ("_app", "_declare", "is_unfinished", "name", "where")

    def __init__(
        self,
        app: RunningApp,
        name: str,
        declare: Callable[[object], None],
        *,
        where: str = "",
        unfinished: bool = False,
    ) -> None:
        """
        Args:
            app: to which the rooms belong.
            name: a pattern, or a room's name.
            declare: takes an object whose methods are the handlers.
            where: file and line of the call that made this handle.
            unfinished: it has options, and nothing is declared by them until it decorates a class.
        """
        self._app = app
        self._declare = declare
        self.name = Room(name)
        self.where = where
        self.is_unfinished = unfinished

    def __call__(self, handlers: C) -> C:
        """
        Declare the rooms, with the handlers of this class.

        Raises:
            DeclarationError: this is no class, or its handlers cannot be called as they are written.
        """
        if not isinstance(handlers, type):
            problem = (
                f"@app.room({self.name!r}) decorates a class: its methods on_subscribe, on_publish, … are handlers"
            )
            raise DeclarationError(place_of(handlers) or self.where, problem)
        self._declare(handlers())
        self.is_unfinished = False
        return handlers

    if not TYPE_CHECKING:  # type checkers know what a handle has

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse an `on_*` of a handle: the handlers of rooms are methods of a class."""
            if not name.startswith("on_"):
                raise AttributeError(f"'RoomHandle' object has no attribute {name!r}", name=name, obj=self)
            problem = (
                f"app.room({self.name!r}).{name} is no decorator: the handlers of a room are methods of the class that "
                f"@app.room({self.name!r}) decorates. A room may have: {', '.join(HANDLERS)}"
            )
            raise UnknownHandler(calling_place(), problem)

    def check(self) -> None:
        """
        Refuse options that declare nothing.

        Raises:
            DeclarationError: the handle has options, and decorates no class.
        """
        if self.is_unfinished:
            problem = (
                f"app.room({self.name!r}, …) has options and declares nothing: decorate a class with it, or say "
                f"open=True. A handle of a room has no options: app.room({self.name!r})"
            )
            raise DeclarationError(self.where, problem)

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs the application."""
        return self._app.event_loop()

    def _use(self) -> tuple[Hub, RoomKind]:
        """
        Return what a call of this handle needs: the worker's rooms, and how this one is declared.

        Raises:
            RuntimeError: no worker runs the application.
            RoomError: the name is a pattern, or no declaration matches it.
            DeclarationError: the handle has options, and declares nothing.
        """
        self.check()
        hub = self._app.hub
        if "{" in self.name or "*" in self.name:
            raise RoomIsPattern(self.name)
        found = self._app.rooms.find(self.name)
        if found is None:
            raise UnknownRoom(self.name, self._app.rooms.patterns)
        return hub, found.kind

    def _use_presence(self) -> Hub:
        hub, kind = self._use()
        if not kind.options.presence:
            raise NotKept(self.name, "presence", PRESENCE)
        return hub

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
            UnknownRoom: no declaration matches the room's name; the text names those that there are.
            AnswerError: JSON cannot say `data`; the text names the field.
            RuntimeError: no worker runs this application.
        """
        hub, kind = self._use()
        is_bytes = isinstance(data, bytes) and kind.options.binary
        payload = data if is_bytes else encode(data, lambda: f"publication into {self.name!r}")
        published = await hub.broker.publish(
            PublishRequest(
                self.name,
                payload,
                kind.options.retention,
                tags=tags,
                idempotency_key=idempotency_key,
                exclude=exclude if isinstance(exclude, str) else exclude.id,
            )
        )
        return published.position

    @from_any_thread
    async def history(self, limit: int = 100, *, since: Position | None = None, reverse: bool = False) -> Page:
        """
        Return publications that the room keeps, and the position at the top of its stream.

        Args:
            limit: how many at most.
            since: begin after this position, or before it with `reverse`.
            reverse: newest first; else oldest first.

        Raises:
            NotKept: the room is declared without history.
        """
        hub, kind = self._use()
        retention = kind.options.retention
        if not retention.size:
            raise NotKept(self.name, "history", HISTORY)
        page = await hub.broker.history(self.name, retention=retention, since=since, limit=limit, reverse=reverse)
        binary = kind.options.binary
        return Page([Publication.decode(each, binary=binary) for each in page.publications], page.top)

    @from_any_thread
    async def forget_history(self) -> None:
        """Remove the room's publications."""
        hub, _ = self._use()
        await hub.broker.forget_history(self.name)

    @from_any_thread
    async def presence(self) -> dict[ConnectionId, ClientInfo]:
        """
        Return the members of the room, on all workers, by connection id.

        Raises:
            NotKept: the room is declared without presence.
        """
        return dict(await self._use_presence().members.all(self.name))

    @from_any_thread
    async def presence_page(self, cursor: str = "", *, limit: int = 1000) -> MembersPage:
        """
        Return about `limit` members of the room, and the `cursor` of the next page; "" after the last. A member that
        stays from the first page to the last is in at least one.

        Raises:
            NotKept: the room is declared without presence.
        """
        return await self._use_presence().broker.members_page(self.name, cursor=cursor, limit=limit)

    @from_any_thread
    async def presence_stats(self) -> MemberCounts:
        """
        Count the members of the room, on all workers: connections, and users.

        Raises:
            NotKept: the room is declared without presence.
        """
        return await self._use_presence().members.counts(self.name)
