"""
The parts that every process with realtime clients has, joined: rooms, sessions, wire protocol, cluster bus, HTTP API.

Runs in a worker, and in the one process of `App` below any ASGI server. Both make their parts here, so both have the
same ones with the same limits. What differs is around them: where connections come from, and which broker is used. It
decides nothing about clients, and owns no socket.

Each arrow points to what a part uses, so the parts are made from right to left:

    router -> API, streams -> protocol -> hub -> broker
                 |               |
                 +-> bus         +-> tokens, wheel, registry

Before them, in a worker, come gateway, endpoints and ASGI host: worker.py joins those with sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from realtime.api import Api
from realtime.application.app import Application
from realtime.auth.credentials import WrongCredentials
from realtime.auth.jwks import KeySet, load_public_key
from realtime.auth.key_cache import KeyCache
from realtime.auth.tokens import Tokens
from realtime.broker.base import Broker, WorkerId
from realtime.cluster.bus import ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.revocation_sync import RevocationSync
from realtime.process.probes import Probes
from realtime.process.router import HealthSource, Router
from realtime.protocol.base import Streams
from realtime.protocol.by_path import SessionsByPath, StreamsByPath
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.encoder import CentrifugeEncoder, difference
from realtime.protocol.centrifuge.endpoints import ENDPOINTS
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.protocol.centrifuge.streams import StreamEndpoint
from realtime.protocol.socketio import endpoints as socketio_endpoints
from realtime.protocol.socketio.base import EngineLimits
from realtime.protocol.socketio.namespaces import SocketIOUsers
from realtime.protocol.socketio.server import SocketIO, random_sid
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, Registry
from realtime.session.state import SessionLimits
from realtime.settings import Settings
from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.base import SessionFactory
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.stream import EVENTS, StreamLimits
from sticky.worker.node_state import NodeState


class Parts:
    """
    The parts of one process. The caller of `start` must call `close`.

    Attributes:
        endpoints: where the wire protocols are served.
        wheel: the timers. `start` begins to turn it.
        registry: the sessions.
        tokens: verifies tokens.
        wrong: counts and slows wrong tokens and wrong keys of the API.
        hub: the rooms.
        protocol: makes the session of each connection of the Centrifuge protocol.
        sessions: makes the session of each WebSocket, whichever wire protocol is served at its path.
        bus: reaches sessions elsewhere.
        streams: serves clients that have no WebSocket.
        router: the ASGI application in front of all others.
    """

    def __init__(
        self,
        app: Application,
        settings: Settings,
        *,
        broker: Broker,
        home: Home,
        health: HealthSource,
        node_state: NodeState | None = None,
        hosts: Hosts = ANY_HOST,
        wrong: WrongCredentials | None = None,
        serves_socketio: bool = False,
        new_sid: Callable[[], str] = random_sid,
    ) -> None:
        """
        Make the parts. To be called on the event loop that they run on.

        Args:
            app: what users wrote. It is bound to the parts by `start`.
            settings: of the server.
            broker: not started; the hub starts and closes it.
            home: this process.
            health: answers `GET /health`.
            node_state: what the primary says of the server, for its probes; None where there is no primary.
            hosts: which hosts are served.
            wrong: counts and slows wrong credentials; as a server does it unless given.
            serves_socketio: serve Socket.IO beside the Centrifuge protocol. Its WebSockets write whole frames, so they
                are this package's own.
            new_sid: makes the ids of Engine.IO sessions, which lead to this process where there are several.

        Raises:
            SettingsError: a file of keys holds none.
        """
        self.endpoints = ENDPOINTS.below(settings.own_prefix)
        self._app = app
        self._node = home.node
        self._turning: asyncio.Task[None] | None = None
        worker = WorkerId(home.worker)
        self.wheel = TimerWheel(asyncio.get_running_loop().time())
        self.registry = Registry()
        self.tokens = tokens_of(settings)
        self.wrong = WrongCredentials() if wrong is None else wrong
        self.hub = Hub(broker, app, hooks=app, difference=difference, worker=worker, large=settings.large_room)
        self.protocol = Centrifuge(
            app,
            self.hub,
            wheel=self.wheel,
            tokens=self.tokens,
            limits=session_limits(settings),
            home=home,
            registry=self.registry,
            wrong=self.wrong,
        )
        mailbox = Mailbox(broker, self.hub.private, worker)
        self.bus = ClusterBus(
            home, broker, mailbox, self.hub.registry, self.hub.delivery, self.registry, self.tokens.revoked
        )
        self._revocation_sync = RevocationSync(broker, self.bus, self.tokens.revoked)
        self.sessions: SessionFactory = self.protocol
        self.streams: Streams = StreamEndpoint(
            self.protocol,
            delivery=self.bus,
            limits=StreamLimits.from_settings(settings),
            allowed_origins=settings.allowed_origins,
            prefix=settings.own_prefix,
        )
        if serves_socketio:
            self._add_socketio(settings, new_sid)
        is_ready_when_degraded = settings.ready_when_degraded == "on"
        probes = Probes(node_state, self.hub, ready_when_degraded=is_ready_when_degraded)
        self.router = self._make_router(settings, health, probes, hosts)

    def _add_socketio(self, settings: Settings, new_sid: Callable[[], str]) -> None:
        """Serve Socket.IO at its paths."""
        served = socketio_endpoints.endpoints().below(settings.own_prefix)
        socketio = SocketIO(
            SocketIOUsers(self.protocol.services),
            wheel=self.wheel,
            limits=EngineLimits.from_settings(settings),
            allowed_origins=settings.allowed_origins,
            new_sid=new_sid,
        )
        self.endpoints = self.endpoints.beside(served)
        self.sessions = SessionsByPath(dict.fromkeys(served.websocket_paths, socketio), default=self.protocol)
        self.streams = StreamsByPath(dict.fromkeys(served.http_paths, socketio.polling), default=self.streams)

    def _make_router(self, settings: Settings, health: HealthSource, probes: Probes, hosts: Hosts) -> Router:
        api = Api(
            self.hub,
            self.bus,
            keys=settings.api_keys,
            encoder=CentrifugeEncoder(uni, EVENTS),
            wrong=self.wrong,
            message_bytes=settings.message_bytes,
            own_prefix=settings.own_prefix,
        )
        return Router(
            self._app,
            health=health,
            websocket_paths=self.endpoints.websocket_paths,
            stream_paths=self.endpoints.http_paths,
            streams=self.streams,
            api=api,
            root_path=settings.root_path,
            probes=probes,
            own_prefix=settings.own_prefix,
            hosts=hosts,
        )

    async def start(self) -> None:
        """
        Bring up everything that can fail: broker, bus, application, and what is mounted.

        Raises:
            RealtimeError: the application declares what cannot work, something that is mounted cannot start, or the
                broker cannot be used. What had begun goes on: call `abandon`, or end the process.
        """
        await self._start_application()
        await self.router.startup()
        self._turn()

    async def start_without_mounts(self) -> None:
        """
        As `start`, but for what is mounted: for tests of rooms alone. The caller must call `close_without_mounts`.

        Raises:
            RealtimeError: as `start`.
        """
        await self._start_application()
        self._turn()

    async def _start_application(self) -> None:
        assert self._turning is None, "parts are started once"
        await self.hub.start()
        await self.bus.start()
        await self._revocation_sync.start()
        self._app.bind(self.hub, self.bus, node=self._node)
        await self._app.startup()

    def _turn(self) -> None:
        self._turning = asyncio.get_running_loop().create_task(run_wheel(self.wheel))

    async def abandon(self) -> None:
        """End what a `start` that failed had begun. The application has not started, so it is not ended."""
        assert self._turning is None, "parts that have started are closed"
        await self._revocation_sync.close()
        await self.bus.close()
        await self.hub.close()

    async def close(self) -> None:
        """
        End what `start` began, from the top down. The connections have ended before.

        The application ends first, while it can still publish. The hub is the last: until then leave hooks run for the
        connections that ended.
        """
        await self.router.shutdown()
        await self.close_without_mounts()

    async def close_without_mounts(self) -> None:
        """End what `start_without_mounts` began, as `close` does."""
        await self._app.shutdown()
        await self._revocation_sync.close()
        await self.tokens.close()
        await self.bus.close()
        await self.hub.close()
        if self._turning is not None:
            self._turning.cancel()
            await asyncio.gather(self._turning, return_exceptions=True)


def session_limits(settings: Settings) -> SessionLimits:
    """Return what one client may do."""
    return SessionLimits(
        ping_s=settings.ping_s,
        pong_s=settings.pong_s,
        connect_s=settings.handshake_s,
        # A token that is still accepted must not end a connection: the leeway is for clocks that differ.
        expiry_grace_s=max(SessionLimits().expiry_grace_s, settings.token_leeway_s),
        rooms_per_connection=settings.rooms_per_connection,
        commands_per_second=settings.commands_per_second,
        answer_bytes=settings.answer_bytes,
        anonymous=settings.allows_anonymous,
    )


def tokens_of(settings: Settings) -> Tokens:
    """
    Return what verifies tokens.

    Raises:
        SettingsError: a file holds no key.
    """
    fixed = load_public_key(Path(settings.token_public_key)) if settings.token_public_key is not None else None
    has_keys = fixed is not None or settings.token_jwks_url is not None
    cache = KeyCache(Path(settings.keys_file)) if settings.keys_file else None
    return Tokens(
        settings.token_hmac_secret,
        hmac_secret_previous=settings.token_hmac_secret_previous,
        keys=KeySet(fixed, settings.token_jwks_url, cache=cache) if has_keys else None,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        leeway_s=settings.token_leeway_s,
    )
