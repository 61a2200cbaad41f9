"""
What serves an application in one process, below any ASGI server.

Runs on the server's event loop. It joins the same parts as a worker does: hub, wire protocol, streams, API and router.
The broker is the one in memory. The ASGI server has the sockets, so limits of sockets and heads are that server's. What
it adds to a worker's parts is the WebSocket over ASGI (websocket.py). It decides nothing about clients.

What a worker has and this does not: a primary that routes by a key, so there is no stickiness and no cookie of ours;
other workers, so the cluster bus reaches this process alone; and a drain, so the server's end is the clients' end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import Any

import realtime
from realtime.api import Api
from realtime.application.app import Application
from realtime.asgi.websocket import WebSocketOverASGI
from realtime.auth.credentials import WrongCredentials
from realtime.broker.base import WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.cluster.bus import ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.revocation_sync import RevocationSync
from realtime.process.router import Router
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.protocol.centrifuge.streams import ENDPOINTS, StreamEndpoint
from realtime.protocol.centrifuge.wire import Wire, difference
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, Registry
from realtime.session.state import Limits
from realtime.settings import Settings
from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.stream import EVENTS
from realtime.transport.stream import Limits as StreamLimits
from realtime.worker import tokens_of


class OneProcess:
    """An application that is served by this process alone. The caller of `start` owes `stop`."""

    def __init__(self, app: Application, settings: Settings) -> None:
        """To be called on the event loop that serves."""
        self._app = app
        # A process has its own id in each life, as a worker has: members are owned by it.
        worker, node = WorkerId(f"asgi-{os.getpid()}-{secrets.token_hex(4)}"), socket.gethostname()
        self._node = node
        self._wheel = TimerWheel(asyncio.get_running_loop().time())
        home, self._registry, self._tokens = (
            Home(0, worker, node, realtime.__version__),
            Registry(),
            tokens_of(settings),
        )
        broker = MemoryBroker(worker)
        self._hub = Hub(
            broker,
            app,
            hooks=app,
            difference=difference,
            worker=worker,
            large=settings.large_room,
        )
        wrong = WrongCredentials()
        self._protocol = Centrifuge(
            app,
            self._hub,
            wheel=self._wheel,
            tokens=self._tokens,
            limits=Limits(
                ping_s=settings.ping_s,
                pong_s=settings.pong_s,
                connect_s=settings.handshake_s,
                expiry_grace_s=max(Limits().expiry_grace_s, settings.token_leeway_s),
                rooms_per_connection=settings.rooms_per_connection,
                commands_per_second=settings.commands_per_second,
                answer_bytes=settings.answer_bytes,
                anonymous=settings.allows_anonymous,
            ),
            home=home,
            registry=self._registry,
            wrong=wrong,
        )
        mailbox = Mailbox(broker, self._hub.private, worker)
        self._bus = bus = ClusterBus(home, broker, mailbox, self._hub.registry, self._registry, self._tokens.revoked)
        self._revocations = RevocationSync(broker, bus, self._tokens.revoked)
        limits = StreamLimits(settings.message_bytes, settings.outbound_bytes, settings.outbound_s)
        self._endpoints = ENDPOINTS.below(settings.own_prefix)
        streams = StreamEndpoint(
            self._protocol,
            deliver=bus.deliver,
            limits=limits,
            allowed_origins=settings.allowed_origins,
            prefix=settings.own_prefix,
        )
        self._websockets = WebSocketOverASGI(self._protocol, limits=limits, allowed_origins=settings.allowed_origins)
        self._router = Router(
            app,
            health=self._health,
            websocket_paths=self._endpoints.websocket_paths,
            stream_paths=self._endpoints.http_paths,
            streams=streams,
            api=Api(
                self._hub,
                bus,
                keys=settings.api_keys,
                encoder=Wire(uni, EVENTS),
                wrong=wrong,
                message_bytes=settings.message_bytes,
                own_prefix=settings.own_prefix,
            ),
            root_path=settings.root_path,
            own_prefix=settings.own_prefix,
        )
        self._turning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Bring up the rooms, the application, and what is mounted.

        Raises:
            RealtimeError: the application declares what cannot work, or something that is mounted cannot start. The
                rooms are closed again.
        """
        await self._hub.start()
        try:
            await self._bus.start()
            await self._revocations.start()
            self._app.bind(self._hub, self._bus, node=self._node)
            await self._app.startup()
            await self._router.startup()
        except BaseException:
            await self._revocations.close()
            await self._bus.close()
            await self._hub.close()
            raise
        self._turning = asyncio.get_running_loop().create_task(run_wheel(self._wheel))

    async def stop(self) -> None:
        """End what `start` began. Clients that are still connected get a close code by which they come back."""
        # First, while the hub still runs: leave hooks are called for these clients.
        for session in tuple(self._registry):
            session.end(3001, "shutdown")
        await self._router.shutdown()
        await self._app.shutdown()
        await self._revocations.close()
        await self._tokens.close()
        await self._bus.close()
        await self._hub.close()
        if self._turning is not None:
            self._turning.cancel()
            await asyncio.gather(self._turning, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket. Below a mount, our paths begin after the mount's own."""
        # ASGI: `path` is whole, and `root_path` its beginning. Older servers leave the root out of `path`.
        path, root = scope["path"], scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            scope = {**scope, "path": path[len(root) :]}
        if scope["type"] == "websocket" and scope["path"] in self._endpoints.websocket_paths:
            await self._websockets(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    def _health(self) -> dict[str, Any]:
        """Say how this process is."""
        connections, _ = self._registry.counts()
        return {
            "status": "ok",
            "version": realtime.__version__,
            "slot": 0,
            "node": self._node,
            "broker": {"kind": "memory", "link": "up"},
            "connections": connections,
        }
