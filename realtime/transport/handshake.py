"""
The opening handshake of a WebSocket.

Pure: a request's head goes in, the bytes of the answer come out, with what the session knows of the client.
websockets' `ServerProtocol` checks the request and makes the answer. Ours are the limit on what is read (`opening.py`)
and the admission: origins, subprotocols, compression, and the cookie of a new sticky id.
"""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct
from websockets.exceptions import InvalidHeader
from websockets.http11 import Request, Response
from websockets.protocol import State as ProtocolState
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from realtime.settings import Settings
from realtime.transport.base import Handshake, NoParameters, ParameterReader, Parameters, SessionFactory
from realtime.transport.deflate import OFFERS, inflating
from realtime.transport.frames import PING
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.opening import merge, read_opening
from realtime.transport.peer import Peer, session_cookie
from sticky.heads.first_bytes import DEFAULT_LIMITS, HeadLimits, Refusal, path_and_query

VERSION: Final = "Sec-WebSocket-Version"

ws_protocol_logger = logging.getLogger("realtime.websocket.protocol")
ws_protocol_logger.setLevel(logging.WARNING)  # what websockets says about each connection, we say ourselves


@dataclass(frozen=True, slots=True)
class Admission:
    """Which clients may open a WebSocket, and how."""

    allowed_origins: tuple[str, ...] = Settings.allowed_origins
    """Origins of web pages; `*.` stands for any labels, `app://*` for every host of the scheme, `*` for every origin.
    Empty: pages of the same host only."""
    subprotocols: tuple[str, ...] = ()
    session_cookie: str = Settings.session_cookie
    compression: bool = Settings.compression
    """Compress where a client offers it; a setting of the same name."""
    hosts: Hosts = ANY_HOST
    """For which hosts."""
    parameters: ParameterReader = field(default_factory=NoParameters)
    """Reads what clients say by the URL: the wire protocol."""

    @classmethod
    def from_settings(cls, settings: Settings, sessions: SessionFactory, hosts: Hosts) -> Admission:
        """
        Return the admission that is set.

        Args:
            settings: of the server.
            sessions: the wire protocol, which has the subprotocols and reads the URLs.
            hosts: for which requests are served; shared with hosted requests, because it counts.
        """
        return cls(
            settings.allowed_origins,
            tuple(sessions.subprotocols),
            settings.session_cookie,
            settings.compression,
            hosts,
            sessions,
        )


class Accepted(Struct, frozen=True):
    """The connection is a WebSocket once `answer` is sent."""

    answer: bytes
    handshake: Handshake
    subprotocol: str | None
    is_compressed: bool = False
    """Both sides may compress messages, as `deflate.py` says."""
    first: bytes | None = None
    """The first message, where the request itself brought it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection ends after `answer`. `problem` is for the log."""

    answer: bytes
    problem: str


def shake_hands(
    head: bytes, peer: Peer, admission: Admission, limits: HeadLimits = DEFAULT_LIMITS
) -> Accepted | Refused:
    """
    Answer a request for a WebSocket.

    Args:
        head: the request up to its blank line, which is included; nothing after it.
        peer: the client.
        admission: which clients may connect.
        limits: what the head may have.
    """
    request = read_opening(head, limits)
    if isinstance(request, Refusal):
        return Refused(refusal(http.HTTPStatus(request.status), request.reason), request.reason)
    path, query = _target(request)
    parameters = admission.parameters.read_parameters(path, query)
    ws_protocol = ServerProtocol(
        extensions=[OFFERS] if admission.compression and parameters.takes_compression else None,
        select_subprotocol=lambda _, offered: _choose(admission.subprotocols, offered),
        logger=ws_protocol_logger,
    )
    try:
        response, problem = _respond(ws_protocol, request, peer, admission)
    except UnicodeEncodeError:  # websockets before 17 cannot quote what is not ASCII
        return Refused(_BAD_REQUEST, "a header is not ASCII")
    is_accepted = response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS
    assert is_accepted == (not problem), (
        "a client that is not let in gets another status than 101, and the log a reason"
    )
    if is_accepted and parameters.refusal is not None:  # last: of a request that is no handshake nothing else is said
        return Refused(refusal(http.HTTPStatus.BAD_REQUEST, parameters.refusal), parameters.refusal)
    if is_accepted and peer.new_sticky_id is not None:
        response.headers["Set-Cookie"] = session_cookie(admission.session_cookie, peer.new_sticky_id, peer.scheme)
    ws_protocol.send_response(response)
    answer = b"".join(ws_protocol.data_to_send())
    if not is_accepted:
        return Refused(answer, problem)
    handshake = _describe(request, peer, path, parameters)
    return Accepted(answer, handshake, ws_protocol.subprotocol, bool(ws_protocol.extensions), parameters.first)


