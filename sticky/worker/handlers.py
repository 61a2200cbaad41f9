"""
The callbacks of a worker's server, and how they are called: what one of them raises ends nothing else.

Used in a worker, on its event loop.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sticky.worker.adopted import Adopted

_REFUSAL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

logger = logging.getLogger("sticky.worker")


@dataclass(frozen=True, slots=True)
class Handlers:
    """The callbacks of one `Worker.run`, which documents them."""

    on_connection: Callable[[Adopted], object]
    on_refused: Callable[[Adopted], object] | None = None
    on_message: Callable[[str, Any], object] | None = None
    on_event: Callable[[str, dict[str, Any]], object] | None = None


def guard(callback: Callable[..., object], *args: Any) -> None:
    """Call a callback of the application. An exception is logged, and the worker goes on."""
    try:
        callback(*args)
    except Exception:
        logger.exception("callback failed callback=%s", getattr(callback, "__qualname__", callback))


def answer_refused(adopted: Adopted) -> None:
    """Answer a refused connection where no callback does, and close it. The caller counts it as closed."""
    with adopted.sock as sock, contextlib.suppress(OSError):
        if adopted.kind == "http":
            sock.recv(64 * 1024)  # closing over unread bytes sends a reset
            sock.send(_REFUSAL)
            sock.shutdown(socket.SHUT_WR)


def encodable(text: str) -> str:
    """Replace what UTF-8 cannot encode, such as an undecodable byte in a file's name."""
    return text.encode("utf-8", "replace").decode("utf-8")
