"""
What a worker answers by itself, and the way to what the application mounted.

Runs in the worker, as one small ASGI application in front of all others: `/health`, the browser client, static files,
mounted applications, in this order of precedence: built in, mounts by the longest prefix, static files by the longest
prefix. It keeps nothing about a client.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

import msgspec

from realtime.api import PREFIX, Api
from realtime.application.app import App
from realtime.transport.asgi import ASGIApp, Lifespan, Receive, Scope, Send
from realtime.transport.http import JSON, NONE, TEXT, Fields, begin_response, respond

CHUNK: Final = 256 * 1024
CLIENT: Final = Path(__file__).parent.parent / "client"
ANY_ORIGIN: Final = ((b"access-control-allow-origin", b"*"),)  # whose pages may connect is asked when they do
CLIENT_FILES: Final = {"/realtime.js": "realtime.js", "/realtime.d.ts": "realtime.d.ts"}
TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".ts": "text/plain", ".wasm": "application/wasm"}
PACKED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

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
    ) -> None:
        """
        Args:
            health: says how this worker is.
            websocket_paths: where our own WebSockets are: a request for one never comes here.
            stream_paths: where our clients that have no WebSocket come.
            streams: serves these.
            api: serves other programs, where there are keys.
            root_path: what a proxy in front takes off each path.
        """
        self._root_path = root_path
        self._health = health
        self._built_in = frozenset(("/health", *CLIENT_FILES, *websocket_paths))
        self._stream_paths = stream_paths
        self._streams = streams
        self._api = api
        mounts = sorted(app.mounts, key=lambda mount: -len(mount[0]))
        self._mounts = [(prefix, mounted, Lifespan(mounted)) for prefix, mounted in mounts]
        self._statics = sorted(app.statics, key=lambda each: -len(each[0]))

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
                return self._answer(path, scope, send)
            if path in self._stream_paths:
                return self._streams(scope, receive, send)
            if self._api.keys and _is_below(path, PREFIX):
                return self._api(scope, receive, send)
        for prefix, mounted, lifespan in self._mounts:
            if _is_below(path, prefix):
                self._put_below(scope, prefix, lifespan)
                return mounted(scope, receive, send)
        return self._static(scope, receive, send)

    async def _answer(self, path: str, scope: Scope, send: Send) -> None:
        """Answer what is built in."""
        if path == "/health":
            body = msgspec.json.encode(self._health())
            await _answer(scope, send, 200, body, JSON, [(b"cache-control", b"no-store")])
        elif path in CLIENT_FILES:
            await _send_file(scope, send, CLIENT, CLIENT_FILES[path], ANY_ORIGIN)
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
        for prefix, directory in self._statics:
            if _is_below(path, prefix) and await _send_file(scope, send, directory, path[len(prefix) :].lstrip("/")):
                return
        if path == "/" and not self._statics:
            await _answer(scope, send, 200, WELCOME, "text/html; charset=utf-8")
            return
        await _answer(scope, send, 404, b"There is nothing here.\n", TEXT)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


async def _answer(scope: Scope, send: Send, status: int, body: bytes, kind: str, headers: Fields = NONE) -> None:
    if scope["method"] not in ("GET", "HEAD") and status == 200:
        status, body, kind = 405, b"GET or HEAD.\n", TEXT
        headers = [(b"allow", b"GET, HEAD")]
    await respond(send, status, body, kind, headers, is_head=scope["method"] == "HEAD")


async def _send_file(scope: Scope, send: Send, directory: Path, name: str, headers: Fields = NONE) -> bool:
    """Send a file below `directory`. Return False, and send nothing, when there is no such file."""
    found = await asyncio.to_thread(_open_below, directory, name)
    if found is None:
        return False
    fd, about, path = found
    try:
        await _send_opened(scope, send, fd, about, path, headers)
    finally:
        os.close(fd)
    return True


def _open_below(directory: Path, name: str) -> tuple[int, os.stat_result, Path] | None:
    """Open a regular file that really lies below `directory`, links followed; index.html for a directory."""
    if "\0" in name:
        return None
    try:
        path = (directory / name).resolve()
        if path.is_dir():
            path = (path / "index.html").resolve()
        if not path.is_relative_to(directory.resolve()):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return None
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        os.close(fd)
        return None
    return fd, about, path


async def _send_opened(scope: Scope, send: Send, fd: int, about: os.stat_result, path: Path, headers: Fields) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        await _answer(scope, send, 200, b"", TEXT)
        return
    etag = b'"%x-%x"' % (about.st_mtime_ns, about.st_size)
    fields = [
        (b"etag", etag),
        (b"last-modified", formatdate(about.st_mtime, usegmt=True).encode()),
        (b"cache-control", b"no-cache"),  # kept, but asked for again: a deploy is seen at once
        (b"x-content-type-options", b"nosniff"),
        *headers,
    ]
    known = _header(scope, b"if-none-match")
    if etag in known or known == b"*":
        await respond(send, 304, fields=fields)
        return
    fields += [(b"content-type", _kind(path)), (b"content-length", b"%d" % about.st_size)]
    await begin_response(send, 200, fields)
    left = 0 if scope["method"] == "HEAD" else about.st_size
    while left > 0:
        chunk = await asyncio.to_thread(os.read, fd, min(CHUNK, left))
        if not chunk:
            break  # it was cut short meanwhile; uvicorn closes over the wrong length
        left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _kind(path: Path) -> bytes:
    guessed, packed = mimetypes.guess_type(path.name)
    if packed is not None:  # sent as it is, so it is what it is packed as
        guessed = PACKED.get(packed)
    kind = TYPES.get(path.suffix.lower()) or guessed or "application/octet-stream"
    return (f"{kind}; charset=utf-8" if kind.startswith("text/") else kind).encode()


def _header(scope: Scope, name: bytes) -> bytes:
    return b", ".join(value for key, value in scope["headers"] if key == name)
