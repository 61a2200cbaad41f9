"""
A Socket.IO server on several workers: `realtime serve --workers 4 --sticky session examples/socketio/app.py`.

Long polling keeps a client's session in one worker's memory, so every request of a client has to reach the same one:
that is what `--sticky session` is for. A browser is recognised by a cookie. For programs that keep none, Socket.IO's
own session id leads to the worker: add `--session-param sid`. What clients of different workers say to each other goes
through Redis, as python-socketio does it: set SOCKETIO_REDIS to its URL.
"""

from __future__ import annotations

import os
from typing import Any

import socketio

from sticky import new_sticky_id

redis_url = os.environ.get("SOCKETIO_REDIS")
server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(redis_url) if redis_url else None,
)
server.eio.generate_id = new_sticky_id  # an id that leads back to this worker
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await server.enter_room(sid, "everybody")


@server.event
async def echo(sid: str, data: Any) -> Any:
    """Answer the caller."""
    return {"pid": os.getpid(), "data": data}


@server.event
async def shout(sid: str, data: Any) -> None:
    """Tell everybody, on all workers where there is Redis."""
    await server.emit("shouted", data, room="everybody")
