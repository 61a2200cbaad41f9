"""
The browser client and its types: `/realtime.js`, `/realtime.d.ts`.

Runs in the worker. The client connects to the server that it came from, so the file that a browser gets says where that
server's endpoints are: below a prefix of ours (`--own-prefix`), a proxy's (`--root-path`) or a mount's. At the root it
is the file of the package as it is. It is sent to pages of every origin: which of them may connect is checked when they
do.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse
from starlette.staticfiles import StaticFiles as Lookup

from realtime.process.static import GZIP_MIN, HEADERS, TYPES, StaticFiles
from realtime.transport.asgi import Receive, Scope, Send

DIRECTORY: Final = Path(__file__).parents[1] / "client"
ANY_ORIGIN: Final = {"access-control-allow-origin": "*"}
SCRIPT: Final = "realtime.js"
AT_ROOT: Final = "const SERVED_BELOW = '';"
"""The line of the client that says where the server's endpoints are."""


class ClientFiles:
    """Serves both files."""

    def __init__(self) -> None:
        self._files = StaticFiles(DIRECTORY, ANY_ORIGIN)
        self._lookup = Lookup(directory=DIRECTORY, check_dir=False)
        self._script = ""  # as the package has it; read when it is first asked for below a path

    async def serve(self, name: str, below: str, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer a request.

        Args:
            name: of the file.
            below: the path below which a browser finds the server's endpoints, without a slash at its end.
            scope: of a request by GET or HEAD; all others get 405.
            receive: as ASGI has it.
            send: as ASGI has it.
        """
        if not below or name != SCRIPT or scope["method"] not in ("GET", "HEAD"):
            await self._files.serve(name, scope, receive, send)
            return
        response = self._script_below(below, Headers(scope=scope))
        await GZipMiddleware(response, minimum_size=GZIP_MIN)(scope, receive, send)

    def _script_below(self, below: str, asked: Headers) -> Response:
        """Return the client for a server below a path: as a JSON text, which is a literal of JavaScript as well."""
        if not self._script:
            self._script = (DIRECTORY / SCRIPT).read_text()  # 30 kB, once in a worker's life
            assert self._script.count(AT_ROOT) == 1, "the client has the line in which its server's path is put"
        text = self._script.replace(AT_ROOT, f"const SERVED_BELOW = {json.dumps(below)};").encode()
        headers = {**HEADERS, **ANY_ORIGIN, "etag": f'"{hashlib.sha256(text).hexdigest()[:32]}"'}
        response = Response(text, headers=headers, media_type=TYPES[".js"])
        if asked.get("if-none-match", "").strip() == "*" or self._lookup.is_not_modified(response.headers, asked):
            return NotModifiedResponse(response.headers)
        return response
