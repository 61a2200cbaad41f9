"""
`Connection`: one client, as an application sees it.

Runs in the worker. A connection is a view of its session's state (state.py): plain data, so that it can be written down
and continued by another process. It owns no task, no timer and no socket; what has to reach the client goes through the
session that serves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

import msgspec

from realtime.broker.base import ClientInfo, ConnectionId, Room
from realtime.errors import ConnectionEnded, ConnectionMoved
from realtime.log_lines import log
from realtime.rooms.event_rooms import is_event_room, name_of
from realtime.session.answers import encode
from realtime.session.event_connection import EventConnection, EventSession
from realtime.session.plain import NotPlain, PlainState, pack, unpack
from realtime.session.state import Identity, Snapshot, Subscription
from realtime.session.target import Emitter
from realtime.threads import done, from_any_thread, from_any_thread_at_once

EMPTY: Final[Mapping[str, str]] = {}

logger = logging.getLogger("realtime.session")


class ServingSession(EventSession, Protocol):
    """What a connection asks of the session that serves it; on the worker's event loop."""

    def send_message(self, data: bytes) -> None:
        """Send a JSON text that belongs to no room."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code that the client understands."""

    async def enter(self, room: Room) -> None:
        """Subscribe the client from the server's side, and notify it."""

    async def exit(self, room: Room, code: int, reason: str) -> None:
        """End a subscription from the server's side, and notify the client."""


