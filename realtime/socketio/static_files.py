"""
The `static_files` of an `ASGIApp`: single files and directories by their paths, before the other application.

Runs in the worker. It reads files of the application's own choice alone: no path leads out of a directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realtime.transport.asgi import ASGIApp as ASGICallable
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.http import TEXT, respond

if TYPE_CHECKING:
    from starlette.responses import Response

INDEX = "index.html"  # of a path that ends with a slash


class StaticThen:
    """Serves static files; what is none goes to the other application."""

    def __init__(self, files: Mapping[str, Any], other: ASGICallable | None) -> None:
        """
        Args:
            files: by path: a file or a directory, or a dict with its "filename" and "content_type".
            other: what serves all other paths; None answers 404.
        """
        self._files = {path.rstrip("/") or "/": _described(each) for path, each in files.items()}
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; anything else is the other application's."""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            response = self._find(scope["path"])
            if response is not None:
                await response(scope, receive, send)
                return
        if self._other is not None:
            await self._other(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before the handshake: the client gets 403
        else:
            await respond(send, 404, b"There is nothing here.\n", TEXT, is_head=scope["method"] == "HEAD")

    def _find(self, path: str) -> Response | None:
        """Return the file at a path: one that is named so, else one below the longest directory that is."""
        exact = self._files.get(path.rstrip("/") or "/")
        if exact is not None and exact[0].is_file():
            return _response(*exact)
        above = path
        while above:
            found = self._files.get(above.rstrip("/") or "/")
            if found is not None and found[0].is_dir():
                return _below(found[0], path[len(above) :].lstrip("/"), path.endswith("/"))
            above = above.rstrip("/").rpartition("/")[0]
        root = self._files.get("/")
        return _below(root[0], path.lstrip("/"), path.endswith("/")) if root is not None and root[0].is_dir() else None


def _described(given: Any) -> tuple[Path, str | None]:
    """Return a file or directory, and its content type where one is said."""
    if isinstance(given, Mapping):
        return Path(given["filename"]).resolve(), given.get("content_type")
    return Path(given).resolve(), None


def _below(directory: Path, rest: str, is_index: bool) -> Response | None:
    """Return a file below a directory; None where there is none, or the path leads out of it."""
    if "\0" in rest:
        return None
    file = (directory / rest / INDEX if is_index or not rest else directory / rest).resolve()
    return _response(file, None) if file.is_relative_to(directory) and file.is_file() else None


def _response(file: Path, content_type: str | None) -> Response:
    from starlette.responses import FileResponse  # only where it is needed: it takes long to import

    return FileResponse(file, media_type=content_type)


async def _live(receive: Receive, send: Send) -> None:
    """Start and end with the server (ASGI lifespan): there is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
