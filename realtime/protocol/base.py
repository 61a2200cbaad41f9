"""
What the rest of a worker asks of a wire protocol, and what a wire protocol asks of the application.

Runs in the worker. Nothing here does anything: these are the shapes. The hub does not know which protocol a member
speaks; what a protocol shares with its transports is in transport/base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from realtime.broker.base import Room
from realtime.codes import DisconnectCode
from realtime.rooms.fanout import Accepts
from realtime.rooms.hub import RoomOptions
from realtime.session.connection import Connection
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    Where a wire protocol is served: `websocket_paths` by WebSockets, `http_paths` by requests. `shutdown` is how a
    connection ends whose client is to go to another worker.
    """

    websocket_paths: frozenset[str]
    http_paths: frozenset[str]
    shutdown: DisconnectCode


class Streams(Protocol):
    """Serves a wire protocol's clients that have no WebSocket, as an ASGI application."""

    @property
    def open(self) -> Sequence[ClientSession]:
        """The sessions whose streams are not ending."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request to one of `Endpoints.http_paths`."""

    def statistics(self) -> dict[str, Any]:
        """Count the streams now, and what happened to those before."""


class Application(Protocol):
    """
    What a wire protocol asks of the application. JSON texts are bytes, kept as they came.

    Every coroutine may raise `ClientError` (also as `Reject`), which becomes the answer to the command, or
    `Disconnect`, which ends the connection.
    """

    def room_options(self, room: Room) -> RoomOptions | None:
        """Return how this room is kept, or None for a room that is not declared."""

    def accepts(self, conn: Connection, room: Room) -> Accepts | None:
        """Return what says of each publication whether this client gets it; None where it gets all."""

    async def connect(self, conn: Connection, data: bytes | None) -> bytes | None:
        """Admit a client; return data for it."""

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Learn that an admitted client is gone."""

    async def subscribe(self, conn: Connection, room: Room, data: bytes | None) -> bytes | None:
        """Admit a client to a room; return data for it."""

    async def publish(self, conn: Connection, room: Room, data: bytes) -> bytes | None:
        """Return what the room gets; None drops it and the client is told success."""

    async def rpc_call(self, conn: Connection, method: str, data: bytes | None) -> bytes | None:
        """Answer a call. 104: no such method; 108: no methods at all."""

    async def message(self, conn: Connection, data: bytes) -> None:
        """Take a message that expects no answer. Without a handler: `Disconnect(3508, …)`."""
