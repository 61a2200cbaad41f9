"""
Where the protocol is served, and what a client can say in the URL of its first request.

Pure. The paths and the query's parameters are those of Centrifugo (Centrifuge client protocol, sections 2.2 to 2.6):

- `cf_connect`: the first message, for clients that cannot send one: an EventSource, and a client that only listens.
- `cf_ws_frame_ping_pong=true`: pings are frames of the WebSocket, in place of the protocol's empty messages.

Transports, gateway and router know none of them. They ask: `ENDPOINTS`, and `read_parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realtime import codes
from realtime.protocol.base import Endpoints
from realtime.transport.base import Parameters

HTTP_STREAM: Final = "/connection/http_stream"
SSE: Final = "/connection/sse"
UNI_HTTP_STREAM: Final = "/connection/uni_http_stream"
UNI_SSE: Final = "/connection/uni_sse"
EMULATION: Final = "/emulation"
WEBSOCKET: Final = "/connection/websocket"
UNI_WEBSOCKET: Final = "/connection/uni_websocket"
ENDPOINTS: Final = Endpoints(
    websocket_paths=frozenset((WEBSOCKET, UNI_WEBSOCKET)),
    http_paths=frozenset((HTTP_STREAM, SSE, UNI_HTTP_STREAM, UNI_SSE, EMULATION)),
    shutdown=codes.SHUTDOWN,
)

ONE_WAY: Final = (UNI_HTTP_STREAM, UNI_SSE, UNI_WEBSOCKET)  # ends of paths: a prefix may stand before them
FIRST_IN_QUERY: Final = (SSE, UNI_SSE, UNI_WEBSOCKET)  # elsewhere a client can send its first message

CONNECT: Final = "cf_connect"
FRAME_PINGS: Final = "cf_ws_frame_ping_pong"


def read_parameters(path: str, query: Mapping[str, str]) -> Parameters:
    """
    Return what the URL of a client's first request says.

    `cf_connect` can hold a token. So it is taken out of the query, on every path: no handler and no log sees it.

    Args:
        path: one of `ENDPOINTS`, also below a prefix; any other has no meaning, and says nothing.
        query: of the request, decoded. It is not changed.
    """
    rest = dict(query)
    first = rest.pop(CONNECT, "")
    return Parameters(
        rest,
        # What is not ASCII came percent-encoded; what was no UTF-8 goes on as the bytes that it was.
        first=first.encode(errors="surrogateescape") if first and path.endswith(FIRST_IN_QUERY) else None,
        is_one_way=path.endswith(ONE_WAY),
        wants_ping_frames=query.get(FRAME_PINGS) == "true",
    )
