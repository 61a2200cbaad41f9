"""
Reads a key set from its URL, within a deadline for the whole answer.

Runs in the worker, in a thread of its own, because urllib knows proxies, redirects and certificates. A socket timeout
counts from one byte to the next, so a server that sends a byte every two seconds never reaches it. The caller therefore
has the deadline: when it cancels, the connection is closed and the thread ends. The thread is a daemon, so a worker
that exits does not wait for it. This module decides nothing about keys, and repeats nothing.
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
    Return the content of a URL. Cancelling it closes the connection.

    Raises:
        OSError: there is no answer, or its status is no success.
        ValueError: the answer is not HTTP, is too large, or redirects to another scheme.
    """
    loop = asyncio.get_running_loop()
    assert url.partition(":")[0].lower() in ("http", "https"), "the setting allows no other scheme"
    answer: asyncio.Future[bytes] = loop.create_future()
    sockets = _RequestSockets()

    def resolve(text: bytes | None, error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error is not None else answer.set_result(text or b"")

    def read() -> None:
        text, failed = None, None
        try:
            text = _read(url, sockets)
        except (OSError, ValueError) as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - the edge of a thread: the waiting caller gets it
            failed = ValueError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the caller with it
            loop.call_soon_threadsafe(resolve, text, failed)

    threading.Thread(target=read, name="key server", daemon=True).start()
    try:
        return await answer
    finally:
        sockets.close()


class _RequestSockets:
    """The connections of one request, which another thread may close."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cancelled = False

    def add(self, sock: socket.socket) -> None:
        """
        Add a connection.

        Raises:
            OSError: the request was cancelled meanwhile.
        """
        with self._lock:
            if self._is_cancelled:
                raise OSError("cancelled")
            self._sockets.append(sock.dup())  # TLS takes the descriptor out of the first object

    def close(self) -> None:
        """Close every connection. It is harmless when the request is done."""
        with self._lock:
            self._is_cancelled = True
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._sockets.clear()


def _read(url: str, sockets: _RequestSockets) -> bytes:
    """Read a URL in this thread. Each connection, also of a redirect, is in `sockets` before a byte is sent."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class Secure(http.client.HTTPSConnection, Plain):
        """Connects by `Plain`, which registers the socket before TLS begins."""

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req, context=ssl.create_default_context())

    opener = urllib.request.build_opener(Handler, SecureHandler, _Redirects)
    agent = {"User-Agent": f"realtime/{realtime.__version__}", "Accept": "application/json"}
    request = urllib.request.Request(url, headers=agent)  # noqa: S310 - the setting allows http(s) alone
    text = bytearray()  # read piece by piece, so that an endless answer ends at SIZE_MAX
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
        raise ValueError(f"the answer is no HTTP: {type(error).__name__}") from None
    if len(text) > SIZE_MAX:
        raise ValueError(f"the answer has more than {SIZE_MAX} bytes")
    return bytes(text)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to HTTP and HTTPS, but never from HTTPS to HTTP: an attacker in between could supply keys."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow a redirect, or raise ValueError: without TLS, an attacker could supply keys of his own."""
        here, there = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if there not in ("http", "https") or (here == "https" and there != "https"):
            fp.close()
            raise ValueError(f"it redirects from {here} to {there or 'nowhere'}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
