"""
Requests and responses of HTTP, as ASGI has them: the parts that every endpoint shares.

Runs in the worker. Router, API and the streams of clients read a request and send a response with these functions, so
that lengths, types and headers are written in one place. Nothing here knows a path, a client or a session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from realtime.transport.asgi import CONNECTION, EXTENSION, Receive, RequestConnection, Scope, Send
from realtime.transport.base import Handshake, Parameters
from realtime.transport.opening import merge
from sticky.handoff.journal import NO_MARK

Fields = Sequence[tuple[bytes, bytes]]
"""Headers; names in lower case."""

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
NONE: Final[Fields] = ()

UNCACHED: Final[Fields] = [
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"pragma", b"no-cache"),
    (b"expire", b"0"),
    (b"x-accel-buffering", b"no"),
]


def cut(scope: Scope) -> None:
    """Cut the connection of a request whose client takes nothing: an answer's end would wait behind what it left."""
    if (connection := connection_of(scope)) is not None:
        connection.cut()


def connection_of(scope: Scope) -> RequestConnection | None:
    """Return what brought a request, where that is known."""
    found: RequestConnection | None = scope.get("state", {}).get(CONNECTION)
    return found


async def gone(receive: Receive) -> None:
    """Return when the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive, most: int) -> bytes | None:
    """Return a request's body, or None where it is larger than it may be."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def begin_response(send: Send, status: int, fields: Fields) -> None:
    """Send status and headers. The caller sends the body, to its end."""
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def respond(
    send: Send, status: int, body: bytes = b"", kind: str = TEXT, fields: Fields = NONE, *, is_head: bool = False
) -> None:
    """
    Send a whole response.

    Args:
        send: of the request.
        status: HTTP's.
        body: the response's; without one the response has no content type and no length.
        kind: the content type.
        fields: more headers, names in lower case.
        is_head: the request's method is HEAD: the headers are sent as for GET, and no body.
    """
    about = [(b"content-length", b"%d" % len(body)), (b"content-type", kind.encode())] if body else []
    await begin_response(send, status, [*about, *fields])
    await send({"type": "http.response.body", "body": b"" if is_head else body})


async def respond_text(send: Send, status: int, body: bytes, fields: Fields = NONE) -> None:
    """Send a whole response that is a sentence for people."""
    await respond(send, status, body, fields=fields)


def handshake_of(
    scope: Scope, headers: Mapping[str, str], parameters: Parameters, *, transport: str, is_emulated: bool
) -> Handshake:
    """
    Return what is known of a client by its first request.

    Args:
        scope: as the ASGI host fills it.
        headers: of the request, as `headers_of` gives them.
        parameters: what the wire protocol has read out of its URL.
        transport: what it is called.
        is_emulated: what the client sends comes by requests of their own.
    """
    client = scope.get("client") or ("", 0)
    place: dict[str, Any] = scope.get("state", {}).get(EXTENSION, {})
    return Handshake(
        address=client[0],
        client_port=client[1],
        scheme=scope.get("scheme", "http"),
        path=scope["path"],
        query=parameters.query,
        headers=headers,
        sticky_id=place.get("session"),
        transport=transport,
        is_one_way=parameters.is_one_way,
        is_emulated=is_emulated,
        mark=getattr(connection_of(scope), "mark", NO_MARK),
    )


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers, names in lower case; several of one name as one."""
    return merge((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
