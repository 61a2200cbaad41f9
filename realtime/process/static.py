"""
Static files below a directory, served by Starlette's code: ranges, ETag, conditional requests, gzip.

Runs in the worker. What is ours: a directory is served as its index.html without a redirect, the types of names that
`mimetypes` does not know, and headers that make a browser ask again after a deploy. It never lists a directory, and
never serves what lies outside of it, links followed.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import NotModifiedResponse
from starlette.staticfiles import StaticFiles as Lookup

from realtime.transport.asgi import Receive, Scope, Send

GZIP_MIN: Final = 1024  # bytes; below it the header of gzip and the time cost more than is saved
TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".ts": "text/plain", ".wasm": "application/wasm"}
PACKED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
HEADERS: Final = {
    "cache-control": "no-cache",  # kept, but asked for again: a deploy is seen at once
    "x-content-type-options": "nosniff",
}
COMPRESSIBLE: Final = frozenset({"application/json", "application/manifest+json", "application/wasm", "image/svg+xml"})


class StaticFiles:
    """Serves the files below one directory."""

    def __init__(self, directory: Path, headers: Mapping[str, str] | None = None) -> None:
        """
        Args:
            directory: files in it and below it are served.
            headers: further ones for each file.
        """
        self._lookup = Lookup(directory=directory, check_dir=False)
        self._headers = {**HEADERS, **(headers or {})}

    async def serve(self, name: str, scope: Scope, receive: Receive, send: Send) -> bool:
        """
        Answer a request for a file.

        Args:
            name: the path below the directory, decoded, without a slash at its beginning.

        Returns:
            False, and nothing is sent, when there is no such file.
        """
        found = await asyncio.to_thread(self._find, name)
        if found is None:
            return False
        response = self._response(*found, scope)
        if "range" in Headers(scope=scope) or not _is_compressible(response):
            await response(scope, receive, send)
        else:
            await GZipMiddleware(response, minimum_size=GZIP_MIN)(scope, receive, send)
        return True

    def _find(self, name: str) -> tuple[str, os.stat_result] | None:
        """Return the real path of a readable regular file that lies below the directory. Blocks: runs in a thread."""
        try:
            path, about = self._lookup.lookup_path(name)
            if about is not None and stat.S_ISDIR(about.st_mode):
                path, about = self._lookup.lookup_path(os.path.join(name, "index.html"))
        except (OSError, ValueError):  # ValueError: a NUL, or half of a surrogate pair
            return None
        if about is None or not stat.S_ISREG(about.st_mode) or not os.access(path, os.R_OK):
            return None
        return path, about

    def _response(self, path: str, about: os.stat_result, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("GET or HEAD.\n", 405, {"allow": "GET, HEAD"})
        response = FileResponse(path, headers=self._headers, media_type=_type_of(path), stat_result=about)
        headers = Headers(scope=scope)
        # "*" stands for any version (RFC 9110, section 13.1.2). Not every version of Starlette that is allowed knows
        # it.
        if headers.get("if-none-match", "").strip() == "*" or self._lookup.is_not_modified(response.headers, headers):
            return NotModifiedResponse(response.headers)
        return response


def _type_of(path: str) -> str:
    guessed, packed = mimetypes.guess_type(path)
    if packed is not None:  # sent as it is, so it is what it is packed as
        guessed = PACKED.get(packed)
    return TYPES.get(Path(path).suffix.lower()) or guessed or "application/octet-stream"


def _is_compressible(response: Response) -> bool:
    kind = (response.media_type or "").partition(";")[0]
    return response.status_code == 200 and (kind.startswith("text/") or kind in COMPRESSIBLE)
