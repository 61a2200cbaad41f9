"""
What serves an application in one process, below any ASGI server.

Runs on the server's event loop. It has the same parts as a worker (realtime/parts.py). The broker is the one in memory.
The ASGI server has the sockets, so limits of sockets and heads are that server's. What it adds to a worker's parts is
the WebSocket over ASGI (websocket.py). It decides nothing about clients.

What a worker has and this does not: a primary that routes by a key, so there is no stickiness and no cookie of ours;
other workers, so the cluster bus reaches this process alone; and a drain, so the server's end is the clients' end.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import realtime
from realtime.application.app import Application
from realtime.asgi.websocket import WebSocketOverASGI
from realtime.broker.base import WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.parts import Parts
from realtime.session.registry import Home
from realtime.settings import Settings
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.stream import StreamLimits


class OneProcess:
    """An application that is served by this process alone. The caller of `start` must call `stop`."""

    def __init__(self, app: Application, settings: Settings) -> None:
        """
        Make the parts. To be called on the event loop that serves.

        Raises:
            SettingsError: a file of keys holds none.
        """
        # A process has its own id in each life, as a worker has: members are owned by it.
        worker = WorkerId(f"asgi-{os.getpid()}-{secrets.token_hex(4)}")
        self._node = socket.gethostname()
        home = Home(0, worker, self._node, realtime.__version__)
        self._parts = Parts(app, settings, broker=MemoryBroker(worker), home=home, health=self)
        self._websockets = WebSocketOverASGI(
            self._parts.protocol,
            limits=StreamLimits.from_settings(settings),
            allowed_origins=settings.allowed_origins,
        )

    async def start(self) -> None:
        """
        Bring up the rooms, the application, and what is mounted.

        Raises:
            RealtimeError: as `Parts.start`. The rooms are closed again.
        """
        try:
            await self._parts.start()
        except BaseException:
            await self._parts.abandon()
            raise

    async def stop(self) -> None:
        """End what `start` began. Clients that are still connected get a close code by which they come back."""
        shutdown = self._parts.endpoints.shutdown
        # First, while the hub still runs: leave hooks are called for these clients.
        for session in tuple(self._parts.registry):
            session.end(shutdown.code, shutdown.reason)
        await self._parts.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket. Below a mount, our paths begin after the mount's own."""
        # ASGI: `path` is whole, and `root_path` its beginning. Older servers leave the root out of `path`.
        path, root = scope["path"], scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            scope = {**scope, "path": path[len(root) :]}
        if scope["type"] == "websocket" and scope["path"] in self._parts.endpoints.websocket_paths:
            await self._websockets(scope, receive, send)
        else:
            await self._parts.router(scope, receive, send)

    def health(self) -> dict[str, Any]:
        """See `HealthSource`. There is no link to a broker that could be down."""
        connections, _ = self._parts.registry.counts()
        return {
            "status": "ok",
            "version": realtime.__version__,
            "slot": 0,
            "node": self._node,
            "broker": {"kind": "memory", "link": "up"},
            "connections": connections,
        }
