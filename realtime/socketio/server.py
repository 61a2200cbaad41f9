"""
`AsyncServer`: the server of python-socketio, as a face over an application of this package and its events.

Runs in the worker, and is made at import of the application. Every worker has its own, and they share rooms: an emit
reaches the clients of all workers and machines. It knows no packet. What it is served by is `realtime serve`.

**Order.** What is emitted to one client of this worker is written at once. Other events go through the broker. So that
no such event is overtaken by a later one of the same task, a task that has sent one goes through the broker from then
on, also to a client that is here.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from realtime.application.app import Application
from realtime.application.emitting import CONNECTION_ID
from realtime.application.source import calling_place
from realtime.cluster.messages import EmitEvent, Group
from realtime.errors import AnswersMissing, ConnectionEnded
from realtime.log_lines import log
from realtime.rooms.event_rooms import MAIN
from realtime.session.events import encode_event
from realtime.session.registry import LocalSession
from realtime.socketio.application import ServedApplication, arguments
from realtime.socketio.calling import call
from realtime.socketio.clients import Clients, through_broker
from realtime.socketio.exceptions import TimeoutError, Unsupported
from realtime.socketio.handlers import ANY
from realtime.socketio.missing import instead_of_method
from realtime.socketio.namespace import AsyncNamespace, Callback, Names
from realtime.socketio.options import as_settings, check_options
from realtime.socketio.reasons import Reason

F = TypeVar("F", bound=Callable[..., Any])

LONGEST_S: Final = 3_600.0  # that an acknowledgement is waited for, where the application says nothing

EVERY_NAMESPACE: Final = "/{*}"

logger = logging.getLogger("realtime.socketio")


class AsyncServer(Clients):
    """
    A Socket.IO server, as python-socketio has it.

    `realtime serve app:sio` serves it, as it serves the `ASGIApp` around it.

    Attributes:
        app: the application below: `sio.app.room("chat:{name}")` declares rooms for clients of all protocols.
        reason: why clients are gone, as `disconnect` handlers get it.
    """

    reason: ClassVar[type[Reason]] = Reason

    def __init__(
        self,
        client_manager: None = None,
        logger: Any = False,
        json: Any = None,
        async_handlers: bool = True,
        namespaces: str | Iterable[str] | None = None,
        always_connect: bool = False,
        **options: Any,
    ) -> None:
        """
        Args:
            client_manager: none is needed, and none is supported: workers share rooms.
            logger: without effect; `--log-level` is for all of the server.
            json: none is supported.
            async_handlers: events of one client are handled at the same time; False has one after the other.
            namespaces: those that exist beside "/" and the ones that have handlers; "*" for all.
            always_connect: without effect; the client is answered first in any case.
            options: `ping_interval`, `ping_timeout`, `max_http_buffer_size` and `cors_allowed_origins` count where the
                server was given no such setting.

        Raises:
            Unsupported: an argument that has no place here; the text names what to use instead.
            TypeError: there is no such argument.
        """
        given = {**options, "client_manager": client_manager, "json": json}
        check_options(given)
        self.app = ServedApplication(in_order=not async_handlers)
        self.app.setting_defaults = as_settings(options)
        self._tasks: set[asyncio.Task[Any]] = set()  # strong references, because an event loop has only weak ones
        for each in (namespaces,) if isinstance(namespaces, str) else namespaces or ():
            self._declare(each if each != ANY else EVERY_NAMESPACE)

    def as_application(self) -> Application:
        """Return what serves this server: `realtime serve` calls it."""
        return self.app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> NoReturn:
        """
        Refuse to be served by an ASGI server.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("an AsyncServer as ASGI application", "serve it by `realtime serve app:sio`")

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what python-socketio's server has and this one does not, by name."""
        raise AttributeError(instead_of_method(name), name=name, obj=self)

    # Handlers

    def on(self, event: str, handler: Callable[..., Any] | None = None, namespace: str | None = None) -> Any:
        """
        Have a function handle an event: as a decorator, or with the function given.

        Args:
            event: its name; "connect" and "disconnect" for clients that come and go; "*" for all that have no handler
                of their own, with the event's name as first argument.
            handler: the function, where it is not decorated. It gets the client's id and the event's arguments, and
                what it returns is the acknowledgement.
            namespace: of the event; "/" unless given; "*" for all that have no handler of their own.

        Returns:
            The decorator; None where `handler` is given.
        """
        name = namespace or MAIN

        def register(function: F) -> F:
            self._declare(name)
            self.app.handlers.add(event, name, function)
            return function

        if handler is None:
            return register
        register(handler)
        return None

    def event(self, *args: Any, **kwargs: Any) -> Any:
        """
        Have a function handle the event of its name: `@sio.event`, or `@sio.event(namespace="/chat")`.

        Args:
            args: the function, where the decorator has no parentheses.
            kwargs: as of `on`.

        Returns:
            The function, or the decorator.
        """
        if len(args) == 1 and not kwargs and callable(args[0]):
            return self.on(args[0].__name__)(args[0])
        return lambda function: self.on(function.__name__, *args, **kwargs)(function)

    def register_namespace(self, namespace_handler: AsyncNamespace) -> None:
        """
        Have the methods of an object handle the events of its namespace.

        Args:
            namespace_handler: an object of a class that inherits `AsyncNamespace`.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(namespace_handler, AsyncNamespace):
            raise ValueError(f"an object of a subclass of AsyncNamespace is needed, and not {namespace_handler!r}")
        self._declare(namespace_handler.namespace)
        namespace_handler.server = self
        self.app.handlers.add_namespace(namespace_handler)

    def _declare(self, namespace: str) -> None:
        """Have a namespace exist. Handlers for "*" alone make none exist, as in python-socketio."""
        if namespace != ANY:
            self.app.namespaces.declare(namespace, calling_place())

    # Events to clients

    async def emit(
        self,
        event: str,
        data: Any = None,
        to: Names = None,
        room: Names = None,
        skip_sid: Names = None,
        namespace: str | None = None,
        callback: Callback | None = None,
        ignore_queue: bool = False,
    ) -> None:
        """
        Send an event to clients. Where none is there, nothing happens.

        Args:
            event: its name.
            data: its argument; several as a tuple, none for None. Bytes may stand in it anywhere.
            to: a client's id, a room, or a list of these; all clients of the namespace unless given. A client gets it
                once.
            room: another name of `to`.
            skip_sid: ids of clients that do not get it.
            namespace: of the clients; "/" unless given.
            callback: called with the arguments of the client's acknowledgement. `to` is the id of one client.
            ignore_queue: without effect.

        Raises:
            Unsupported: a callback, and not one client.
            ReservedEvent, AnswerError, BrokerUnavailable, RoomIsDeclared, RuntimeError: as `Target.emit` of this
                package.
        """
        namespace = namespace or MAIN
        targets, skipped, args = _names(to or room), _names(skip_sid), arguments(data)
        if not self.app.has_namespace(namespace):
            return
        here = self._session(targets[0], namespace) if len(targets) == 1 and not skipped else None
        if callback is not None:
            if len(targets) != 1 or skipped or not CONNECTION_ID.fullmatch(targets[0]):
                raise Unsupported("emit(callback=…) but to one client", "use app.to(room).call(…), or an emit to each")
            await self._settle()
            self.start_background_task(self._call_back, targets[0], here, namespace, event, args, callback)
            await asyncio.sleep(0)  # the task has sent the event: the next one comes behind it
        elif here is None:
            through_broker.set(True)
            await self.app.namespace(namespace).to(*targets).except_(*skipped).emit(event, *args)
        elif through_broker.get():
            await self.app.bus.send_here(EmitEvent(Group(namespace, targets), encode_event(event, args)))
        else:
            here.send_event(encode_event(event, args))

    async def send(
        self,
        data: Any,
        to: Names = None,
        room: Names = None,
        skip_sid: Names = None,
        namespace: str | None = None,
        callback: Callback | None = None,
        ignore_queue: bool = False,
    ) -> None:
        """
        Send the event "message" to clients.

        Args:
            data: its argument, as of `emit`.
            to: as of `emit`.
            room: another name of `to`.
            skip_sid: as of `emit`.
            namespace: of the clients; "/" unless given.
            callback: as of `emit`.
            ignore_queue: without effect.
        """
        await self.emit("message", data, to, room, skip_sid, namespace, callback, ignore_queue)

    async def call(
        self,
        event: str,
        data: Any = None,
        to: str | None = None,
        sid: str | None = None,
        namespace: str | None = None,
        timeout: float | None = 60,  # noqa: ASYNC109 - its name in python-socketio
        ignore_queue: bool = False,
    ) -> Any:
        """
        Send an event to one client, and return what it acknowledges with: one value, a tuple of several, None for none.

        Args:
            event: its name.
            data: its argument, as of `emit`.
            to: the client's id.
            sid: another name of `to`.
            namespace: of the client; "/" unless given.
            timeout: seconds to wait; None waits as long as the client is there, and at most an hour.
            ignore_queue: without effect.

        Raises:
            TimeoutError: no acknowledgement came in time; or there is no such client, or it goes meanwhile.
            ValueError: no client is named.
            BrokerUnavailable: another worker serves the client, which cannot be reached.
        """
        client = to or sid
        if not client:
            raise ValueError("call needs a client: call(…, to=sid)")
        await self._settle()  # what was emitted before comes before
        here = self._session(client, namespace or MAIN)
        within_s = LONGEST_S if timeout is None else timeout
        values = await self._answer_of(client, here, namespace or MAIN, event, arguments(data), within_s)
        return None if not values else values[0] if len(values) == 1 else tuple(values)

    async def _answer_of(
        self, client: str, here: LocalSession | None, namespace: str, event: str, args: Sequence[Any], within_s: float
    ) -> Sequence[Any]:
        """
        Send an event to one client, and return the arguments of its acknowledgement.

        Raises:
            TimeoutError: as `call`.
        """
        try:
            if here is not None:
                return await here.call(encode_event(event, args), within_s)
            if CONNECTION_ID.fullmatch(client) and self.app.has_namespace(namespace):
                answers = await self.app.namespace(namespace).to(client).call(event, *args, timeout_s=within_s)
                if client in answers:
                    return arguments(answers[client])
        except (ConnectionEnded, AnswersMissing, builtins.TimeoutError) as error:
            raise TimeoutError(str(error)) from None
        raise TimeoutError(f"there is no client {client!r} in namespace {namespace!r}")

    async def _call_back(
        self, client: str, here: LocalSession | None, namespace: str, event: str, args: Sequence[Any], call_: Callback
    ) -> None:
        """Give a callback what a client acknowledges an event with. It is not called for a client that is gone."""
        try:
            values = await self._answer_of(client, here, namespace, event, args, LONGEST_S)
        except TimeoutError:
            return
        try:
            await call(call_, values)
        except Exception:  # noqa: BLE001 - logged with its traceback
            log(logger, logging.ERROR, "callback failed", connection=client, exc_info=True)

    # Tasks

    def start_background_task(
        self, target: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any
    ) -> asyncio.Task[Any]:
        """
        Start a task on the worker's event loop, and return it. It ends with the worker.

        Args:
            target: a coroutine function.
            args: its arguments.
            kwargs: its named arguments.
        """
        task = asyncio.get_running_loop().create_task(target(*args, **kwargs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def sleep(self, seconds: float = 0) -> None:
        """
        Let other tasks run for some time.

        Args:
            seconds: how long.
        """
        await asyncio.sleep(seconds)


def _names(given: Names) -> tuple[str, ...]:
    """Return rooms or ids as texts: in python-socketio a room may be any value."""
    if given is None:
        return ()
    return tuple(map(str, given)) if isinstance(given, list | tuple | set | frozenset) else (str(given),)