class Connection(EventConnection):
    """
    One client. Every method may be called in any thread.

    Attributes:
        id: unique in the whole cluster; another one after each reconnect.
        user: the user; "" is anonymous. An `on_connect` handler may set it.
        claims: what the verified token said, or None without a token.
        info: any JSON value that other clients see with this one's user in presence, joins and publications. An
            `on_connect` handler may set it. A value that JSON cannot say is refused when it is set.
        state: the application's own, plain data. It moves with the connection to another worker. A value that could
            not is refused when it is set.
        address: the client's address, taken from a trusted proxy where there is one.
        headers: the handshake's, names in lower case. Present while `on_connect` runs and dropped afterwards, for they
            are most of what an idle connection would weigh; copy what you need to `state`.
        emulated_headers: what the client itself says in place of headers, which a browser cannot set for a WebSocket
            (the SDK's option `headers`); names in lower case, for as long as `headers`. It is no more than its data:
            no proxy has looked at it.
        slot, worker, node: where it is served.
    """

    __slots__ = ("_identity", "_info", "_session", "_state", "emulated_headers", "headers", "subscriptions")

    _session: ServingSession

    def __init__(
        self,
        identity: Identity,
        session: ServingSession,
        subscriptions: dict[Room, Subscription],
        *,
        headers: Mapping[str, str] = EMPTY,
        emulated_headers: Mapping[str, str] = EMPTY,
    ) -> None:
        self._identity = identity
        self._session = session
        self._state = PlainState()
        self._info: Any = None
        self.subscriptions = subscriptions
        self.headers = headers
        self.emulated_headers = emulated_headers

    @property
    def id(self) -> ConnectionId:
        """The connection id: unique in the whole cluster, and another one after each reconnect."""
        return self._identity.id

    @property
    def user(self) -> str:
        """The user; "" is anonymous. An `on_connect` handler may set it."""
        return self._identity.user

    @user.setter
    def user(self, value: str) -> None:
        self._identity.user = value

    @property
    def claims(self) -> dict[str, Any] | None:
        """What the verified token says; None without a token."""
        return self._identity.claims

    @claims.setter
    def claims(self, value: dict[str, Any] | None) -> None:
        self._identity.claims = value

    @property
    def address(self) -> str:
        """The client address, after trusted proxies."""
        return self._identity.address

    @property
    def scheme(self) -> str:
        """ "http" or "https", as the client has it."""
        return self._identity.scheme

    @property
    def path(self) -> str:
        """The path of the client's request."""
        return self._identity.path

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters of the client's request."""
        return self._identity.query

    @property
    def sticky_id(self) -> str | None:
        """The id in a cookie, header or parameter that routed the client; None without one."""
        return self._identity.sticky_id

    @property
    def transport(self) -> str:
        """How the client is connected, such as "websocket"."""
        return self._identity.transport

    @property
    def protocol(self) -> str:
        """The wire protocol of the client: "centrifuge" or "socketio"."""
        return self._identity.protocol

    @property
    def namespace(self) -> str:
        """The namespace of Socket.IO that the client is in, such as "/"; "" with a protocol that has none."""
        return self._identity.namespace

    @property
    def slot(self) -> int:
        """The slot of the worker that serves the connection."""
        return self._identity.slot

    @property
    def worker(self) -> str:
        """The id of the worker process that serves the connection."""
        return self._identity.worker

    @property
    def node(self) -> str:
        """The machine that serves the connection."""
        return self._identity.node

    @property
    def state(self) -> dict[str, Any]:
        """The data of the application for this connection. It moves with the connection to another worker."""
        return self._state

    @state.setter
    def state(self, values: Mapping[str, Any]) -> None:
        self._state = PlainState(values)

    @property
    def info(self) -> Any:
        """What other clients see with this one's user: any JSON value."""
        return self._info

    @info.setter
    def info(self, value: Any) -> None:
        encode(value, _name_of_info)  # raises in the application's line, and not when others are shown the client
        self._info = value

    @property
    def rooms(self) -> frozenset[Room]:
        """The rooms that this client is in now, by the names that the application gave."""
        named = [Room(name_of(each)) if is_event_room(each) else each for each in self.subscriptions]
        return frozenset(filter(None, named))  # the room of all has no name

    @property
    def roles(self) -> frozenset[str]:
        """The strings in the token's `roles` claim; empty without a token."""
        roles = (self.claims or {}).get("roles", ())
        return frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset()

    @from_any_thread
    async def send(self, data: Any) -> None:
        """
        Send the client a message that belongs to no room.

        Args:
            data: anything that JSON can say.

        Raises:
            AnswerError: JSON cannot say `data`; the text names the field.
            ConnectionMoved: another worker serves the client now. So do the other methods that reach the client.
        """
        self._session.send_message(encode(data, lambda: f"message to connection {self.id}"))

    def disconnect(self, code: int = 3503, reason: str = "force disconnect") -> Awaitable[None]:
        """
        Close the connection at once, whether the result is awaited or not.

        Args:
            code: the default tells the client not to come back; 3011 tells it to reconnect. Codes of your own: 4000 to
                4499 let it come back, 4500 to 4999 do not.
            reason: what the client gets with the code; at most 32 ASCII characters.

        Returns:
            What can be awaited, as the result of `send` can; it is done already.
        """
        self._end(code, reason)
        has_ended: Awaitable[None] = done()
        return has_ended

    @from_any_thread_at_once
    def _end(self, code: int, reason: str) -> None:
        self._session.end(code, reason)

    @from_any_thread
    async def subscribe(self, room: str) -> None:
        """
        Subscribe this client to a room from the server's side. No handler is asked for permission.

        In `on_connect` the subscription becomes part of the answer to the client's connect; later the client is
        notified by a push.

        Raises:
            UnknownChannel: the room is not declared (102); the text names the patterns that there are.
            ClientError: the client has too many rooms (106), or cannot receive what is published there (108).
        """
        await self._session.enter(Room(room))

    @from_any_thread
    async def unsubscribe(self, room: str) -> None:
        """
        End this client's subscription of a room, and notify the client. Harmless when there is none.

        Raises:
            UnknownChannel: there is none, and the room is not declared (102); the text names the patterns that there
                are.
        """
        await self._session.exit(Room(room), 2000, "server unsubscribe")

    def describe(self, room: Room | None = None) -> ClientInfo:
        """Return what other clients see of this one, in `room` where given."""
        identity = self._identity
        subscription = self.subscriptions.get(room) if room is not None else None
        return ClientInfo(
            identity.user,
            (subscription.shown if subscription else None) or identity.id,
            None if self.info is None else info_bytes(self),
            subscription.chan_info if subscription else None,
        )

    def snapshot(self) -> bytes:
        """Return what another worker has to know of this connection, if this one is gone."""
        try:
            state = packed_state(self)
        except NotPlain as error:
            log(logger, logging.WARNING, "conn.state not recorded", connection=self.id, user=self.user, reason=error)
            state = None
        return msgspec.msgpack.encode(Snapshot(self._identity, info_bytes(self), state))

    @classmethod
    def restore(cls, snapshot: bytes) -> Connection:
        """Return a connection that has ended, from its snapshot. It has no rooms, and nothing reaches its client."""
        kept = msgspec.msgpack.decode(snapshot, type=Snapshot)
        connection = cls(kept.identity, _ENDED, {})
        take_up(connection, kept.info, kept.state or b"")
        return connection

    def __repr__(self) -> str:
        return f"<Connection {self.id} user={self.user!r} address={self.address} slot={self.slot}>"


