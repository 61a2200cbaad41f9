"""
A worker that serves Engine.IO alone and sends each message back: `python -m tests.support.engine_worker`.

It is a real worker with real connections, for `TinyCluster`. `config` may have the heartbeat: `ping_s` and `pong_s`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from realtime.process.gateway import Gateway
from realtime.protocol.socketio.base import EngineLimits
from realtime.protocol.socketio.echo import Echo
from realtime.protocol.socketio.endpoints import endpoints
from realtime.timing.timer_wheel import TimerWheel, run_wheel
from realtime.transport.adopted import AdoptedConnections
from sticky import Worker
from tests.support.engine_server import PATH, serve_engine


async def main() -> None:
    worker = await Worker.connect()
    config: dict[str, Any] = worker.config or {}
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop.time())
    connections = AdoptedConnections(worker, worker.routes.keys)
    socketio, endpoint, host = serve_engine(
        Echo,
        worker=worker,
        owner=connections,
        wheel=wheel,
        limits=EngineLimits(config.get("ping_s", 25.0), config.get("pong_s", 20.0), 1_000_000, 1_000_000),
        new_sid=worker.routes.new_query_id,
    )
    gateway = Gateway(endpoint, host, connections, endpoints=endpoints(PATH), streams=socketio.polling)
    turning = loop.create_task(run_wheel(wheel))
    worker.ready()
    await worker.run(
        on_connection=gateway.adopt,
        on_drain=gateway.drain,
        on_refused=gateway.refuse,
        statistics=gateway.statistics,
    )
    turning.cancel()


if __name__ == "__main__":
    uvloop.run(main())
