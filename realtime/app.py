"""
`App`: what a user writes.

Runs in the worker. It holds the handlers, the declared rooms and the mounts, and answers the wire protocol's questions
(`protocol.base.Application`) by calling them. It never speaks to a client itself. An application is made at import and
knows nothing of processes; a worker binds it to its hub.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from realtime.broker.base import ClientInfo, Room
from realtime.connection import Connection
from realtime.errors import ClientError, Disconnect
from realtime.handlers import Handler, encode
from realtime.hub import Hub, RoomOptions
from realtime.rooms import Pattern, RoomHandle, RoomKind, Rooms, options

ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class App:
    """A realtime application."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.mounts: list[tuple[str, ASGIApp]] = []
        self.statics: list[tuple[str, Path]] = []
        self.is_stock = False
        self._on: dict[str, Handler] = {}
        self._starting: list[Handler] = []
        self._stopping: list[Handler] = []
        self._methods: dict[str, Handler] = {}
        self._hub: Hub | None = None
        self._processes: ProcessPoolExecutor | None = None

    # What a user declares

    def on_connect(self, function: F) -> F:
        """
        Decide who may connect. Called with the connection and the data that the client sent.

        It may set `conn.user`, `conn.info` and `conn.state`, subscribe the connection to rooms, and return data for the
        client. `Reject` answers with an error, `Disconnect` closes.
        """
        return self._register("connect", function, positional=2)

    def on_disconnect(self, function: F) -> F:
        """Learn that a client is gone. Called with the connection, a code and a reason."""
        return self._register("disconnect", function, positional=3)

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

    def room(
        self,
        name: str,
        *,
        presence: bool = False,
        join_leave: bool | None = None,
        history: int = 0,
        history_ttl_s: float = 300.0,
        recover: bool | None = None,
        open: bool = False,
        delta: bool = False,
        filters: bool = False,
        binary: bool = False,
        echo: bool = True,
    ) -> RoomHandle:
        """
        Declare a family of rooms, or speak to one room.

        As a class decorator it declares: `on_subscribe(conn, …)` admits a client, `on_publish(conn, data, …)` returns
        what the room gets (None drops it), `on_leave(member, …)` learns of departures. The pattern's variables are
        given by name. Without `on_publish`, clients cannot publish unless the room is `open`.

        With a concrete name, and no decorator, it returns a handle: `await app.room("chat:lobby").publish(…)`.

        Args:
            name: a pattern such as `chat:{name}`, or a room's name.
            presence: keep who is there.
            join_leave: tell members of joins and leaves; by default where there is presence.
            history: how many publications are kept.
            history_ttl_s: for how many seconds.
            recover: give returning clients what they missed; by default where there is history.
            open: clients may subscribe and publish as they like; declares the room at once, without a class.
            delta: clients that ask for it get the difference to the publication before. Needs `recover`.
            filters: clients may ask for the publications of certain tags only.
            binary: payloads are any bytes, and not JSON: for clients that speak Protobuf.
            echo: a client gets what it published itself.

        Raises:
            ValueError: the options or the pattern make no sense.
        """
        kept = options(
            presence=presence,
            join_leave=join_leave,
            history=history,
            history_ttl_s=history_ttl_s,
            recover=recover,
            open=open,
            delta=delta,
            filters=filters,
            binary=binary,
            echo=echo,
        )

        opened = RoomKind(Pattern(name), kept) if open else None
        if opened is not None:
            self.rooms.declare(opened)  # also without a class

        def declare(handlers: object) -> None:
            kind = opened or RoomKind(Pattern(name), kept)
            kind.take(handlers)
            self.rooms.declare(kind)

        return RoomHandle(self, name, declare)

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

    def bind(self, hub: Hub) -> None:
        """Give the application its worker's hub."""
        self._hub = hub

    @property
    def hub(self) -> Hub:
        """The worker's rooms."""
        if self._hub is None:
            raise RuntimeError(
                "no worker runs this application: publish from a handler, or from another program by Redis"
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

    async def run_cpu(self, function: Callable[..., T], *arguments: Any) -> T:
        """
        Run a function that computes for long in another process, so that the event loop stays free.

        The function and its arguments must be importable and picklable. The processes are this worker's own children.
        """
        if self._processes is None:
            self._processes = ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn"))
        return await asyncio.get_running_loop().run_in_executor(self._processes, function, *arguments)

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
