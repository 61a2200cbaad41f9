"""
`ASGIApp`: an `AsyncServer` with the ASGI application beside it, as python-socketio writes what is served.

Runs at import of the application. `realtime serve app:sio_app` finds the server in it, and serves it at /socket.io/;
all other paths are the static files' and the other application's. No ASGI server can serve it: Socket.IO needs the
worker's own WebSockets.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

from realtime.application.app import Application
from realtime.socketio.exceptions import Unsupported
from realtime.socketio.server import AsyncServer
from realtime.socketio.static_files import StaticThen
from realtime.transport.asgi import ASGIApp as ASGICallable

PATH: Final = "socket.io"

Hook = Callable[[], Any]


class ASGIApp:
    """An `AsyncServer`, static files, and an ASGI application: what `realtime serve app:sio_app` serves."""

    def __init__(
        self,
        socketio_server: AsyncServer,
        other_asgi_app: ASGICallable | None = None,
        static_files: Mapping[str, Any] | None = None,
        socketio_path: str | None = PATH,
        on_startup: Hook | None = None,
        on_shutdown: Hook | None = None,
    ) -> None:
        """
        Args:
            socketio_server: an `AsyncServer` of this package.
            other_asgi_app: serves all paths that are nothing else's, such as a FastAPI application.
            static_files: files and directories by path: `{"/": "index.html", "/static": "./public"}`.
            socketio_path: "socket.io" alone; `--own-prefix` puts something before it.
            on_startup: a function or coroutine that runs in every worker before it serves.
            on_shutdown: one that runs in every worker after its last client left.

        Raises:
            Unsupported: another path, or a server of another package.
        """
        if not isinstance(socketio_server, AsyncServer):
            raise Unsupported(
                f"ASGIApp({type(socketio_server).__module__}.{type(socketio_server).__name__})",
                "its server is an AsyncServer of `from realtime import socketio`",
            )
        if (socketio_path or "").strip("/") != PATH:
            raise Unsupported(
                f"ASGIApp(socketio_path={socketio_path!r})",
                "clients come to /socket.io/; `realtime serve --own-prefix /PREFIX` has them come below a prefix",
            )
        self.engineio_server: Final = socketio_server
        self._app: Final = socketio_server.app
        self._beside: Final = StaticThen(static_files, other_asgi_app) if static_files else other_asgi_app
        self._startup, self._shutdown = on_startup, on_shutdown
        self._is_joined = False

    def as_application(self) -> Application:
        """Return what serves all of this: `realtime serve` calls it."""
        if not self._is_joined:
            self._is_joined = True
            if self._beside is not None:
                self._app.mount("/", self._beside)
                self._app.is_bare = True  # so that its routes come before those of the server that can do without
            if self._startup is not None:
                self._app.on_startup(_on_the_loop(self._startup))
            if self._shutdown is not None:
                self._app.on_shutdown(_on_the_loop(self._shutdown))
        return self._app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> NoReturn:
        """
        Refuse to be served by an ASGI server.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(
            "an ASGIApp below an ASGI server or another application",
            "serve it by `realtime serve app:sio_app`, and give it the other application: ASGIApp(sio, other)",
        )


def _on_the_loop(function: Hook) -> Callable[[], Awaitable[None]]:
    """Return a coroutine function: plain functions run on the event loop, as python-socketio runs them."""

    async def run() -> None:
        value = function()
        if inspect.isawaitable(value):
            await value

    return run