def info_bytes(connection: Connection) -> bytes | None:
    """
    Return a connection's `info` as a JSON text.

    Raises:
        AnswerError: it was changed in place, and JSON cannot say it any more. The error names the field.
    """
    return None if connection.info is None else encode(connection.info, _name_of_info)


def _name_of_info() -> str:
    """Name `info`, for the error that it cannot be encoded."""
    return "conn.info"


def packed_state(connection: Connection) -> bytes:
    """
    Return a connection's `state` as bytes.

    Raises:
        NotPlain: something was changed in place, and is no plain data any more. The error names the key.
    """
    return pack(connection.state, "conn.state")


def take_up(connection: Connection, info: bytes | None, state: bytes) -> None:
    """Give a connection what the application had set, from `info_bytes` and `packed_state`."""
    connection._info = None if info is None else msgspec.json.decode(info)
    connection.state = unpack(state) if state else {}


def detach(connection: Connection) -> None:
    """Have every call that should reach the client raise `ConnectionMoved`: another worker serves it now."""
    connection._session = _MovedSession(connection.id, connection.event_loop())


class _MovedSession:
    """
    The session of a connection that another worker serves now. Whoever still holds the connection gets an error: a
    message that went nowhere would be lost without a sound.
    """

    def __init__(self, connection_id: ConnectionId, loop: asyncio.AbstractEventLoop | None) -> None:
        self._id = connection_id
        self._loop = loop

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that served the connection."""
        return self._loop

    def send_message(self, data: bytes) -> None:
        raise ConnectionMoved(self._id)

    def end(self, code: int, reason: str) -> None:
        raise ConnectionMoved(self._id)

    @property
    def emitter(self) -> Emitter:
        raise ConnectionMoved(self._id)

    def send_event(self, event: bytes, *, is_volatile: bool = False) -> None:
        raise ConnectionMoved(self._id)

    async def call(self, event: bytes, timeout_s: float) -> list[Any]:
        raise ConnectionMoved(self._id)

    async def join(self, name: str) -> None:
        raise ConnectionMoved(self._id)

    async def part(self, name: str) -> None:
        raise ConnectionMoved(self._id)

    async def enter(self, room: Room) -> None:
        raise ConnectionMoved(self._id)

    async def exit(self, room: Room, code: int, reason: str) -> None:
        raise ConnectionMoved(self._id)


class _EndedSession:
    """The session of a connection that ended with its worker: nothing reaches the client."""

    def event_loop(self) -> None:
        """Return no loop: nothing has to be done anywhere."""

    def send_message(self, data: bytes) -> None: ...

    def end(self, code: int, reason: str) -> None: ...

    @property
    def emitter(self) -> Emitter:
        raise ConnectionEnded("of a worker that is gone")

    def send_event(self, event: bytes, *, is_volatile: bool = False) -> None: ...

    async def call(self, event: bytes, timeout_s: float) -> list[Any]:
        raise ConnectionEnded("of a worker that is gone")

    async def join(self, name: str) -> None: ...

    async def part(self, name: str) -> None: ...

    async def enter(self, room: Room) -> None: ...

    async def exit(self, room: Room, code: int, reason: str) -> None: ...


_ENDED: Final = _EndedSession()
