"""
A line in the log for each request and each WebSocket of a hosted application, when its answer has ended.

Runs in the worker, around the application. It writes the path without the query, which can hold a token, and no
header. Times are from the head's arrival to the answer's end.

The line comes when the application returns, so a stream of an hour is logged after an hour. An application that is
cancelled, because its client left, is logged as well, with what it had sent until then. Nothing is logged where the
setting is off: then this code is not even around the application.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

from realtime.log_lines import log

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_SERVED: Final = "< request served"

logger = logging.getLogger("realtime.access")


def logged(app: ASGIApp, *, but: Collection[str] = ()) -> ASGIApp:
    """
    Return the application, with a line for each request.

    What passes through is not changed. The messages are read on their way, and counted.

    Args:
        app: answers the requests.
        but: paths of requests that get no line.
    """

    async def logging_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in but:
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

        # As it came: a router may put another path into the scope, and the operator wants the client's.
        path = scope["path"]
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
    """
    Note what the application says.

    Args:
        said: of this request so far: `status`, `bytes` of bodies or messages, and `closed` for a WebSocket's code.
        message: of ASGI. Of a type that is not known here nothing is noted: there may be extensions.
    """
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
    """Log one request or WebSocket, with all that was noted."""
    client = scope.get("client")
    method = scope.get("method", "WEBSOCKET")
    log(logger, logging.INFO, REQUEST_SERVED, address=client[0] if client else None, method=method, path=path, **said)
