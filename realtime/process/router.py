"""
What a worker answers by itself, and the way to what the application mounted.

Runs in the worker, as one small ASGI application in front of all others: `/health`, probes, the browser client, static
files, mounted applications, in this order of precedence: built in, mounts by the longest prefix, static files by the
longest prefix. It keeps nothing about a client.

What is built in is below `--own-prefix`, or at the root. At the root it gives way to the routes of a bare ASGI
application, as application_first.py says, but for two things: the clients' endpoints, and the probes `/livez` and
`/readyz`. A page for every path would answer a balancer that a server which is about to stop is ready.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Awaitable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from realtime.api import Api
from realtime.application.app import Application
from realtime.log_lines import log
from realtime.process.application_first import application_first
from realtime.process.probes import Probes
from realtime.transport.asgi import ASGIApp, Lifespan, Receive, Scope, Send
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.http import JSON, NONE, TEXT, Fields, headers_of, respond
from realtime.transport.probe_paths import HEALTH, PROBES, below

if TYPE_CHECKING:
    from realtime.process.client_files import ClientFiles
    from realtime.process.static import StaticFiles

PATH_GIVEN_AWAY: Final = "= path given away"
CLIENT_FILES: Final = {"/realtime.js": "realtime.js", "/realtime.d.ts": "realtime.d.ts"}

UNSTORED: Final = [(b"cache-control", b"no-store")]

WELCOME: Final = """<!doctype html><meta charset="utf-8"><title>realtime</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font:1rem/1.6 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem">
<h1>It serves.</h1><p>Clients connect to <code>{own}/connection/websocket</code>; the browser client is
<a href="{own}/realtime.js">{own}/realtime.js</a>, and <a href="{own}/health">{own}/health</a> says how this worker
is.</p>
<p>To put a page here: <code>app.static("/", "public")</code> or <code>app.mount("/", asgi_app)</code>.</p>
"""

logger = logging.getLogger("realtime.router")


class HealthSource(Protocol):
    """What knows how this process is."""

    def health(self) -> dict[str, Any]:
        """Return what `GET /health` answers, as plain data. The status is 200, whatever it says."""


class Router:
    """The ASGI application of a worker."""

    def __init__(
        self,
        app: Application,
        *,
        health: HealthSource,
        websocket_paths: Collection[str],
        stream_paths: Collection[str],
        streams: ASGIApp,
        api: Api,
        root_path: str = "",
        probes: Probes | None = None,
        own_prefix: str = "",
        hosts: Hosts = ANY_HOST,
    ) -> None:
        """
        Args:
            health: says how this worker is.
            websocket_paths: where our own WebSockets are, below the prefix: a request for one never comes here.
            stream_paths: where our clients that have no WebSocket come, likewise.
            streams: serves these.
            api: serves other programs, where there are keys.
            root_path: what a proxy in front takes off each path.
            probes: answers `/livez` and `/readyz`; those of a process alone unless given.
            own_prefix: a setting of the same name.
            hosts: which hosts are served. A request for another one, which asks for `/health`, never reaches a bare
                application: it may make links of the host.
        """
        self._probes = probes or Probes()
        self._probe_paths = below(own_prefix, PROBES)
        self._root_path = root_path
        self._own_prefix = own_prefix
        self._gives_way = app.is_bare and not own_prefix
        self._given_away: set[str] = set()  # paths of which the log has said that the application answers them
        self._hosts = hosts
        self._health = health
        self._own_answers: dict[str, ASGIApp] = {
            HEALTH: self._answer_health,
            **dict.fromkeys(CLIENT_FILES, self._serve_client),
        }
        self._websocket_paths = websocket_paths
        self._stream_paths = stream_paths
        self._streams = streams
        self._api = api
        mounts = sorted(app.mounts, key=lambda mount: -len(mount[0]))
        self._mounts = [(prefix, mounted, Lifespan(mounted)) for prefix, mounted in mounts]
        statics = sorted(app.statics, key=lambda each: -len(each[0]))
        self._statics = [(prefix, _static_files(directory)) for prefix, directory in statics]
        self._client: ClientFiles | None = None  # only when it is asked for: its code takes 50 ms to import

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
            if path in self._stream_paths:  # some of them are paths of WebSockets as well
                return self._streams(scope, receive, send)
            if path in self._websocket_paths:
                return _upgrade_required(scope, send)
            if path in self._probe_paths:
                return self._answer_probe(scope, receive, send)
            if (own := self._own(path)) is not None:
                return own(scope, receive, send)
        return self._application(scope, receive, send)

    def _own(self, path: str) -> ASGIApp | None:
        """Return what answers a path of the server that may give way; None for a path of the application."""
        own = self._at(path)
        if own is None or not self._gives_way:
            return own
        # Of /api only the paths that have a meaning: what the application answers to all others is not looked at.
        return partial(self._give_way, own) if own is not self._api or self._api.has(path) else None

    def _at(self, path: str) -> ASGIApp | None:
        if self._api.keys and _is_below(path, self._api.path):
            return self._api
        if not path.startswith(self._own_prefix):
            return None
        return self._own_answers.get(path[len(self._own_prefix) :])

    async def _give_way(self, own: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer first."""
        path = scope["path"]
        if not self._hosts.allows(headers_of(scope).get("host", "")):
            await own(scope, receive, send)
            return
        most = self._api.body_max
        is_given_away = await application_first(self._application, own, scope, receive, send, most=most)
        if is_given_away and path not in self._given_away:  # at most one line for each path of ours
            self._given_away.add(path)
            log(logger, logging.INFO, PATH_GIVEN_AWAY, path=path, reason="the application answers it; see --own-prefix")

    def _application(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve what is not ours: mounts, then static files."""
        path = scope["path"]
        for prefix, mounted, lifespan in self._mounts:
            if _is_below(path, prefix):
                self._put_below(scope, prefix, lifespan)
                return mounted(scope, receive, send)
        return self._static(scope, receive, send)

    async def _answer_health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say how this worker is."""
        body = msgspec.json.encode(self._health.health())
        await _answer(scope, send, 200, body, JSON, UNSTORED)

    async def _answer_probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a load balancer."""
        status, body = self._probes.answer(scope["path"].removeprefix(self._own_prefix))
        await _answer(scope, send, status, body, JSON, UNSTORED)

    async def _serve_client(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the browser client, or its types."""
        if self._client is None:
            from realtime.process.client_files import ClientFiles

            self._client = ClientFiles()
        name = CLIENT_FILES[scope["path"].removeprefix(self._own_prefix)]
        await self._client.serve(name, self._below(scope), scope, receive, send)

    def _below(self, scope: Scope) -> str:
        """Return the path below which a browser finds what is ours: a proxy's, a mount's, and `--own-prefix`."""
        found: str = self._root_path + scope.get("root_path", "") + self._own_prefix
        return found

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
            page = WELCOME.replace("{own}", html.escape(self._below(scope))).encode()
            await _answer(scope, send, 200, page, "text/html; charset=utf-8")
            return
        await _answer(scope, send, 404, b"There is nothing here.\n", TEXT)


def _static_files(directory: Path) -> StaticFiles:
    """Return what serves the files of a directory. Workers without static files do not load its code."""
    from realtime.process.static import StaticFiles

    return StaticFiles(directory)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


async def _upgrade_required(scope: Scope, send: Send) -> None:
    """Answer a request without an upgrade to a path of our WebSockets."""
    text = b"This is the address of a WebSocket.\n"
    await _answer(scope, send, 426, text, TEXT, [(b"upgrade", b"websocket"), (b"connection", b"upgrade")])


async def _answer(scope: Scope, send: Send, status: int, body: bytes, kind: str, headers: Fields = NONE) -> None:
    if scope["method"] not in ("GET", "HEAD") and status == 200:
        status, body, kind = 405, b"GET or HEAD.\n", TEXT
        headers = [(b"allow", b"GET, HEAD")]
    await respond(send, status, body, kind, headers, is_head=scope["method"] == "HEAD")
