"""
`Application`: what a user writes, as `realtime.App`.

Runs in the worker. It holds the handlers, the declared rooms, the mounts and the jobs; how a worker calls the handlers
is in calls.py. A mistake in a declaration is refused when it is made, with file and line. An application is made at
import and knows nothing of processes; a worker binds it to its hub.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, overload

from realtime.application.asgi import refuse_wsgi
from realtime.application.declaration import hook, with_options, written_as
from realtime.application.event_app import EventApp
from realtime.application.handlers import Handler
from realtime.application.jobs import SCOPES, Job, Jobs, Once
from realtime.application.loop_watch import LoopWatch
from realtime.application.pattern import Pattern
from realtime.application.room import HANDLERS, RoomKind
from realtime.application.room_handle import RoomHandle
from realtime.application.source import calling_place, did_you_mean, place_of
from realtime.application.users import UserHandle
from realtime.cluster.bus import ClusterBus
from realtime.errors import DeclarationError, UnknownHandler
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.threads import from_any_thread

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

OFFERS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_connect": ("conn", "data"),
    "on_disconnect": ("conn", "code", "reason"),
    "on_message": ("conn", "data"),
    "on_migrate": ("conn", "when"),
    "on_startup": (),
    "on_shutdown": (),
}
"""The handlers that applications may have, and what each is offered by position."""

assert not OFFERS.keys() & HANDLERS.keys(), "an unknown handler is looked up in both, and belongs to one"

NO_OPTIONS: Final = RoomOptions()

logger = logging.getLogger("realtime.app")


class Application(EventApp):
    """A realtime application. Every method that is for users may be called in any thread."""

    is_socketio = False
    """Whether it is an `AsyncServer`'s: then Socket.IO is served, also where an ASGI application is at its root."""

    def __init__(self) -> None:
        super().__init__()
        self.mounts: list[tuple[str, ASGIApp]] = []
        self.statics: list[tuple[str, Path]] = []
        self.is_stock = False
        self.is_bare = False  # an ASGI application was TARGET, and this object was made around it
        self.setting_defaults: Mapping[str, Any] = {}  # of settings that the operator left as they are
        self.end_grace_s = 0.0
        self._starting: list[Handler] = []
        self._stopping: list[Handler] = []
        self._every: list[Job] = []
        self._jobs = Jobs(self._every)
        self._watch: LoopWatch | None = None
        self._node = ""
        self._handles: list[RoomHandle] = []  # with options, made before a worker ran the application
        self._hub: Hub | None = None
        self._bus: ClusterBus | None = None
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._processes: ProcessPoolExecutor | None = None

    if not TYPE_CHECKING:  # type checkers know which handlers there are

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse an `on_*` that applications do not have: its function would never be called."""
            if not name.startswith("on_"):
                raise AttributeError(f"'App' object has no attribute {name!r}", name=name, obj=self)
            problem = f"app.{name} is no handler of an application{did_you_mean(name, OFFERS) or '.'}"
            if name in HANDLERS:
                problem = f"app.{name} is a handler of a room, and stands in a class below @app.room(…);"
            known = ", ".join(OFFERS)
            raise UnknownHandler(calling_place(), f"{problem} An application may have: {known}")

    # What a user declares

    @hook
    def on_connect(self, function: F) -> F:
        """
        Admit a client, or refuse it. Called with the connection and the data that the client sent.

        It may set `conn.user`, `conn.info` and `conn.state`, subscribe the connection to rooms, and return data for the
        client. `Reject` answers with an error, `Disconnect` closes.
        """
        return self._register("on_connect", function)

    @overload
    def on_disconnect(self, function: F) -> F: ...

    @overload
    def on_disconnect(self, *, grace_s: float) -> Callable[[F], F]: ...

    @written_as("write `@app.on_disconnect` or `@app.on_disconnect(grace_s=30)`")
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
            return self._register("on_disconnect", function)
        return lambda function: self._register("on_disconnect", function)

    @hook
    def on_migrate(self, function: F) -> F:
        """
        See a connection that moves to another worker: in a reload or an upgrade, or when the number of slots changes.
        Called with the connection and `when`: "before", on the worker that it leaves, and "after", on the one that
        serves it now, which may run newer code. Both may change `conn.state`: bring old data to a new form here.

        `Reject` keeps the connection from moving. Its client has to reconnect then, as without a move. The client gets
        nothing while the handler runs.
        """
        return self._register("on_migrate", function)

    @hook
    def on_message(self, function: F) -> F:
        """Take messages that belong to no room and expect no answer. Called with the connection and the data."""
        return self._register("on_message", function)

    def _register(self, name: str, function: F) -> F:
        handler = Handler(function, offers=OFFERS[name])
        if name in self._on:
            raise DeclarationError(handler.where, f"{name} is registered twice; before in {self._on[name].where}")
        self._on[name] = handler
        return function

    @hook
    def on_startup(self, function: F) -> F:
        """Run this in every worker before it serves."""
        self._starting.append(Handler(function))
        return function

    @hook
    def on_shutdown(self, function: F) -> F:
        """Run this in every worker after its last client left."""
        self._stopping.append(Handler(function))
        return function

    @written_as("write @app.every(30), with seconds in parentheses")
    def every(self, seconds: float, *, once: Once = "cluster") -> Callable[[F], F]:
        """
        Run a function again and again, at the multiples of `seconds` since 1970: `@app.every(3600)` on the hour.

        A run that raises is logged, and the next one comes. It ends with the worker. The function takes no arguments;
        a plain function runs in a thread.

        Args:
            seconds: from one run to the next. A run that takes longer lets the next one go by on its own worker.
            once: on one worker of the "cluster", on one of each "machine", or on each "worker". For the first two the
                broker settles which, and there is no run while it is away.

        Raises:
            DeclarationError: the decorator is written without seconds, or these values make no sense.
        """
        where = calling_place()
        if callable(seconds):
            raise DeclarationError(place_of(seconds) or where, "write @app.every(30), with seconds in parentheses")
        if not seconds > 0:
            raise DeclarationError(where, f"every: {seconds!r} seconds are no period; write a number above 0")
        if once not in SCOPES:
            raise DeclarationError(where, f'every: once="{once}" is none of {", ".join(SCOPES)}')

        def register(function: F) -> F:
            handler = Handler(function)
            if self._watch is not None:
                raise DeclarationError(handler.where, f"job `{handler.name}`: a job is declared before a worker starts")
            self._every.append(Job(handler, seconds, once))
            return function

        return register

    @written_as('write @app.rpc("rename"), with a name in parentheses')
    def rpc(self, name: str) -> Callable[[F], F]:
        """
        Answer calls of a method. Called with the connection and the data; what it returns is the answer.

        Args:
            name: the method that clients call.

        Raises:
            DeclarationError: another handler has this name, or the decorator is written without it.
        """
        _refuse_function(name, "rpc", "rename")

        def register(function: F) -> F:
            handler = Handler(function, offers=("conn", "data"))
            if name in self._methods:
                problem = f"rpc {name!r} is registered twice; before in {self._methods[name].where}"
                raise DeclarationError(handler.where, problem)
            self._methods[name] = handler
            return function

        return register

    @with_options
    def room(self, name: str, options: RoomOptions) -> RoomHandle:
        """
        Declare a family of rooms, or return a handle of one room.

        As a class decorator it declares: `on_subscribe(conn, …)` admits a client, `on_publish(conn, data, …)` returns
        what the room gets (None drops it), `on_leave(member, …)` learns of departures and `on_empty(…)` of the last
        one, both at least once, also after a crash. `accepts(conn, tags, …)`, a plain and quick function, is asked for
        each member whether it gets a publication. The pattern's variables are given by name, as text or converted:
        `number: int` makes `table:7` a room, and `table:x` none. Without `on_publish`, clients cannot publish unless
        the room is `open`.

        With a concrete name, no options and no decorator, it returns a handle:
        `await app.room("chat:lobby").publish(…)`. Options that neither decorate a class nor say `open=True` declare
        nothing, and are refused.

        Args:
            name: a pattern such as `chat:{name}`, or a room's name.

        Raises:
            DeclarationError: the options or the pattern make no sense, or another pattern matches the same rooms. It
                is a ValueError.
        """
        _refuse_function(name, "room", "chat:{name}")
        where = calling_place()
        try:
            pattern = Pattern(name)
        except ValueError as error:
            raise DeclarationError(where, f"room {name!r}: {error}") from None
        opened = RoomKind(pattern, options, where) if options.publish else None
        if opened is not None:
            self.rooms.declare(opened)  # also without a class

        def declare(handlers: object) -> None:
            kind = opened or RoomKind(pattern, options, where)
            kind.take(handlers)
            self.rooms.declare(kind)

        unfinished = opened is None and vars(options) != vars(NO_OPTIONS)
        handle = RoomHandle(self, name, declare, where=where, unfinished=unfinished)
        if unfinished and self._hub is None:
            self._handles.append(handle)
        return handle

    def check(self) -> None:
        """
        Refuse what can only be known when all is declared. Called before a worker says that it is ready.

        Raises:
            DeclarationError: options were given that declare nothing.
        """
        for handle in self._handles:
            handle.check()

    def user(self, name: str) -> UserHandle:
        """
        Return a handle of a user, on all workers: `await app.user("ann").is_online()`.

        Args:
            name: the user, as `conn.user` has it.
        """
        return UserHandle(self, name)

    def mount(self, path: str, app: ASGIApp) -> None:
        """
        Serve an ASGI application (FastAPI, Starlette, Django, …) below `path`, on the same workers.

        Args:
            path: where it begins, such as "/" or "/web".
            app: the ASGI application.

        Raises:
            DeclarationError: it is a WSGI application; the text says how to wrap it.
        """
        refuse_wsgi(app, calling_place())
        self.mounts.append((_prefix(path), app))

    def static(self, path: str, directory: str | Path) -> None:
        """
        Serve the files of a directory below `path`.

        Raises:
            DeclarationError: there is no such directory.
        """
        directory = Path(directory).resolve()
        if not directory.is_dir():
            raise DeclarationError(calling_place(), f"static: there is no directory {directory}")
        self.statics.append((_prefix(path), directory))

    # What a worker does with it

    def bind(self, hub: Hub, bus: ClusterBus, *, node: str = "") -> None:
        """
        Give the application its worker's rooms, what reaches other workers, and the name of this machine.

        Raises:
            DeclarationError: as `check`.
        """
        self.check()
        self._hub, self._bus, self._event_loop = hub, bus, asyncio.get_running_loop()
        self._node = node

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

    @property
    def bus(self) -> ClusterBus:
        """What reaches the workers of all machines."""
        if self._bus is None:
            raise RuntimeError("no worker runs this application: call it from a handler, or use the API")
        return self._bus

    async def startup(self) -> None:
        """Run what was registered by `on_startup`, in order. Then begin the jobs, and the watch of the event loop."""
        await self._server_events.start(self.hub.private, self.bus.worker)
        for handler in self._starting:
            await handler()
        self._watch = LoopWatch(self._codes())
        self._watch.start(asyncio.get_running_loop())
        self._jobs.start(self.hub.broker, self._node)

    async def shutdown(self) -> None:
        """End the jobs, run what was registered by `on_shutdown`, in order, and end the processes of `run_cpu`."""
        await self._jobs.stop()
        await self._server_events.close()
        for handler in self._stopping:
            await handler()
        if self._processes is not None:
            self._processes.shutdown(wait=False, cancel_futures=True)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _codes(self) -> dict[CodeType, str]:
        """Return the names of all handlers, by their code."""
        handlers = [*self._on.values(), *self._methods.values(), *self._starting, *self._stopping]
        handlers += [handler for kind in self.rooms.kinds for handler in kind.handlers.values()]
        handlers += [job.handler for job in self._every]
        events = {each.code: each.name for each in self.namespaces.handlers if each.code is not None}
        return events | {handler.code: handler.name for handler in handlers if handler.code is not None}

    @from_any_thread
    async def run_cpu(self, function: Callable[..., T], *arguments: Any) -> T:
        """
        Run a function that computes for long in another process, so that the event loop stays free.

        The function and its arguments must be importable and picklable. The processes are this worker's own children.

        Returns:
            What the function returns.

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


def _refuse_function(name: object, decorator: str, example: str) -> None:
    """
    Refuse a decorator that is written without parentheses.

    Raises:
        DeclarationError: `name` is what it decorates.
    """
    if not isinstance(name, str):
        where = place_of(name) or calling_place()
        called = getattr(name, "__name__", repr(name))
        raise DeclarationError(where, f'`{called}`: write @app.{decorator}("{example}"), with a name in parentheses')


def _prefix(path: str) -> str:
    """
    Return a mount's path without the slash at its end; "" for all.

    Raises:
        DeclarationError: it does not begin with a slash.
    """
    if not path.startswith("/"):
        raise DeclarationError(calling_place(), f"{path!r} does not begin with a slash")
    return path.rstrip("/")


def stock_app() -> Application:
    """Return the application that serves when there is none: every room is open."""
    app = Application()
    app.is_stock = True
    app.room("{*}", presence=True, history=100, history_ttl_s=300, open=True, delta=True, filters=True)
    return app
