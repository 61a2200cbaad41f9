"""
One connection as it moves between two workers: the session and the transport, as bytes.

Runs in both workers. It restores nothing; realtime/migration.py does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_state import BadExport, WebSocketExport
from sticky.moving.source import Offered

VERSION: Final = 1  # of what moves; a worker of another version refuses it, and its client reconnects


class Moved(msgspec.Struct, array_like=True, frozen=True):
    """One connection as it moves: the session (`Session.export`) and the transport."""

    version: int
    session: bytes
    transport: WebSocketExport


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Moved).decode


def pack_moved(session: bytes, transport: WebSocketExport) -> bytes:
    """Return what `read_moved` reads."""
    return _encode(Moved(VERSION, session, transport))


def read_moved(state: bytes) -> Moved:
    """
    Return a connection that comes from another worker.

    Raises:
        BadExport: another version wrote it, or nothing did.
    """
    try:
        moved = _decode(state)
    except msgspec.MsgspecError as error:
        raise BadExport(f"its state cannot be read: {error}") from error
    if moved.version != VERSION:
        raise BadExport(f"its state has version {moved.version}, and this worker reads {VERSION}")
    return moved


class Leaving(msgspec.Struct):
    """
    One connection between its export and its outcome.

    Attributes:
        transport: offered; nothing is written to it or read from it.
        session: the exported session, for the case that it comes back.
        fields: the client, for the log.
        offered: what the target gets, with a descriptor of its own, which is closed with the outcome.
    """

    transport: WebSocketTransport
    session: bytes
    fields: dict[str, Any]
    offered: Offered