def _respond(ws_protocol: ServerProtocol, request: Request, peer: Peer, admission: Admission) -> tuple[Response, str]:
    """
    Return the response to a request, and why it refuses; "" where it accepts.

    The order matters. The host comes first: of a request that was never meant for this server, nothing else is judged.
    The origin comes before RFC 6455's own rules, so that a foreign page learns nothing from the difference.

    Raises:
        UnicodeEncodeError: a header is not ASCII, and this version of websockets cannot say so.
    """
    if admission.hosts.is_limited and not admission.hosts.allows(host := _host_of(request)):
        admission.hosts.refuse(host, peer.address)
        response = ws_protocol.reject(http.HTTPStatus.MISDIRECTED_REQUEST, "This host is not served here.\n")
        return response, "its host is not served"
    if not origin_allowed(request, admission.allowed_origins):
        response = ws_protocol.reject(http.HTTPStatus.FORBIDDEN, "This origin may not connect.\n")
        return response, f"origin {', '.join(request.headers.get_all('Origin'))!r} is not allowed"
    response = ws_protocol.accept(_of_several(request))
    fault = ws_protocol.handshake_exc
    if fault is None:
        return response, ""
    if isinstance(fault, InvalidHeader) and fault.name == VERSION:
        response = ws_protocol.reject(http.HTTPStatus.UPGRADE_REQUIRED, f"{fault}\n")
        response.headers["Upgrade"] = "websocket"
        response.headers[VERSION] = "13"  # RFC 6455, section 4.4
    return response, str(fault) or type(fault).__name__


def _choose(accepted: Sequence[str], offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Take the first of ours that was offered. A client that offers others decides itself whether to go on."""
    return next((Subprotocol(each) for each in accepted if each in offered), None)


def _describe(request: Request, peer: Peer, path: str, parameters: Parameters) -> Handshake:
    return Handshake(
        address=peer.address,
        client_port=peer.client_port,
        scheme=peer.scheme,
        path=unquote(path),
        query=parameters.query,
        headers=merge(request.headers.raw_items()),
        sticky_id=peer.sticky_id or peer.new_sticky_id,
        is_one_way=parameters.is_one_way,
        ping_frame=PING if parameters.wants_ping_frames else None,
        mark=peer.mark,
    )


def _of_several(request: Request) -> Request:
    """Take up WebSocket where it is one of several protocols that are offered; websockets wants it alone."""
    offered = request.headers.get_all("Upgrade")
    if len(offered) == 1 and offered[0].lower() == "websocket":
        return request
    if "websocket" not in [each.strip(" \t").lower() for line in offered for each in line.split(",")]:
        return request
    headers = request.headers.copy()
    del headers["Upgrade"]
    headers["Upgrade"] = "websocket"
    return replace(request, headers=headers)


def _target(request: Request) -> tuple[str, dict[str, str]]:
    """Return the path and the query of what was asked for."""
    path, _, query = path_and_query(request.path.encode()).decode().partition("?")
    return path, dict(parse_qsl(query, keep_blank_values=True))


def _host_of(request: Request) -> str:
    """Return the host that was asked for: an absolute target's, else that of the one `Host` header."""
    scheme, separator, rest = request.path.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return rest.partition("?")[0].partition("/")[0]
    hosts = request.headers.get_all("Host")
    return hosts[0] if len(hosts) == 1 else ""


# Origins


def origin_allowed(request: Request, allowed: Sequence[str]) -> bool:
    """
    Say whether the page that asks may connect.

    A browser names the page's origin and no script can change it, so this is what keeps a foreign page from using a
    visitor's cookies. A client that sends no `Origin` is no browser, and could send any. An empty one is none: a page
    without an origin has `null`.
    """
    origins = [each for each in request.headers.get_all("Origin") if each]
    if not origins:
        return True
    if len(origins) > 1:
        return False
    hosts = request.headers.get_all("Host")
    return origin_matches(origins[0], hosts[0] if len(hosts) == 1 else None, allowed)


def origin_matches(origin: str, host: str | None, allowed: Sequence[str]) -> bool:
    """Say whether an origin is one of those allowed; where none are named, whether it is this `host`."""
    origin = origin.lower()
    if allowed:
        return any(_matches(origin, pattern) for pattern in allowed)
    return host is not None and _same_host(origin, host)


def _matches(origin: str, pattern: str) -> bool:
    if pattern == "*" or origin == pattern:
        return True
    if pattern.endswith("://*"):
        return len(origin) >= len(pattern) and origin.startswith(pattern[:-1])
    before, star, after = pattern.partition("*.")
    if not star:
        return False
    return re.fullmatch(f"{re.escape(before)}([a-z0-9_-]+\\.)+{re.escape(after)}", origin) is not None


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _same_host(origin: str, host: str) -> bool:
    """
    Compare the origin with what the client thinks it talks to. The scheme is not compared: behind a proxy that ends TLS
    the page is https and we are not.
    """
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(page.scheme)
        return (
            page.hostname is not None
            and page.hostname == here.hostname
            and (page.port or default) == (here.port or default)
        )
    except ValueError:
        return False


def refusal(status: http.HTTPStatus, text: str) -> bytes:
    """Return a whole plain answer that ends the connection."""
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_BAD_REQUEST = refusal(http.HTTPStatus.BAD_REQUEST, "This is no request for a WebSocket.")


def opened_ws_protocol(message_bytes: int, *, is_compressed: bool) -> ServerProtocol:
    """
    Return websockets' `ServerProtocol` for a connection whose handshake is done.

    Its own limit counts only while we close, and for what a compressed frame holds: no more is inflated. There is room
    for a ping within a message, for it counts that as a part.
    """
    ws_protocol = ServerProtocol(state=ProtocolState.OPEN, max_size=message_bytes + 125, logger=ws_protocol_logger)
    if is_compressed:
        ws_protocol.extensions = [inflating()]
    return ws_protocol
