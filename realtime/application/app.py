"""
`App`: what a user writes.

Runs in the worker. It holds the handlers, the declared rooms and the mounts, and answers the wire protocol's questions
(`protocol.base.Application`) by calling them. It never speaks to a client itself. An application is made at import and
knows nothing of processes; a worker binds it to its hub.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar, overload

from realtime.application.declaration import with_options
from realtime.application.handlers import Handler, encode
from realtime.application.room import Pattern, RoomHandle, RoomKind, Rooms
from realtime.application.users import UserHandle
from realtime.broker.base import ClientInfo, Publication, Room
from realtime.cluster.bus import ClusterBus
from realtime.errors import ClientError, Disconnect
from realtime.rooms.fanout import Accepts
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.session.connection import Connection
from realtime.threads import from_any_thread

ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

logger = logging.getLogger("realtime.app")


class App:
    """A realtime application. Every method that is for users may be called in any thread, as threads.py says."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.mounts: list[tuple[str, ASGIApp]] = []
        self.statics: list[tuple[str, Path]] = []
        self.is_stock = False
        self.end_grace_s = 0.0
        self._on: dict[str, Handler] = {}
        self._starting: list[Handler] = []
        self._stopping: list[Handler] = []
        self._methods: dict[str, Handler] = {}
        self._hub: Hub | None = None
        self._bus: ClusterBus | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._processes: ProcessPoolExecutor | None = None

    # What a user declares

    def on_connect(self, function: F) -> F:
        """
        Decide who may connect. Called with the connection and the data that the client sent.

        It may set `conn.user`, `conn.info` and `conn.state`, subscribe the connection to rooms, and return data for the
        client. `Reject` answers with an error, `Disconnect` closes.
        """
        return self._register("connect", function, positional=2)

    @overload
    def on_disconnect(self, function: F) -> F: ...

    @overload
    def on_disconnect(self, *, grace_s: float) -> Callable[[F], F]: ...

    def on_disconnect(self, function: F | None = None, *, grace_s: float = 0.0) -> F | Callable[[F], F]:
        """
        Learn that a client is gone. Called with the connection, a code and a reason; at least once, also after a crash
        of its worker: then on another one, and `conn.state` is as it was when the client had connected.

        Args:
            function: the handler, where the decorator is written without arguments.
            grace_s: seconds in which a user whose connection broke may come back: if the user is connected then, on any
                worker, the handler is not called.
        """
        self.end_grace_s = grace_s
        if function is not None:
            return self._register("disconnect", function, positional=3)
        return lambda function: self._register("disconnect", function, positional=3)

    def on_message(self, function: F) -> F:
        """Take messages that belong to no room and expect no answer. Called with the connection and the data."""
        return self._register("message", function, positional=2)

    def _register(self, name: str, function: F, *, positional: int) -> F:
        if name in self._on:
            raise ValueError(f"on_{name} is registered twice")
        self._on[name] = Handler(function, positional=positional)
        return function

    def on_startup(self, function: F) -> F:
        """Run this in every worker before it serves."""
        self._starting.append(Handler(function, positional=0))
        return function

    def on_shutdown(self, function: F) -> F:
        """Run this in every worker after its last client left."""
        self._stopping.append(Handler(function, positional=0))
        return function

    def rpc(self, name: str) -> Callable[[F], F]:
        """Answer calls of this method. Called with the connection and the data; what it returns is the answer."""

        def register(function: F) -> F:
            if name in self._methods:
                raise ValueError(f"rpc {name!r} is registered twice")
            self._methods[name] = Handler(function, positional=2)
            return function

        return register

    @with_options
    def room(self, name: str, options: RoomOptions) -> RoomHandle:
        """
        Declare a family of rooms, or speak to one room.

        As a class decorator it declares: `on_subscribe(conn, …)` admits a client, `on_publish(conn, data, …)` returns
        what the room gets (None drops it), `on_leave(member, …)` learns of departures and `on_empty(…)` of the last
        one, both at least once, also after a crash. `accepts(conn, tags, …)`, a plain and quick function, is asked for
        each member whether it gets a publication. The pattern's variables are given by name. Without `on_publish`,
        clients cannot publish unless the room is `open`.

        With a concrete name, and no decorator, it returns a handle: `await app.room("chat:lobby").publish(…)`.

        Args:
            name: a pattern such as `chat:{name}`, or a room's name.
        """
        opened = RoomKind(Pattern(name), options) if options.publish else None
        if opened is not None:
            self.rooms.declare(opened)  # also without a class

        def declare(handlers: object) -> None:
            kind = opened or RoomKind(Pattern(name), options)
            kind.take(handlers)
            self.rooms.declare(kind)

        return RoomHandle(self, name, declare)

    def user(self, name: str) -> UserHandle:
        """Return a handle of a user, on all workers: `await app.user("ann").is_online()`."""
        return UserHandle(name, self._running_bus, self.event_loop)

    def _running_bus(self) -> ClusterBus:
        if self._bus is None:
            raise RuntimeError("no worker runs this application: call it from a handler, or use the API")
        return self._bus

    def mount(self, path: str, app: ASGIApp) -> None:
        """Serve an ASGI application (FastAPI, Starlette, Django, …) below `path`, on the same workers."""
        self.mounts.append((_prefix(path), app))

    def static(self, path: str, directory: str | Path) -> None:
        """
        Serve the files of a directory below `path`.

        Raises:
            ValueError: there is no such directory.
        """
        directory = Path(directory).resolve()
        if not directory.is_dir():
            raise ValueError(f"static: there is no directory {directory}")
        self.statics.append((_prefix(path), directory))

    # What a worker does with it

    def bind(self, hub: Hub, bus: ClusterBus) -> None:
        """Give the application its worker's hub, and who reaches other workers."""
        self._hub, self._bus, self._event_loop = hub, bus, asyncio.get_running_loop()

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop of the worker that runs this application; None before that."""
        return self._event_loop

    @property
    def hub(self) -> Hub:
        """The worker's rooms."""
        if self._hub is None:
            raise RuntimeError(
                "no worker runs this application: publish from a handler, or from another program by the API (/api)"
            )
        return self._hub

    async def startup(self) -> None:
        """Run what was registered by `on_startup`, in order."""
        for handler in self._starting:
            await handler()

    async def shutdown(self) -> None:
        """Run what was registered by `on_shutdown`, in order, and end the processes of `run_cpu`."""
        for handler in self._stopping:
            await handler()
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)

    @from_any_thread
    async def run_cpu(self, function: Callable[..., T], *arguments: Any) -> T:
        """
        Run a function that computes for long in another process, so that the event loop stays free.

        The function and its arguments must be importable and picklable. The processes are this worker's own children.

        Raises:
            BrokenProcessPool: a process ended while it computed, or could not import the function. The next call has
                new ones.
        """
        if self._processes is None:
            self._processes = ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn"))
        processes = self._processes
        try:
            return await asyncio.get_running_loop().run_in_executor(processes, function, *arguments)
        except BrokenProcessPool:
            if self._processes is processes:
                self._processes = None
            raise

    # What the wire protocol asks

    def room_options(self, room: Room) -> RoomOptions | None:
        found = self.rooms.find(room)
        return None if found is None else found.kind.options

    async def connect(self, conn: Connection, data: bytes | None) -> bytes | None:
        handler = self._on.get("connect")
        return None if handler is None else encode(await handler(conn, handler.decode(data)))

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        handler = self._on.get("disconnect")
        if handler is not None:
            await handler(conn, code, reason)

    async def subscribe(self, conn: Connection, room: Room, data: bytes | None) -> bytes | None:
        handler, variables = self._room_handler(room, "on_subscribe")
        if handler is None:
            return None
        return encode(await handler(conn, handler.decode(data) if handler.positional > 1 else None, **variables))

    async def publish(self, conn: Connection, room: Room, data: bytes) -> bytes | None:
        handler, variables = self._room_handler(room, "on_publish")
        if handler is None:
            return data  # an open room
        return encode(await handler(conn, handler.decode(data), **variables))

    def accepts(self, conn: Connection, room: Room) -> Accepts | None:
        handler, variables = self._room_handler(room, "accepts")
        if handler is None:
            return None

        def accept(publication: Publication) -> bool:
            try:
                return bool(handler.call_now(conn, publication.tags or {}, **variables))
            except Exception:
                logger.exception("! accepts of %s failed: the publication is not shown to %s", room, conn.id)
                return False

        return accept

    # What the hub asks, of those who leave

    @property
    def hears_ends(self) -> bool:
        """Whether there is a handler for connections that end."""
        return "disconnect" in self._on

    async def empty(self, room: Room) -> None:
        handler, variables = self._room_handler(room, "on_empty")
        if handler is not None:
            await handler(**variables)

    async def lost(self, info: ClientInfo) -> None:
        assert info.conn_info is not None, "a record holds what is to be known"
        await self.disconnect(Connection.restore(info.conn_info), 1006, "its worker is gone")

    async def leave(self, room: Room, info: ClientInfo) -> None:
        handler, variables = self._room_handler(room, "on_leave")
        if handler is not None:
            await handler(info, **variables)

    def _room_handler(self, room: Room, name: str) -> tuple[Handler | None, dict[str, str]]:
        found = self.rooms.find(room)
        if found is None:
            return None, {}
        return found.kind.handlers.get(name), dict(found.variables)

    async def rpc_call(self, conn: Connection, method: str, data: bytes | None) -> bytes | None:
        """Answer a call. 104: no such method; 108: no methods at all."""
        handler = self._methods.get(method)
        if handler is not None:
            return encode(await handler(conn, handler.decode(data)))
        if self._methods:
            raise ClientError(104, "method not found")
        raise ClientError(108, "not available")

    async def message(self, conn: Connection, data: bytes) -> None:
        handler = self._on.get("message")
        if handler is None:
            raise Disconnect(3508, "not available")
        await handler(conn, handler.decode(data))


def _prefix(path: str) -> str:
    """Return a mount's path without the slash at its end; "" for all."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} does not begin with a slash")
    return path.rstrip("/")


def stock_app() -> App:
    """Return the application that serves when there is none: every room is open."""
    app = App()
    app.is_stock = True
    app.room("{*}", presence=True, history=100, history_ttl_s=300, open=True, delta=True, filters=True)
    return app
