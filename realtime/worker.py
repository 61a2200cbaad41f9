"""
One worker process: `python -m realtime.worker`, started by the primary.

Runs in the worker, and is the only file that knows all its parts: it takes up the channel, loads the application, joins
broker, hub, protocol, transports and gateway, and says that it is ready. What cannot come up is reported to the primary
as one text, and the process ends with status 3. It decides nothing about clients.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvloop

import realtime
from realtime import logs
from realtime.api import Api
from realtime.application.app import App
from realtime.application.loader import load_target
from realtime.auth.credentials import WrongCredentials
from realtime.auth.jwks import KeySet, load_public_key
from realtime.auth.key_cache import KeyCache
from realtime.auth.tokens import Tokens
from realtime.broker.base import WorkerId
from realtime.broker.factory import make_broker
from realtime.cluster.bus import ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.revocation_sync import RevocationSync
from realtime.errors import BrokerUnavailable, RealtimeError
from realtime.migration import Migration
from realtime.process.gateway import Gateway
from realtime.process.router import Router
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.server import Centrifuge
from realtime.protocol.centrifuge.streams import ENDPOINTS, StreamEndpoint
from realtime.protocol.centrifuge.wire import Wire, difference
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, Registry
from realtime.session.state import Limits
from realtime.settings import Settings
from realtime.tasks import SideTasks
from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.asgi_host import ASGIHost
from realtime.transport.flood import FloodLimits
from realtime.transport.guarded import Limits as HostedLimits
from realtime.transport.handshake import Admission
from realtime.transport.hosts import Hosts
from realtime.transport.stream import EVENTS
from realtime.transport.stream import Limits as StreamLimits
from realtime.transport.tls import server_context
from realtime.transport.websocket_endpoint import Limits as WebSocketLimits
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky import Worker
from sticky.heads.first_bytes import HeadLimits

GC_THRESHOLD: Final = 50_000  # young objects; the default of 700 looks at every connection again and again

REAP_S: Final = 1.0  # for the removal of a dead worker's members, when this one ends; others do it as well

OURS: Final = (str(Path(realtime.__file__).parent), "<frozen importlib")

ExceptionInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

logger = logging.getLogger("realtime.worker")


class Process:
    """The parts of one worker, joined."""

    def __init__(self, worker: Worker, settings: Settings, app: App) -> None:
        self.worker = worker
        self.app = app
        worker_id = WorkerId(worker.worker_id)
        home = Home(worker.slot, worker.worker_id, worker.node, realtime.__version__)
        self.wheel = TimerWheel(asyncio.get_running_loop().time())
        broker = make_broker(
            settings.broker_url, worker_id=worker_id, prefix=settings.redis_prefix, memory=settings.broker_memory
        )
        self.registry = Registry()
        self.tokens = tokens = tokens_of(settings)
        self.hub = Hub(
            broker,
            app,
            hooks=app,
            difference=difference,
            worker=worker_id,
            large=settings.large_room,
        )
        self.wrong = WrongCredentials()
        self.protocol = Centrifuge(
            app,
            self.hub,
            wheel=self.wheel,
            tokens=tokens,
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
            registry=self.registry,
            wrong=self.wrong,
        )
        self.hosts = Hosts(settings.allowed_hosts)
        self.endpoint = WebSocketEndpoint(
            self.protocol,
            wheel=self.wheel,
            limits=WebSocketLimits(
                head_bytes=settings.head_bytes,
                head_headers=settings.head_headers,
                handshake_s=settings.handshake_s,
                message_bytes=settings.message_bytes,
                outbound_bytes=settings.outbound_bytes,
                outbound_s=settings.outbound_s,
                flood=FloodLimits(
                    settings.control_frames_per_second, settings.fragments_per_second, settings.segments_per_second
                ),
            ),
            admission=Admission(
                settings.allowed_origins,
                tuple(self.protocol.subprotocols),
                settings.session_cookie,
                settings.compression,
                self.hosts,
            ),
        )
        mailbox = Mailbox(broker, self.hub.private, worker_id)
        self.bus = bus = ClusterBus(home, broker, mailbox, self.hub.registry, self.registry, tokens.revoked)
        self.revocation_sync = RevocationSync(broker, bus, tokens.revoked)
        self.side_tasks = SideTasks(logger)
        self.streams = StreamEndpoint(
            self.protocol,
            deliver=bus.deliver,
            limits=StreamLimits(settings.message_bytes, settings.outbound_bytes, settings.outbound_s),
            allowed_origins=settings.allowed_origins,
        )
        self.router = Router(
            app,
            health=self.health,
            websocket_paths=ENDPOINTS.websocket_paths,
            stream_paths=ENDPOINTS.http_paths,
            streams=self.streams,
            api=Api(
                self.hub,
                bus,
                keys=settings.api_keys,
                encoder=Wire(uni, EVENTS),
                wrong=self.wrong,
                message_bytes=settings.message_bytes,
            ),
            root_path=settings.root_path,
        )
        self.host = ASGIHost(
            self.router,
            place={"slot": worker.slot, "worker": worker.worker_id, "node": worker.node},
            cookie=settings.session_cookie,
            websocket_paths=ENDPOINTS.websocket_paths,
            endpoint=self.endpoint,
            on_lost=self._closed,
            routes=worker.routes,
            give_back=worker.give_back,
            parser=settings.http,
            access_log=settings.access_log,
            hosts=self.hosts,
            limits=HostedLimits(
                head=HeadLimits(settings.head_bytes, settings.head_headers),
                handshake_s=settings.handshake_s,
                keep_alive_s=settings.keep_alive_s,
                outbound_s=settings.outbound_s,
                ping_s=settings.ping_s,
                pong_s=settings.pong_s,
                hosted_message_bytes=settings.hosted_message_bytes_or_default,
            ),
        )
        self.gateway = Gateway(
            self.endpoint,
            self.host,
            endpoints=ENDPOINTS,
            closed=self._closed,
            tls=server_context(settings),
            handshake_s=settings.handshake_s,
            streams=self.streams,
        )
        self.migration = Migration(
            self.endpoint,
            app,
            self.protocol,
            self.gateway,
            worker.routes.keys,
            worker.moves,
            reconnect=ENDPOINTS.shutdown,
            within_s=settings.migrate_within_s,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._draining = False

    def _closed(self, address: str) -> None:
        self.worker.closed(peer_address=address)

    async def start(self) -> None:
        """Bring up everything that can fail."""
        await self.hub.start()
        await self.bus.start()
        await self.revocation_sync.start()
        self.app.bind(self.hub, self.bus, node=self.worker.node)
        await self.app.startup()
        await self.router.startup()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(run_wheel(self.wheel)), loop.create_task(self._tick())]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.host.tick()

    async def drain(self, deadline_s: float) -> None:
        """Bring the clients elsewhere, then end everything that `start` began."""
        self._draining = True
        logger.info("= draining, within %g s", deadline_s)
        until = asyncio.get_running_loop().time() + deadline_s
        await self.migration.drain(deadline_s)
        await self.gateway.drain(max(until - asyncio.get_running_loop().time(), 0))
        await self.router.shutdown()
        await self.app.shutdown()
        await self.revocation_sync.close()
        await self.tokens.close()
        await self.side_tasks.close(REAP_S)
        await self.bus.close()
        await self.hub.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def on_event(self, name: str, about: dict[str, Any]) -> None:
        """Handle an event of another worker: the first that learns of a death removes the dead worker's members."""
        if name == "exit" and not self._draining:
            self.side_tasks.spawn(self._reap(WorkerId(about["worker_id"])))

    async def _reap(self, worker: WorkerId) -> None:
        """Have the broker remove the members of a worker that is dead."""
        try:
            await self.hub.broker.reap(worker)
        except BrokerUnavailable as error:
            logger.warning("! members of worker %s stay until its lease ends: %s", worker, error)

    def health(self) -> dict[str, Any]:
        """
        Say how this worker is. The HTTP status is 200 also when the broker is away, or takes no writes: its clients
        stay connected, and nothing would be gained if a load balancer took this worker for dead.
        """
        broker = self.hub.statistics()["broker"]
        is_well = broker.get("link") == "up" and not broker.get("refuses")
        return {
            "status": "ok" if is_well else "degraded",
            "version": realtime.__version__,
            "slot": self.worker.slot,
            "worker": self.worker.worker_id,
            "node": self.worker.node,
            "broker": {name: broker[name] for name in ("kind", "link", "refuses") if broker.get(name)},
            "connections": self.gateway.statistics()["open"],
        }

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot for `realtime status`."""
        return {
            "hub": self.hub.statistics(),
            **self.registry.statistics(),
            **self.gateway.statistics(),
            **self.migration.statistics(),
            "misdirected": self.hosts.misdirected,
            "wrong_credentials": dict(self.wrong.counts),
        }


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
        keys=KeySet(fixed, settings.token_jwks_url, cache=cache) if has_keys else None,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
        leeway_s=settings.token_leeway_s,
    )


def report(error: ExceptionInfo) -> str:
    """Give a traceback that begins in the application's own code, where it has any."""
    kind, value, begin = error
    at = begin
    while at is not None and at.tb_frame.f_code.co_filename.startswith(OURS):
        at = at.tb_next
    return "".join(traceback.format_exception(kind, value, at or begin))


async def main() -> None:
    """Be a worker, from the first message of the primary to the last client."""
    worker = await Worker.connect()
    settings = Settings.from_builtins(worker.config)
    logs.set_up(
        str(worker.slot),
        level=settings.log_level,
        form=settings.log_format,
        color=settings.color,
        secrets=settings.secrets,
    )
    if settings.inspect != worker.slot:  # else it has the terminal
        logs.tag_output()
    try:
        app = load_target(settings.target, Path(settings.directory), factory=settings.factory)
        process = Process(worker, settings, app)
        await process.start()
    except RealtimeError as error:
        worker.boot_failed(str(error))
    except Exception:  # noqa: BLE001 - whatever the application raises at import is reported, not handled
        worker.boot_failed(report(sys.exc_info()))
    gc.collect()
    gc.freeze()  # what is there now stays; looking at it again is for nothing
    gc.set_threshold(GC_THRESHOLD)
    worker.ready()
    await worker.run(
        on_connection=process.gateway.adopt,
        on_drain=process.drain,
        on_event=process.on_event,
        on_refused=process.gateway.refuse,
        moving=process.migration,
        statistics=process.statistics,
    )


if __name__ == "__main__":
    uvloop.run(main())
