"""
Reads a key set from its URL, within a deadline that counts as a whole.

Runs in the worker, in a thread of its own: urllib knows proxies, redirects and certificates. A timeout of a socket
counts from one byte to the next, so a server that sends a byte every two seconds never reaches it. Therefore the caller
has the deadline: when it cancels, the connection is cut, and the thread ends. The thread is a daemon: a worker that
ends does not wait for it. This module decides nothing about keys and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from typing import IO, Any, Final
from urllib.parse import urlsplit

import realtime

SIZE_MAX: Final = 1024**2  # bytes of an answer
SOCKET_S: Final = 5.0  # to connect, and between two bytes
CHUNK: Final = 65536


async def fetch(url: str) -> bytes:
    """
    Return what is published at a URL. Cancel it to give up: the connection is then cut.

    Raises:
        OSError: no answer, or one that is no success.
        ValueError: no HTTP, too much of it, or a redirect that leads to somewhere else than HTTP.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    line = _Line()

    def tell(text: bytes | None, error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error is not None else answer.set_result(text or b"")

    def read() -> None:
        text, failed = None, None
        try:
            text = _read(url, line)
        except (OSError, ValueError) as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - the edge of a thread: whoever waits is told
            failed = ValueError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(tell, text, failed)

    threading.Thread(target=read, name="key server", daemon=True).start()
    try:
        return await answer
    finally:
        line.cut()


class _Line:
    """The connections of one request, which another thread may cut."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False

    def add(self, sock: socket.socket) -> None:
        """Take up a connection. Raises OSError when the request was given up meanwhile."""
        with self._lock:
            if self._is_cut:
                raise OSError("given up")
            self._sockets.append(sock.dup())  # TLS takes the descriptor out of the first object

    def cut(self) -> None:
        """End every connection; harmless when the request is done."""
        with self._lock:
            self._is_cut = True
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._sockets.clear()


def _read(url: str, line: _Line) -> bytes:
    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            line.add(self.sock)

    class Secure(http.client.HTTPSConnection, Plain):
        """Connects by `Plain`, which knows the connection before TLS begins."""

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req, context=ssl.create_default_context())

    opener = urllib.request.build_opener(Handler, SecureHandler, _Redirects)
    agent = {"User-Agent": f"realtime/{realtime.__version__}", "Accept": "application/json"}
    request = urllib.request.Request(url, headers=agent)  # noqa: S310 - the setting allows http(s) alone
    text = bytearray()
    try:
        with opener.open(request, timeout=SOCKET_S) as response:
            while len(text) <= SIZE_MAX and (part := response.read1(CHUNK)):
                text += part
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"HTTP status {error.code}") from None
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None
    except http.client.HTTPException as error:
        raise ValueError(f"what came is no HTTP: {type(error).__name__}") from None
    if len(text) > SIZE_MAX:
        raise ValueError(f"more than {SIZE_MAX} bytes")
    return bytes(text)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP and HTTPS, and never from HTTPS to HTTP: whoever is between could give us keys."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        here, there = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if there not in ("http", "https") or (here == "https" and there != "https"):
            fp.close()
            raise ValueError(f"it redirects from {here} to {there or 'nowhere'}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
