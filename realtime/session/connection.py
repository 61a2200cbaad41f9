"""
`Connection`: one client, as an application sees it.

Runs in the worker. A connection is plain data (who the client is, where it came from, its rooms, the application's
`state`), so that it can be written down and continued by another process. It owns no task, no timer and no socket;
what has to be said to the client goes through `Voice`, which the wire protocol implements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from realtime.broker.base import ClientInfo, ConnectionId, Room
from realtime.threads import from_any_thread, from_any_thread_at_once
from realtime.timing.rate import Meter

EMPTY: Mapping[str, str] = {}


class Voice(Protocol):
    """What a wire protocol does for one connection on the application's behalf; on the worker's event loop."""

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that serves the connection."""

    def send_message(self, data: bytes) -> None:
        """Send a JSON text that belongs to no room."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code the client understands."""

    async def enter(self, room: Room) -> None:
        """Subscribe the client from the server's side, and tell it."""

    async def exit(self, room: Room, code: int, reason: str) -> None:
        """End a subscription from the server's side, and tell the client."""


@dataclass(slots=True)
class Subscription:
    """One room of one connection. `server_side`: granted by the server, not asked for by the client."""

    room: Room
    server_side: bool = False
    join_leave: bool = False
    positioned: bool = False
    shown: ConnectionId | None = None  # under which id others see it in the room, where it is registered at the broker
    chan_info: bytes | None = None
    expire_at_s: float | None = None
    delta: bool = False  # publications go as differences
    meter: Meter | None = None  # of its publications, where the room limits them


class Connection:
    """
    One client. Every method may be called in any thread.

    Attributes:
        id: unique in the whole cluster; another one after each reconnect.
        user: who it is; "" is anonymous. An `on_connect` handler may set it.
        claims: what the verified token said, or None without a token.
        info: any JSON value that other clients see beside this one's name in presence, joins and publications. An
            `on_connect` handler may set it.
        state: the application's own, plain data. It goes with the connection when that moves to another worker.
        address: the client's address, taken from a trusted proxy where there is one.
        headers: the handshake's, names in lower case. Present while `on_connect` runs and dropped afterwards, for they
            are most of what an idle connection would weigh; keep what you need in `state`.
        emulated_headers: what the client itself says in place of headers, which a browser cannot set for a WebSocket
            (the SDK's option `headers`); names in lower case, for as long as `headers`. It is no more than its data:
            no proxy has looked at it.
        slot, worker, node: where it is served.
    """

    __slots__ = (
        "_voice",
        "address",
        "claims",
        "emulated_headers",
        "headers",
        "id",
        "info",
        "node",
        "path",
        "query",
        "scheme",
        "slot",
        "state",
        "sticky_id",
        "subscriptions",
        "transport",
        "user",
        "worker",
    )

    def __init__(
        self,
        id: ConnectionId,
        voice: Voice,
        *,
        address: str = "",
        scheme: str = "http",
        path: str = "",
        query: Mapping[str, str] = EMPTY,
        headers: Mapping[str, str] = EMPTY,
        sticky_id: str | None = None,
        transport: str = "",
        slot: int = 0,
        worker: str = "",
        node: str = "",
    ) -> None:
        self.id = id
        self.user = ""
        self.claims: dict[str, Any] | None = None
        self.info: Any = None
        self.state: dict[str, Any] = {}
        self.subscriptions: dict[Room, Subscription] = {}
        self.address = address
        self.scheme = scheme
        self.path = path
        self.query = query
        self.headers = headers
        self.emulated_headers: Mapping[str, str] = EMPTY
        self.sticky_id = sticky_id
        self.transport = transport
        self.slot = slot
        self.worker = worker
        self.node = node
        self._voice = voice

    @property
    def rooms(self) -> frozenset[Room]:
        """The rooms that this client is subscribed to now."""
        return frozenset(self.subscriptions)

    @property
    def roles(self) -> frozenset[str]:
        """The strings in the token's `roles` claim; empty without a token."""
        roles = (self.claims or {}).get("roles", ())
        return frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset()

    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the event loop that serves this connection."""
        return self._voice.event_loop()

    @from_any_thread
    async def send(self, data: Any) -> None:
        """
        Send the client a message that belongs to no room.

        Args:
            data: anything that JSON can say.
        """
        self._voice.send_message(msgspec.json.encode(data))

    @from_any_thread_at_once
    def disconnect(self, code: int = 3503, reason: str = "force disconnect") -> None:
        """
        Close the connection.

        Args:
            code: the default tells the client not to come back; 3011 tells it to reconnect. Codes of your own: 4000 to
                4499 let it come back, 4500 to 4999 do not.
            reason: what the client gets beside the code; at most 32 ASCII characters.
        """
        self._voice.end(code, reason)

    @from_any_thread
    async def subscribe(self, room: str) -> None:
        """
        Subscribe this client to a room from the server's side. No handler is asked for permission.

        In `on_connect` the subscription becomes part of the answer to the client's connect; later the client is told
        by a push.

        Raises:
            ClientError: the room is not declared (102), or the client has too many (106).
        """
        await self._voice.enter(Room(room))

    @from_any_thread
    async def unsubscribe(self, room: str) -> None:
        """End this client's subscription of a room, and tell the client. Harmless when there is none."""
        await self._voice.exit(Room(room), 2000, "server unsubscribe")

    def describe(self, room: Room | None = None) -> ClientInfo:
        """Return what other clients see of this one, in `room` where given."""
        subscription = self.subscriptions.get(room) if room is not None else None
        return ClientInfo(
            user=self.user,
            connection_id=(subscription.shown if subscription else None) or self.id,
            conn_info=None if self.info is None else msgspec.json.encode(self.info),
            chan_info=subscription.chan_info if subscription else None,
        )

    def snapshot(self) -> bytes:
        """Return what another worker is to know of this connection without this one; `state` only if it is data."""
        kept = {name: getattr(self, name) for name in _KEPT}
        try:
            return msgspec.msgpack.encode({**kept, "state": self.state})
        except (TypeError, ValueError, OverflowError, RecursionError):
            return msgspec.msgpack.encode(kept)

    @classmethod
    def restore(cls, snapshot: bytes) -> Connection:
        """Return a connection that has ended, from its snapshot. It has no rooms, and nothing reaches its client."""
        kept = msgspec.msgpack.decode(snapshot, type=dict[str, Any])
        connection = cls(kept["id"], _Gone())
        for name, value in kept.items():
            if name in _KEPT or name == "state":
                setattr(connection, name, value)
        return connection

    def __repr__(self) -> str:
        return f"<Connection {self.id} user={self.user!r} address={self.address} slot={self.slot}>"


# What a snapshot holds, beside `state`.
_KEPT: Final = (
    "id", "user", "claims", "info", "address", "scheme", "path", "query", "sticky_id", "transport", "slot", "worker",
    "node",
)  # fmt: skip


class _Gone:
    """The voice of a connection that has ended with its worker: nobody hears it."""

    def event_loop(self) -> None:
        """Return no loop: nothing has to be done anywhere."""

    def send_message(self, data: bytes) -> None: ...

    def end(self, code: int, reason: str) -> None: ...

    async def enter(self, room: Room) -> None: ...

    async def exit(self, room: Room, code: int, reason: str) -> None: ...
