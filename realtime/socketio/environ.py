"""
`environ`: a client's request as handlers of python-socketio get it, in the form of WSGI (PEP 3333).

Pure, in the worker. It is made of what a connection knows. Headers are dropped after `on_connect` elsewhere; here they
are kept in the connection's state, for `get_environ` may be called at any time, also after a move to another worker.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

from realtime.session.connection import Connection

HEADERS: Final = "socketio headers"
"""Under this key of `conn.state` are the headers of the handshake."""

UNPREFIXED: Final = ("content-type", "content-length")  # PEP 3333: these two have no HTTP_ in front


def keep_headers(conn: Connection) -> None:
    """Keep the headers for `environ_of`. To be called while `on_connect` runs: afterwards they are gone."""
    conn.state[HEADERS] = dict(conn.headers)


def environ_of(conn: Connection) -> dict[str, Any]:
    """
    Return a client's request. `asgi.scope` in it is as far as a connection knows it. The query is the application's
    part: without the parameters of Engine.IO.
    """
    headers: dict[str, str] = conn.state.get(HEADERS) or {}
    query = urlencode(conn.query)
    host, _, port = headers.get("host", "realtime").partition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": conn.path,
        "QUERY_STRING": query,
        "RAW_URI": quote(conn.path) + (f"?{query}" if query else ""),
        "SERVER_NAME": host,
        "SERVER_PORT": port or ("443" if conn.scheme == "https" else "80"),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "realtime",
        "REMOTE_ADDR": conn.address,
        "REMOTE_PORT": "0",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": conn.scheme,
        "asgi.scope": {
            "type": "http",
            "scheme": conn.scheme,
            "method": "GET",
            "path": conn.path,
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), _bytes(value)) for name, value in headers.items()],
            "client": (conn.address, 0),
        },
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if name in UNPREFIXED else f"HTTP_{key}"] = value
    return environ


def _bytes(value: str) -> bytes:
    """Return a header's value as ASGI has it."""
    return value.encode("latin-1", errors="replace")
