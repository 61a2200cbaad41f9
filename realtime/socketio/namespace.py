"""
`AsyncNamespace`: the handlers of one namespace as methods of a class, and the server's methods with this namespace.

Runs in the worker, on its event loop. It keeps nothing but its server and its namespace.

    class Chat(socketio.AsyncNamespace):
        async def on_connect(self, sid, environ, auth): ...
        async def on_said(self, sid, text):
            await self.emit("said", text, skip_sid=sid)

    sio.register_namespace(Chat("/chat"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol

from realtime.socketio.calling import LIFE, call, fitted
from realtime.socketio.reasons import Reason

Names = str | Iterable[str] | None
Callback = Callable[..., Any]


class ServerOfNamespace(Protocol):
    """An `AsyncServer`, as its namespaces use it."""

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
    ) -> None: ...

    async def call(
        self,
        event: str,
        data: Any = None,
        to: str | None = None,
        sid: str | None = None,
        namespace: str | None = None,
        timeout: float | None = 60,  # noqa: ASYNC109 - its name in python-socketio
        ignore_queue: bool = False,
    ) -> Any: ...

    async def enter_room(self, sid: str, room: str, namespace: str | None = None) -> None: ...

    async def leave_room(self, sid: str, room: str, namespace: str | None = None) -> None: ...

    async def close_room(self, room: str, namespace: str | None = None) -> None: ...

    def rooms(self, sid: str, namespace: str | None = None) -> list[str]: ...

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]: ...

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None: ...

    def session(self, sid: str, namespace: str | None = None) -> AbstractAsyncContextManager[dict[str, Any]]: ...

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None: ...


class AsyncNamespace:
    """
    Handlers of one namespace: methods `on_connect`, `on_disconnect` and `on_` with the name of each event, coroutines
    or plain. Give an object of it to `AsyncServer.register_namespace`.

    Attributes:
        namespace: its name; "*" for every namespace that has no handler of its own.
        server: where it is registered.
        reason: why clients are gone, as `on_disconnect` gets it.
    """

    reason: ClassVar[type[Reason]] = Reason

    def __init__(self, namespace: str | None = None) -> None:
        """
        Args:
            namespace: its name; "/" unless given.
        """
        self.namespace = namespace or "/"
        self.server: ServerOfNamespace

    def takes(self, event: str) -> bool:
        """Say whether it handles an event. One that overrides `trigger_event` gets every event."""
        overridden = type(self).trigger_event is not AsyncNamespace.trigger_event
        return overridden or callable(getattr(self, f"on_{event}", None))

    async def trigger_event(self, event: str, *args: Any) -> Any:
        """
        Call the method for an event, and return what it returns. A class may override it, to find handlers another
        way.

        Args:
            event: its name.
            args: the client's id, then the event's arguments; for "*" the namespace comes before them.
        """
        handler = getattr(self, f"on_{event}", None)
        if handler is None:
            return None
        return await call(handler, fitted(handler, args) if event in LIFE else args)

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
        Send an event to clients of this namespace.

        `event`, `data`, `to`, `room`, `skip_sid`, `namespace`, `callback`, `ignore_queue` are as of `AsyncServer.emit`.
        """
        await self.server.emit(event, data, to, room, skip_sid, namespace or self.namespace, callback, ignore_queue)

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
        Send the event "message" to clients of this namespace.

        `data`, `to`, `room`, `skip_sid`, `namespace`, `callback`, `ignore_queue` are as of `AsyncServer.send`.
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
        Send an event to one client, and return what it acknowledges with.

        `event`, `data`, `to`, `sid`, `namespace`, `timeout`, `ignore_queue` are as of `AsyncServer.call`.
        """
        return await self.server.call(event, data, to, sid, namespace or self.namespace, timeout, ignore_queue)

    async def enter_room(self, sid: str, room: str, namespace: str | None = None) -> None:
        """
        Put a client into a room of this namespace.

        `sid`, `room`, `namespace` are as of `AsyncServer.enter_room`.
        """
        await self.server.enter_room(sid, room, namespace or self.namespace)

    async def leave_room(self, sid: str, room: str, namespace: str | None = None) -> None:
        """
        Take a client out of a room of this namespace.

        `sid`, `room`, `namespace` are as of `AsyncServer.leave_room`.
        """
        await self.server.leave_room(sid, room, namespace or self.namespace)

    async def close_room(self, room: str, namespace: str | None = None) -> None:
        """
        Take all clients out of a room of this namespace.

        `room`, `namespace` are as of `AsyncServer.close_room`.
        """
        await self.server.close_room(room, namespace or self.namespace)

    def rooms(self, sid: str, namespace: str | None = None) -> list[str]:
        """
        Return the rooms that a client is in.

        `sid`, `namespace` are as of `AsyncServer.rooms`.
        """
        return self.server.rooms(sid, namespace or self.namespace)

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """
        Return a client's session.

        `sid`, `namespace` are as of `AsyncServer.get_session`.
        """
        return await self.server.get_session(sid, namespace or self.namespace)

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """
        Keep a client's session.

        `sid`, `session`, `namespace` are as of `AsyncServer.save_session`.
        """
        await self.server.save_session(sid, session, namespace or self.namespace)

    def session(self, sid: str, namespace: str | None = None) -> AbstractAsyncContextManager[dict[str, Any]]:
        """
        Return a client's session for an `async with` block.

        `sid`, `namespace` are as of `AsyncServer.session`.
        """
        return self.server.session(sid, namespace or self.namespace)

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """
        Put a client out of this namespace.

        `sid`, `namespace`, `ignore_queue` are as of `AsyncServer.disconnect`.
        """
        await self.server.disconnect(sid, namespace or self.namespace, ignore_queue)
