"""
What stands on both sides of a wire protocol.

Runs in the worker. Below it is a transport, which turns a socket's bytes into whole messages and back (`Framing`,
`Outlet`); above it the application (`Application`); in the middle one `ClientSession` per connection, which turns
messages into subscriptions, publications and answers. Nothing here does anything: these are the shapes. A second wire
protocol is a second `SessionFactory`; the hub does not know which one a member speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from realtime.broker.base import Room
from realtime.connection import Connection
from realtime.fanout import Accepts
from realtime.hub import RoomOptions
from sticky.journal import NO_MARK, Mark


class Framing(Protocol):
    """How one kind of transport wraps a message. Stateless; one object serves all connections of its kind."""

    name: str
    takes_several: bool
    """Whether a message may hold several answers or pushes, as the encoding divides them."""

    def frame(self, payload: bytes) -> bytes:
        """Return the bytes that carry `payload` on the socket."""


class Outlet(Protocol):
    """What a session may do with its transport."""

    framing: Framing
    has_close_frame: bool
    """Whether `close` can carry its code and reason to the client."""

    def say_in(self, *, binary: bool) -> None:
        """Choose the framing for an encoding that is text, or not. Comes before anything is written."""

    def write(self, data: bytes) -> None:
        """
        Send bytes that are framed already. Never blocks; does nothing once closing. Above the outbound limit the
        transport closes itself as `slow` (3008).
        """

    def close(self, code: int, reason: str) -> None:
        """Flush, say goodbye with `code` and `reason`, close. `connection_lost` follows. Idempotent."""

    def pause_reading(self) -> None:
        """Receive no further message, so that a client which asks faster than it is answered waits in its kernel."""

    def resume_reading(self) -> None:
        """End `pause_reading`."""

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""

    def buffered(self) -> int:
        """Return how many bytes wait in this process."""

    def taken(self) -> int:
        """Return how much the peer has taken so far: more than before where it has taken something."""

    def hold_little(self, wanted: bool) -> None:
        """
        Have little wait in the kernel that the peer does not take, for it is to get the latest, however slow it is; or
        as much as with others.
        """


class ClientSession(Protocol):
    """One client's end of a wire protocol, fed by the transport."""

    def receive(self, message: bytes | str) -> None:
        """Take one whole message. Never raises on what a peer may send."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection, and tell the client why."""

    @property
    def who(self) -> str:
        """Who this is, for the log."""

    @property
    def is_patient(self) -> bool:
        """Whether a peer that takes something, though slowly, is served on: nothing piles up for it."""

    def pong_received(self) -> None:
        """Learn that the peer sent the answer to a ping frame, asked or not (RFC 6455, section 5.5.3)."""

    def drained(self) -> None:
        """Learn that the peer, which had not taken everything, has caught up."""

    def connection_lost(self, code: int, reason: str) -> None:
        """Learn that the socket is gone. Called exactly once, and nothing follows it."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What the transport knows of a client before its first message."""

    client: str
    client_port: int = 0
    scheme: str = "http"
    path: str = "/"
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None
    transport: str = "websocket"
    is_one_way: bool = False
    is_emulated: bool = False  # what the client sends comes by requests of their own
    ping_frame: bytes | None = None  # what it asks to be pinged with, in place of the protocol's own message
    mark: Mark = field(default=NO_MARK, repr=False, compare=False)  # of what is in flight on its connection


class SessionFactory(Protocol):
    """Makes the session of a connection whose handshake is done."""

    subprotocols: Sequence[str]

    def __call__(self, outlet: Outlet, handshake: Handshake, subprotocol: str | None) -> ClientSession: ...


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
