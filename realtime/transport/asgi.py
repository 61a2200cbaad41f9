"""
ASGI: its types as they are used here, and one application's lifespan.

Runs in the worker. uvicorn parses HTTP and speaks ASGI; it never listens here, never starts a process and never handles
a signal. The shared state of hosted connections is in asgi_host.py, one connection in hosted.py.

The constructors used here have not changed since uvicorn 0.21; tests/realtime/transport/test_uvicorn_contract.py guards
each thing that is not its public interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from realtime.errors import RealtimeError
from realtime.transport.guarded import HostedLimits
from sticky.handoff.journal import Mark

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

EXTENSION: Final = "realtime"  # key in scope["state"] and scope["extensions"]
CONNECTION: Final = "realtime.connection"  # key in scope["state"]: what brought the request, a `RequestConnection`


class RequestConnection(Protocol):
    """What brings requests, one after another."""

    mark: Mark

    def has_begun(self) -> bool:
        """Whether the answer to its request has begun, and is not only prepared."""

    def cut(self) -> None:
        """End it now; what was not sent is lost."""

    def acknowledged_bytes(self) -> int:
        """See `Transport.acknowledged_bytes`."""

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport.limit_unsent`."""

    def expect_peer(self) -> None:
        """
        Take the peer for gone once it has said its end of the stream, and leave it to the caller to end a slow one:
        what is answered now is a stream, and a stream is worth nothing to a client that is gone.
        """


class StartupFailed(RealtimeError):
    """The application's lifespan refused to start."""

    def __str__(self) -> str:
        return "the application's startup (ASGI lifespan) failed; its own log lines above say why"


class Lifespan:
    """The lifespan of one application in this worker, and the state that it filled."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn_config(app, HostedLimits(), lifespan="auto")
        config.load()
        self._lifespan: Any = config.lifespan_class(config)

    async def startup(self) -> None:
        """
        Raises:
            StartupFailed: the application says that it cannot start.
        """
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise StartupFailed

    async def shutdown(self) -> None:
        await self._lifespan.shutdown()

    @property
    def state(self) -> dict[str, Any]:
        """What the application left for its requests. Not to be changed."""
        state: dict[str, Any] = self._lifespan.state
        return state


def uvicorn_config(app: ASGIApp, limits: HostedLimits, *, lifespan: Any, interface: Any = "auto") -> Config:
    """Return the configuration with which uvicorn's protocol classes serve an application here."""
    return Config(
        app,
        lifespan=lifespan,
        interface=interface,
        http=HttpToolsProtocol,  # and no other is looked for
        ws=WebSocketsSansIOProtocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the primary did that
        server_header=False,
        ws_max_size=limits.hosted_message_bytes,
        ws_ping_interval=limits.ping_s,
        ws_ping_timeout=limits.pong_s,
    )
