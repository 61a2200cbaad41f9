"""
Why a client is gone: the words of python-socketio for what a connection of this package ends with.

Pure. Sessions end with a code and a reason in the words of the reference server in Node.js; handlers of python-socketio
compare with the constants here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class Reason:
    """Why a client is gone, as the second argument of a `disconnect` handler."""

    CLIENT_DISCONNECT: Final = "client disconnect"
    SERVER_DISCONNECT: Final = "server disconnect"
    PING_TIMEOUT: Final = "ping timeout"
    TRANSPORT_CLOSE: Final = "transport close"
    TRANSPORT_ERROR: Final = "transport error"


_SAID: Final[Mapping[str, str]] = {
    "client namespace disconnect": Reason.CLIENT_DISCONNECT,
    "server namespace disconnect": Reason.SERVER_DISCONNECT,
    "server shutting down": Reason.SERVER_DISCONNECT,
    Reason.PING_TIMEOUT: Reason.PING_TIMEOUT,
    Reason.TRANSPORT_CLOSE: Reason.TRANSPORT_CLOSE,
}


def reason_of(reason: str) -> str:
    """Return python-socketio's word. What it has none for, such as a bad packet or a dead worker, is an error."""
    return _SAID.get(reason, Reason.TRANSPORT_ERROR)
