"""
What a session needs of the parts around it: the application, the wire protocol, and the services of the worker.

Runs in the worker. Nothing here does anything: these are the shapes. A session never knows which wire protocol it
serves; a wire protocol is a `Dialect`, which turns messages into calls of the session and what comes of them into
bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from realtime.auth.credentials import WrongCredentials
from realtime.auth.tokens import Tokens
from realtime.broker.base import Position, RawPublication, Room
from realtime.codes import UnsubscribeCode
from realtime.rooms.fanout import Accepts, Encoder
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.session.connection import Connection
from realtime.session.registry import Home, Registry
from realtime.session.state import SessionLimits
from realtime.session.target import Emitter
from realtime.tasks import Begin
from realtime.timing.rate import Rate
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Transport


class ApplicationCalls(Emitter, Protocol):
    """
    What a session asks of the application (`application.calls.HandlerCalls`). JSON texts are bytes, kept as they came.

    Every coroutine may raise `ClientError` (also as `Reject`), which becomes the answer to the command, or
    `Disconnect`, which ends the connection.
    """

    def room_options(self, room: Room) -> RoomOptions | None:
        """Return how this room is kept, or None for a room that is not declared."""

    def room_patterns(self) -> Sequence[str]:
        """Return the patterns of all declared rooms."""

    def accepts(self, conn: Connection, room: Room) -> Accepts | None:
        """Return what says of each publication whether this client gets it; None where it gets all."""

    async def connect(self, conn: Connection, data: bytes | None) -> bytes | None:
        """Admit a client; return data for it."""

    @property
    def sees_moves(self) -> bool:
        """Whether `migrate` does anything."""

    async def migrate(self, conn: Connection, when: str) -> None:
        """See a connection `before` and `after` it moves to another worker. `ClientError`: it does not move."""

    async def disconnect(self, conn: Connection, code: int, reason: str) -> None:
        """Learn that an admitted client is gone."""

    async def subscribe(self, conn: Connection, room: Room, data: bytes | None) -> bytes | None:
        """Admit a client to a room; return data for it."""

    async def publish(self, conn: Connection, room: Room, data: bytes) -> bytes | None:
        """Return what the room gets; None drops it, and the client's command succeeds."""

    async def rpc_call(self, conn: Connection, method: str, data: bytes | None) -> bytes | None:
        """Answer a call. 104: no such method; 108: no methods at all."""

    async def message(self, conn: Connection, data: bytes) -> None:
        """Take a message that expects no answer. Without a handler: `Disconnect(3508, …)`."""

    def has_namespace(self, namespace: str) -> bool:
        """Say whether the application declares a namespace."""

    async def take_event(self, conn: Connection, name: str, args: Sequence[Any], *, wants_answer: bool) -> bytes | None:
        """
        Run the handler of a client's event. Return the arguments of its acknowledgement, as `events.encode_values`
        does, where the client wants one. 104: no such event.
        """


@dataclass(slots=True, frozen=True)
class Services:
    """
    What all sessions of a worker share.

    Attributes:
        application: runs what users wrote.
        hub: this worker's rooms.
        wheel: the timers.
        tokens: verifies them.
        wrong: counts and slows tokens that are wrong.
        limits: what one client may do.
        commands: how often a client may send commands; None for as often as it likes.
        home: where connections are served.
        registry: where sessions are found as long as they are open.
        event_loop: on which all of this runs.
        begin: starts tasks, at once or in the next turn.
    """

    application: ApplicationCalls
    hub: Hub
    wheel: TimerWheel
    tokens: Tokens
    wrong: WrongCredentials
    limits: SessionLimits
    commands: Rate | None
    home: Home
    registry: Registry
    event_loop: asyncio.AbstractEventLoop
    begin: Begin


class Subscribed(Struct, frozen=True):
    """
    What a client gets to know of its subscription.

    `publications` are those that it missed, where `recovered`. The position is then the one that it asked for: it moves
    on by the publications. `was_recovering`: it asked for those. `data` is the application's, or the token's.
    """

    room: Room
    recoverable: bool
    delta: bool
    position: Position | None = None
    was_recovering: bool = False
    recovered: bool = False
    publications: Sequence[RawPublication] = ()
    data: bytes | None = None
    expire_at_s: float | None = None


class Dialect(Protocol):
    """
    One wire protocol in one encoding, framed for one kind of transport. Knows no client: there is one object of each in
    a worker, and it serves every session that speaks so. What it returns is framed already. For the Centrifuge protocol
    it is `CentrifugeDialect`, which leaves commands to protocol/centrifuge/commands.py.
    """

    name: str
    """Of the encoding. With it a session is restored."""

    label: str
    """Of the encoding, as `connections` shows it."""

    is_binary: bool
    """Whether payloads may be any bytes."""

    encoder: Encoder
    """Writes publications, joins and leaves."""

    delta_encoder: Encoder
    """Writes them for members that have negotiated differences."""

    ping: bytes
    """The message that pings a client."""

    protocol: str
    """The wire protocol, as `conn.protocol` names it."""

    namespace: str
    """Of the sessions that speak so; "" in a protocol without namespaces."""

    shows_changes: bool
    """Whether clients get joins and leaves."""

    waits_for: str
    """
    What a session waits for when too many of its commands are in flight: for all of them (`asyncio.ALL_COMPLETED`), so
    that its next ones leave together; or for one, because one may take long.
    """

    def decode(self, message: bytes | str) -> Sequence[Any]:
        """
        Return the commands of one whole message, in order; None stands for a pong.

        Raises:
            BadMessage: no client sends this.
        """

    def execute(self, session: Any, command: Any) -> Awaitable[None]:
        """
        Run one command of a client, and answer it, also where it failed.

        Raises:
            Disconnect: the connection has to end.
        """

    def is_publication(self, command: Any) -> bool:
        """Whether a command publishes: it may run while the publication before it is on its way."""

    def message(self, data: bytes) -> bytes:
        """Return a message that belongs to no room."""

    def subscribed(self, subscribed: Subscribed) -> bytes:
        """Return the notification of a subscription from the server's side, with what it recovers behind it."""

    def unsubscribed(self, room: Room, code: UnsubscribeCode) -> bytes:
        """Return the notification that a subscription has ended."""

    def refreshed(self, expire_at_s: float | None) -> bytes:
        """Return the notification that the connection expires at another time."""

    def disconnected(self, code: int, reason: str) -> bytes:
        """Return the end of a connection, for transports that have no close frame."""

    def reason_of(self, code: int, reason: str) -> str:
        """Return the reason, as `on_disconnect` gets it, of an end by this server."""

    def event(self, event: bytes) -> bytes:
        """Return an event, as `events.encode_event` gives it."""

    def takes_now(self, transport: Transport) -> bool:
        """Whether a client can take a message at once."""

    def request(self, session: Any, event: bytes) -> asyncio.Future[list[Any]]:
        """
        Send an event that the client acknowledges, and return what becomes the arguments of the acknowledgement, or
        `ConnectionEnded`. A caller that does not wait for it any more cancels it.

        Raises:
            NoAcknowledgements: this wire protocol has none.
        """


class BadMessage(Exception):
    """A message that no client of this protocol sends. The text is for the log."""
