"""
One worker process: `python -m realtime.worker MODULE…`, started by the primary.

Runs in the worker: it takes up the channel, loads the application, joins the parts (parts.py) with what adopts
connections, and says that it is ready. What cannot come up is reported to the primary as one text, and the process ends
with status 3. It decides nothing about clients.

The life of a worker, by its calls:

    Worker.connect()    the primary's first message: slot, settings, secrets
    load_target(…)      the user's code is imported; what it raises is reported, never handled
    Process.start()     broker, bus, application; only then is the worker ready, and gets connections
    Process.drain(…)    the clients go elsewhere, then everything ends in the opposite order

**Two kinds of failure before it is ready.** What this package refuses (`RealtimeError`) is one sentence, with the file
and line of the mistake in it. Anything else comes from the application's own code: its traceback is reported, from the
first frame that is not ours. The primary shows either once, and the process ends with status 3, so that a reload to
code that cannot start replaces no worker.

**The garbage collector** never looks again at what the start has made (`gc.freeze`), and less often at the rest.
Connections are many small objects that live long: with Python's defaults each would be looked at again and again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvloop

import realtime
from realtime import logs
from realtime.application.app import Application
from realtime.application.loader import load_target
from realtime.broker.base import WorkerId
from realtime.broker.factory import make_broker
from realtime.errors import BrokerUnavailable, RealtimeError
from realtime.log_lines import log
from realtime.migration import Migration
from realtime.parts import Parts
from realtime.process.gateway import Gateway
from realtime.process.probes import broker_fault
from realtime.session.registry import Home
from realtime.settings import Settings
from realtime.tasks import SideTasks
from realtime.transport.adopted import AdoptedConnections
from realtime.transport.asgi_host import ASGIHost, HostedOptions
from realtime.transport.certificates import Certificates
from realtime.transport.handshake import Admission
from realtime.transport.hosts import Hosts
from realtime.transport.websocket_endpoint import WebSocketEndpoint, WebSocketLimits
from sticky import Worker, serve_as_template
from sticky.errors import NotAWorker

GC_THRESHOLD: Final = 50_000  # young objects; the default of 700 looks at every connection again and again

TICK_S: Final = 1.0  # the resolution of the date in answers (RFC 9110, section 6.6.1)

NO_WORKER: Final = (
    "! this worker ends: {error}. If a server started it, that server runs code of another release: stop it and start "
    "it again, for a reload brings new code to workers alone"
)

LAST_REQUESTS_S: Final = 5.0  # at the end of a drain, for requests that came before: new ones go to the successor

REAP_S: Final = 1.0  # for the removal of a dead worker's members, when this one ends; others do it as well

OURS: Final = (str(Path(realtime.__file__).parent), "<frozen importlib")

ExceptionInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

logger = logging.getLogger("realtime.worker")


class Process:
    """One worker: its parts, and what brings connections to them. The caller of `start` must call `drain`."""

    def __init__(self, worker: Worker, settings: Settings, app: Application) -> None:
        """
        Make the parts. Nothing that can fail for reasons outside of this process happens before `start`.

        Raises:
            SettingsError: a file of keys, or a certificate, cannot be used.
        """
        self._worker = worker
        worker_id = WorkerId(worker.worker_id)
        broker = make_broker(
            settings.broker_url, worker_id=worker_id, prefix=settings.redis_prefix, memory=settings.broker_memory
        )
        home = Home(worker.slot, worker.worker_id, worker.node, realtime.__version__)
        self._hosts = Hosts(settings.allowed_hosts, own_prefix=settings.own_prefix)
        self._parts = parts = Parts(
            app,
            settings,
            broker=broker,
            home=home,
            health=self,
            node_state=worker.node_state,
            hosts=self._hosts,
            serves_socketio=settings.socketio == "on" and (app.is_socketio or not app.is_bare),
            new_sid=worker.routes.new_query_id,
        )
        connections = AdoptedConnections(worker, worker.routes.keys)
        endpoint = WebSocketEndpoint(
            parts.sessions,
            wheel=parts.wheel,
            limits=WebSocketLimits.from_settings(settings),
            admission=Admission.from_settings(settings, parts.sessions, self._hosts),
            owner=connections,
        )
        self._host = ASGIHost(
            parts.router,
            worker=worker,
            owner=connections,
            endpoint=endpoint,
            websocket_paths=parts.endpoints.websocket_paths,
            options=HostedOptions.from_settings(
                settings, self._hosts, reads_query_ids=bool(parts.endpoints.query_id_paths)
            ),
        )
        self.gateway = Gateway(
            endpoint,
            self._host,
            connections,
            endpoints=parts.endpoints,
            tls=Certificates(settings),
            handshake_s=settings.handshake_s,
            streams=parts.streams,
        )
        self.migration = Migration(
            endpoint,
            app,
            parts.protocol,
            self.gateway,
            worker.routes.keys,
            worker.moves,
            parts.bus,
            reconnect=parts.endpoints.shutdown,
            within_s=settings.migrate_within_s,
        )
        self._side_tasks = SideTasks(logger)
        self._ticking: asyncio.Task[None] | None = None
        self._is_draining = False

    async def start(self) -> None:
        """
        Bring up everything that can fail. Connections may come afterwards.

        Raises:
            RealtimeError: as `Parts.start`.
        """
        await self._parts.start()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        """Renew the date in answers, for as long as the worker lives."""
        while True:
            await asyncio.sleep(TICK_S)
            self._host.tick()

    async def drain(self, deadline_s: float) -> None:
        """
        Bring the clients elsewhere, then end everything that `start` began.

        Args:
            deadline_s: for the clients. What ends afterwards has limits of its own.
        """
        assert not self._is_draining, "a worker drains once"
        self._is_draining = True
        log(logger, logging.DEBUG, "= draining", within_s=deadline_s)  # the primary has said so, at level info
        # Clients first: until the last one is gone, handlers run, and they need the broker and the bus.
        until = asyncio.get_running_loop().time() + deadline_s
        if not self._worker.node_state.is_stopping:  # else the other workers drain as well
            self._worker.staying.keep(self._host.staying_keys(but=self._parts.endpoints.http_paths))
            await self.migration.drain(deadline_s)
        left_s = max(until - asyncio.get_running_loop().time(), 0)
        ending = asyncio.get_running_loop().call_later(max(left_s - LAST_REQUESTS_S, 0), self._worker.staying.end)
        await self.gateway.drain(left_s, is_stop=self._worker.node_state.is_stopping)
        ending.cancel()
        self._worker.staying.end()
        await self._side_tasks.close(REAP_S)
        await self._parts.close()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def on_event(self, name: str, about: dict[str, Any]) -> None:
        """Handle an event of another worker: the first that learns of a death removes the dead worker's members."""
        if name == "exit" and not self._is_draining:
            self._side_tasks.spawn(self._reap(WorkerId(about["worker_id"])))

    async def _reap(self, worker: WorkerId) -> None:
        """Have the broker remove the members of a worker that is dead."""
        try:
            await self._parts.hub.broker.reap(worker)
        except BrokerUnavailable as error:
            # They stay until the worker's lease ends, and any worker removes them then.
            log(logger, logging.WARNING, "members not removed", worker=worker, reason=error)

    def health(self) -> dict[str, Any]:
        """
        Say how this worker is. The HTTP status is 200 also when the broker is away, or takes no writes: its clients
        stay connected, and nothing would be gained if a load balancer took this worker for dead.
        """
        broker = self._parts.hub.statistics()["broker"]
        return {
            "status": "ok" if broker_fault(broker) is None else "degraded",
            "version": realtime.__version__,
            "slot": self._worker.slot,
            "worker": self._worker.worker_id,
            "node": self._worker.node,
            "broker": {name: broker[name] for name in ("kind", "link", "refuses") if broker.get(name)},
            "connections": self.gateway.statistics()["open"],
        }

    def statistics(self) -> dict[str, Any]:
        """
        Return a snapshot for `realtime status`. It goes to the primary with each heartbeat, so it must be plain data,
        and quick to make: a worker that is slow here looks like one that hangs.
        """
        return {
            "hub": self._parts.hub.statistics(),
            **self._parts.registry.statistics(),
            **self.gateway.statistics(),
            **self.migration.statistics(),
            "misdirected": self._hosts.misdirected,
            "wrong_credentials": dict(self._parts.wrong.counts),
        }


def report(error: ExceptionInfo) -> str:
    """Give a traceback that begins in the application's own code, where it has any."""
    kind, value, begin = error
    at = begin
    while at is not None and at.tb_frame.f_code.co_filename.startswith(OURS):
        at = at.tb_next
    return "".join(traceback.format_exception(kind, value, at or begin))


async def main() -> None:
    """Be a worker, from the first message of the primary to the last client."""
    try:
        worker = await Worker.connect()
    except NotAWorker as error:  # there is no channel, or none that can be read: standard error is the server's log
        sys.exit(NO_WORKER.format(error=error))
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
        settings = settings.with_defaults(app.setting_defaults)
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
    for each in sys.argv[1:]:
        import_module(each)
    serve_as_template()
    uvloop.run(main())
