"""
What a worker answers by itself, and the way to what the application mounted.

Runs in the worker, as one small ASGI application in front of all others: `/health`, probes, the browser client, static
files, mounted applications, in this order of precedence: built in, mounts by the longest prefix, static files by the
longest prefix. It keeps nothing about a client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from realtime.api import PREFIX, Api
from realtime.application.app import App
from realtime.process.probes import Probes
from realtime.transport.asgi import ASGIApp, Lifespan, Receive, Scope, Send
from realtime.transport.http import JSON, NONE, TEXT, Fields, respond
from realtime.transport.probe_paths import PROBES

if TYPE_CHECKING:
    from realtime.process.static import StaticFiles

CLIENT: Final = Path(__file__).parents[1] / "client"
ANY_ORIGIN: Final = {"access-control-allow-origin": "*"}  # whose pages may connect is asked when they do
CLIENT_FILES: Final = {"/realtime.js": "realtime.js", "/realtime.d.ts": "realtime.d.ts"}

UNSTORED: Final = [(b"cache-control", b"no-store")]

WELCOME: Final = b"""<!doctype html><meta charset="utf-8"><title>realtime</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font:1rem/1.6 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem">
<h1>It serves.</h1><p>Clients connect to <code>/connection/websocket</code>; the browser client is
<a href="/realtime.js">/realtime.js</a>, and <a href="/health">/health</a> says how this worker is.</p>
<p>To put a page here: <code>app.static("/", "public")</code> or <code>app.mount("/", asgi_app)</code>.</p>
"""


class Router:
    """The ASGI application of a worker."""

    def __init__(
        self,
        app: App,
        *,
        health: Callable[[], dict[str, Any]],
        websocket_paths: Collection[str],
        stream_paths: Collection[str],
        streams: ASGIApp,
        api: Api,
        root_path: str = "",
        probes: Probes | None = None,
    ) -> None:
        """
        Args:
            health: says how this worker is.
            websocket_paths: where our own WebSockets are: a request for one never comes here.
            stream_paths: where our clients that have no WebSocket come.
            streams: serves these.
            api: serves other programs, where there are keys.
            root_path: what a proxy in front takes off each path.
            probes: answers `/livez` and `/readyz`; those of a process alone unless given.
        """
        self._probes = probes or Probes()
        self._root_path = root_path
        self._health = health
        self._built_in = frozenset(("/health", *PROBES, *CLIENT_FILES, *websocket_paths))
        self._stream_paths = stream_paths
        self._streams = streams
        self._api = api
        mounts = sorted(app.mounts, key=lambda mount: -len(mount[0]))
        self._mounts = [(prefix, mounted, Lifespan(mounted)) for prefix, mounted in mounts]
        statics = sorted(app.statics, key=lambda each: -len(each[0]))
        self._statics = [(prefix, _static_files(directory)) for prefix, directory in statics]
        self._client: StaticFiles | None = None  # only when it is asked for: its code takes 50 ms to import

    async def startup(self) -> None:
        """
        Start every mounted application.

        Raises:
            StartupFailed: one of them cannot start.
        """
        for _, _, lifespan in self._mounts:
            await lifespan.startup()

    async def shutdown(self) -> None:
        """Let every mounted application end."""
        for _, _, lifespan in reversed(self._mounts):
            await lifespan.shutdown()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        if scope["type"] == "http":
            if path in self._built_in:
                return self._answer(path, scope, receive, send)
            if path in self._stream_paths:
                return self._streams(scope, receive, send)
            if self._api.keys and _is_below(path, PREFIX):
                return self._api(scope, receive, send)
        for prefix, mounted, lifespan in self._mounts:
            if _is_below(path, prefix):
                self._put_below(scope, prefix, lifespan)
                return mounted(scope, receive, send)
        return self._static(scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is built in."""
        if path == "/health":
            body = msgspec.json.encode(self._health())
            await _answer(scope, send, 200, body, JSON, UNSTORED)
        elif path in PROBES:
            status, body = self._probes.answer(path)
            await _answer(scope, send, status, body, JSON, UNSTORED)
        elif path in CLIENT_FILES:
            if self._client is None:
                self._client = _static_files(CLIENT, ANY_ORIGIN)
            await self._client.serve(CLIENT_FILES[path], scope, receive, send)
        else:
            text = b"This is the address of a WebSocket.\n"
            await _answer(scope, send, 426, text, TEXT, [(b"upgrade", b"websocket"), (b"connection", b"upgrade")])

    def _put_below(self, scope: Scope, prefix: str, lifespan: Lifespan) -> None:
        """Make the scope what a mounted application sees (ASGI: `path` is whole, `root_path` its beginning)."""
        root = self._root_path
        if root or prefix:
            scope["root_path"] = root + scope.get("root_path", "") + prefix
        if lifespan.state:
            scope["state"] = {**lifespan.state, **scope.get("state", {})}
        if root:
            scope["path"] = root + scope["path"]
            scope["raw_path"] = root.encode() + scope.get("raw_path", b"")

    async def _static(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before the handshake: uvicorn answers 403
            return
        for prefix, files in self._statics:
            if _is_below(path, prefix) and await files.serve(path[len(prefix) :].lstrip("/"), scope, receive, send):
                return
        if path == "/" and not self._statics:
            await _answer(scope, send, 200, WELCOME, "text/html; charset=utf-8")
            return
        await _answer(scope, send, 404, b"There is nothing here.\n", TEXT)


def _static_files(directory: Path, headers: Mapping[str, str] | None = None) -> StaticFiles:
    """Return what serves the files of a directory. Workers without static files do not load its code."""
    from realtime.process.static import StaticFiles

    return StaticFiles(directory, headers)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


async def _answer(scope: Scope, send: Send, status: int, body: bytes, kind: str, headers: Fields = NONE) -> None:
    if scope["method"] not in ("GET", "HEAD") and status == 200:
        status, body, kind = 405, b"GET or HEAD.\n", TEXT
        headers = [(b"allow", b"GET, HEAD")]
    await respond(send, status, body, kind, headers, is_head=scope["method"] == "HEAD")
