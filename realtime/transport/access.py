"""
A line in the log for each request and each WebSocket of a hosted application, when its answer has ended.

Runs in the worker, around the application. It writes the path without the query, which can hold a token, and no
header. Times are from the head's arrival to the answer's end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from realtime.transport.probe_paths import PROBES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("realtime.access")


def logged(app: ASGIApp) -> ASGIApp:
    """Return the application, with a line for each request but a load balancer's probes."""

    async def logging_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        began_at = time.perf_counter()
        said: dict[str, Any] = {"status": 0, "bytes": 0}

        async def sending(message: Any) -> None:
            _take(said, message)
            await send(message)

        async def receiving() -> Any:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                said["closed"] = message.get("code", 1005)
            return message

        path = scope["path"]  # as it came: the application may be given another
        try:
            await app(scope, receiving, sending)
        except Exception:
            said["status"] = said["status"] or 500  # what uvicorn answers when nothing was
            raise
        finally:
            said["ms"] = round((time.perf_counter() - began_at) * 1000, 1)
            _write(scope, path, said)

    return logging_app


def _take(said: dict[str, Any], message: Any) -> None:
    """Note what the application says."""
    kind = message["type"]
    if kind in ("http.response.start", "websocket.http.response.start"):
        said["status"] = message["status"]
    elif kind in ("http.response.body", "websocket.http.response.body"):
        said["bytes"] += len(message.get("body", b""))
    elif kind == "websocket.accept":
        said["status"] = 101
    elif kind == "websocket.send":
        said["bytes"] += len(message.get("bytes") or (message.get("text") or "").encode())
    elif kind == "websocket.close":
        said["status"] = said["status"] or 403
        said["closed"] = message.get("code", 1000)


def _write(scope: Scope, path: str, said: dict[str, Any]) -> None:
    client = scope.get("client")
    fields = {
        "client": client[0] if client else "",
        "method": scope.get("method", "WEBSOCKET"),
        "path": path,
        **said,
    }
    closed = f", closed {fields['closed']}" if "closed" in fields else ""
    text = f"< %(client)s %(method)s %(path)s: %(status)d{closed}, %(bytes)d bytes, %(ms)g ms"
    logger.info(text, fields, extra={"fields": fields})
