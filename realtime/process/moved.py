"""
One connection as it moves between two workers: the session and the transport, as bytes. And what a move needs of the
other parts of the worker.

Runs in both workers. It restores nothing; realtime/migration.py does.
"""

from __future__ import annotations

import socket
from typing import Any, Final, Protocol

import msgspec

from realtime.session.session import Session
from realtime.transport.base import Transport
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_export import BadExport, WebSocketExport
from sticky.handoff.journal import Mark
from sticky.keys.hashing import Key, Slot
from sticky.moving.source import Offered

VERSION: Final = 1  # of what moves; a worker of another version refuses it, and its client reconnects


NO_BROKER: Final = "without the broker: "
"""Begins the reason of a target that refuses a connection for now: it would take the connection later."""
DRAINS: Final = "the worker drains"
"""The reason of a target that takes nothing more."""


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


def session_of(transport: WebSocketTransport) -> Session | None:
    """Return the session of a connection. What else may be served by a native WebSocket does not move."""
    session = transport.session
    return session if isinstance(session, Session) else None


class Leaving(msgspec.Struct):
    """
    One connection between its export and its outcome.

    Attributes:
        transport: offered; nothing is written to it or read from it.
        session: the exported session, for the case that it comes back.
        user, connection_id: the client, for messages that come for it meanwhile.
        fields: the client, for the log.
        offered: what the target gets, with a descriptor of its own, which is closed with the outcome.
    """

    transport: WebSocketTransport
    session: bytes
    user: str
    connection_id: str
    fields: dict[str, Any]
    offered: Offered


class Restorer(Protocol):
    """The wire protocol, as far as its sessions move."""

    async def restore(self, transport: Transport, exported: bytes, mark: Mark) -> Session:
        """
        Continue a session. Raises BadState, ClientError, BrokerUnavailable, or what `on_migrate` raised, and leaves
        nothing behind.
        """


class ConnectionHost(Protocol):
    """The gateway, which owns all connections of this worker."""

    async def attach(self, transport: WebSocketTransport, session: Session, sock: socket.socket) -> None:
        """Serve a connection that came from another worker. Never raises: a peer that is gone is lost at once."""


class KeyCounts(Protocol):
    """The keys of this worker's connections."""

    def count(self, key: Key) -> int:
        """Return how many live connections a key has here, of any kind."""


class UserMessages(Protocol):
    """What comes for users from other workers and the API: the cluster bus."""

    def leaves(self, user: str, connection_id: str) -> None:
        """Keep what comes for a connection. `arrived` or `returned` must follow."""

    def arrived(self, user: str, connection_id: str, worker: str) -> None:
        """Send what came, and what comes late, to the worker that has the connection now."""

    def returned(self, user: str, connection_id: str) -> None:
        """Do what came to the connection, which is here again; nothing where it has ended."""


class Homes(Protocol):
    """Where keys are at home."""

    def home_of(self, key: Key | None) -> Slot | None:
        """Return the slot of a key; None where there is no key."""
