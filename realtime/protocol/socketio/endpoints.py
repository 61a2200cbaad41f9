"""
Where Engine.IO is served, what a client says in the query of its requests, and which requests are refused.

Pure: knows no connection but by what `Find` says of it. The refusals have the codes and the texts of the reference
server, in the order in which it checks: transport, session, method, version (Engine.IO protocol 4, "Handshake").

A request with a `sid` belongs to a session that there is; every other one begins a session. What is no parameter of
Engine.IO is the application's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from realtime import codes
from realtime.protocol.base import Endpoints
from realtime.transport.http import Fields

PATH: Final = "/socket.io"
VERSION: Final = "4"
POLLING: Final = "polling"
WEBSOCKET: Final = "websocket"
OWN: Final = frozenset(("EIO", "transport", "sid", "t", "b64", "j"))  # parameters that are not the application's

UNSTORED: Final = (b"cache-control", b"no-store")
PREFLIGHT_METHODS: Final = b"GET,HEAD,PUT,PATCH,POST,DELETE"

Find = Callable[[str], str | None]
"""Says which transport the session with this id uses now; None where there is no such session."""


def endpoints(path: str = PATH) -> Endpoints:
    """Return where Engine.IO is served: at a path, with a slash at its end and without."""
    paths = frozenset((path, f"{path}/"))
    return Endpoints(websocket_paths=paths, http_paths=paths, shutdown=codes.SHUTDOWN, query_id_paths=paths)


class EngineRefusal(enum.Enum):
    """Why a request is refused: a number and a text, as clients of the reference server know them."""

    UNKNOWN_TRANSPORT = (0, "Transport unknown")
    UNKNOWN_SID = (1, "Session ID unknown")
    BAD_METHOD = (2, "Bad handshake method")
    BAD_REQUEST = (3, "Bad request")
    FORBIDDEN = (4, "Forbidden")
    UNSUPPORTED_VERSION = (5, "Unsupported protocol version")

    @property
    def text(self) -> str:
        """What is wrong, in words."""
        return self.value[1]

    @property
    def body(self) -> bytes:
        """The answer's body, a JSON text."""
        code, message = self.value
        return msgspec.json.encode({"code": code, "message": message})


def refusal_of_request(method: str, query: Mapping[str, str], find: Find) -> EngineRefusal | None:
    """Say why a request without an upgrade is refused; None where it is served."""
    transport, sid = query.get("transport"), query.get("sid")
    if transport not in (POLLING, WEBSOCKET):
        return EngineRefusal.UNKNOWN_TRANSPORT
    if sid:
        using = find(sid)
        if using is None:
            return EngineRefusal.UNKNOWN_SID
        fits = transport == using == POLLING and query.get("EIO") == VERSION and method in ("GET", "POST")
        return None if fits else EngineRefusal.BAD_REQUEST
    if method != "GET":
        return EngineRefusal.BAD_METHOD
    if transport != POLLING:
        return EngineRefusal.BAD_REQUEST
    return None if query.get("EIO") == VERSION else EngineRefusal.UNSUPPORTED_VERSION


def refusal_of_websocket(query: Mapping[str, str], find: Find) -> EngineRefusal | None:
    """
    Say why a request for a WebSocket is refused; None where it is accepted. One for a session that has a WebSocket is
    accepted and closed at once: clients take a refusal there for an error of theirs.
    """
    transport, sid = query.get("transport"), query.get("sid")
    if transport not in (POLLING, WEBSOCKET):
        return EngineRefusal.UNKNOWN_TRANSPORT
    if sid and find(sid) is None:
        return EngineRefusal.UNKNOWN_SID
    is_version = query.get("EIO") == VERSION
    if transport != WEBSOCKET or (sid and not is_version):
        return EngineRefusal.BAD_REQUEST
    return None if is_version else EngineRefusal.UNSUPPORTED_VERSION


def of_application(query: Mapping[str, str]) -> dict[str, str]:
    """Return what is left of a query: the application's part."""
    return {name: value for name, value in query.items() if name not in OWN}


def cors(origin: str | None) -> list[tuple[bytes, bytes]]:
    """
    Return the fields by which a browser lets a page read the answer (Fetch, section 3.2). They belong on every answer,
    refusals included: without them a page sees a network error. The origin was allowed. With credentials the origin
    itself has to stand there, and never `*`.
    """
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]


def preflight(origin: str, asked: str | None) -> Fields:
    """Return the fields of the answer to a preflight (Fetch, section 4.8). `asked`: headers that the page will send."""
    fields = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-methods", PREFLIGHT_METHODS),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    ]
    return fields if asked is None else [*fields, (b"access-control-allow-headers", asked.encode("latin-1"))]
