"""
The rooms of one client while it is in them: what the hub writes to, and how a subscription ends.

Runs in the worker, on its event loop. `RoomSubscriber` is the lowest third of a session, below membership.py (how a
subscription begins) and session.py (commands and deadlines). It ends subscriptions: asked for, revoked, expired, or
because publications were lost. It owns no timer but those of subscriptions that expire. It awaits nothing.

Each subscription in the state has a membership at the hub, and each that expires has a timer here: all three begin and
end in one turn.
"""

from __future__ import annotations

import time
from typing import Any, Final

from realtime import codes
from realtime.broker.base import Room
from realtime.codes import DisconnectCode, UnsubscribeCode
from realtime.errors import UnknownChannel
from realtime.rooms.fanout import Encoder
from realtime.rooms.options import RoomOptions
from realtime.session.base import Dialect, Services
from realtime.session.connection import Connection
from realtime.session.state import CLOSED, CONNECTED, Phase, SessionState, Subscription
from realtime.timing.timer_wheel import Timer
from realtime.transport.base import Transport
from realtime.transport.left_behind import fallen_behind, note

RESERVED: Final = "\0"  # rooms in which workers speak with each other


class RoomSubscriber:
    """A client as its rooms have it. Is the hub's `Subscriber`."""

    __slots__ = ("__weakref__", "_expiries", "connection", "dialect", "services", "state", "transport")

    connection: Connection

    def __init__(self, services: Services, dialect: Dialect, transport: Transport, state: SessionState) -> None:
        self.services = services
        self.dialect = dialect
        self.transport = transport
        self.state = state
        self._expiries: dict[Room, Timer] | None = None

    # As the hub sees it

    @property
    def encoder(self) -> Encoder:
        """What writes publications for this member."""
        return self.dialect.encoder

    @property
    def connection_id(self) -> str:
        """The id by which the hub knows this member."""
        return self.state.identity.id

    @property
    def log_fields(self) -> dict[str, Any]:
        """The client, as fields of a log line. One without a user has no such field."""
        identity = self.state.identity
        fields = {"connection": str(identity.id), "address": identity.address}
        return {**fields, "user": identity.user} if identity.user else fields

    def insufficient(self, room: Room) -> None:
        """Learn that the hub lost publications of this room, and that this session is a member no more."""
        subscription = self.state.subscriptions.get(room)
        if subscription is not None and self.is_open:
            self.forget_lost(subscription)
            self.notify_lost(subscription)

    def forget_lost(self, subscription: Subscription) -> None:
        """Forget a subscription whose membership the hub has ended already. The caller must call `notify_lost`."""
        room = subscription.room
        assert self.state.subscriptions.get(room) is subscription, "a subscription ends once"
        info = self.connection.describe(room)
        del self.state.subscriptions[room]
        self._forget_expiry(room)
        if subscription.shown is not None:
            # `hub.leave` does nothing for one that is no member any more. It may come again.
            self.services.hub.departures.leave(room, self.declared(room), info, may_return=True)

    def notify_lost(self, subscription: Subscription) -> None:
        """
        Notify the client of a subscription that it lost. A client that asked for the subscription asks again; one to
        which the server gave it can only reconnect.
        """
        if subscription.server_side:
            self.finish(codes.INSUFFICIENT_STATE)
            return
        self.state.lose(subscription.room, self.services.limits)
        self.write(self.dialect.unsubscribed(subscription.room, codes.UNSUBSCRIBED_INSUFFICIENT))

    # What the session does

    def write(self, data: bytes) -> None:
        """Send bytes that are framed. Does nothing after the end: a session that moved shares its client with none."""
        if self.state.phase is not CLOSED:
            self.transport.write(data)
            if fallen_behind:
                note(data)

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code that the client understands."""
        raise NotImplementedError("the session does")

    def finish(self, code: DisconnectCode) -> None:
        """Close the connection with one of our own codes."""
        self.end(code.code, code.reason)

    @property
    def is_open(self) -> bool:
        """Whether anything can still reach the client."""
        return self.state.phase is not CLOSED

    # Identity

    @property
    def is_admitted(self) -> bool:
        """Whether the client is connected, as its wire protocol has it."""
        return self.state.phase is CONNECTED

    @property
    def is_present(self) -> bool:
        """Whether the client is connected, or about to be."""
        return self.state.phase in (Phase.CONNECTING, Phase.CONNECTED)

    @property
    def stream_id(self) -> str:
        """By this id `/emulation` and the API find it; "" where it has a two-way WebSocket."""
        return self.state.wire.stream_id

    @property
    def protocol_name(self) -> str:
        """The encoding, as `connections` names it."""
        return self.dialect.label

    # Rooms by name

    def room_named(self, name: str) -> Room:
        """
        Return the room of a name that a client gave.

        Raises:
            ClientError: it is too long, or reserved.
            Disconnect: it is empty, which no client sends.
        """
        if not name:
            raise codes.PROTOCOL.error()
        if len(name.encode()) > self.services.limits.room_name_bytes or name.startswith(RESERVED):
            raise codes.BAD_REQUEST.error()
        return Room(name)

    def options_of(self, room: Room) -> RoomOptions:
        """
        Return how a room is kept that the client may enter, if the application lets it.

        Raises:
            UnknownChannel: it is not declared (102).
            ClientError: it is not for this encoding (108).
        """
        options = self.declared(room)
        if options.binary and not self.dialect.is_binary:  # what is published there need not be JSON
            raise codes.NOT_AVAILABLE.error()
        return options

    def declared(self, room: Room) -> RoomOptions:
        """
        Return how a room is kept.

        Raises:
            UnknownChannel: it is not declared (102).
        """
        options = self.services.application.room_options(room)
        if options is None:
            raise UnknownChannel(room, self.services.hub.declarations.room_patterns())
        return options

    # Leaving

    def leave(self, room: Room, *, may_return: bool = False) -> bool:
        """
        End a subscription. Nothing of the room is written from here on; others learn of it on the side.

        Args:
            room: any; it is harmless where the client is not in it.
            may_return: the client may come back, for only its connection is broken.

        Returns:
            Whether there was a subscription.
        """
        if self.state.lost:
            self.state.lost -= {room}
        subscription = self.state.subscriptions.get(room)
        if subscription is None:
            return False
        info = None if subscription.shown is None else self.connection.describe(room)
        del self.state.subscriptions[room]
        if self._expiries:
            self._forget_expiry(room)
        self.services.hub.leave(
            room, self, info=info, may_return=may_return
        )  # harmless where the hub has removed it already
        if self.state.holds_little or self.state.subscriptions:
            self.choose_patience()
        return True

    def _end_subscription(self, room: Room, how: UnsubscribeCode) -> None:
        """End a subscription, and notify the client. Harmless where there is none."""
        if self.leave(room):
            self.write(self.dialect.unsubscribed(room, how))

    # Expiry

    def watch_expiry(self, subscription: Subscription) -> None:
        """
        End a subscription some grace after its token expired, unless it is refreshed before. What the server granted
        ends in time: the client has nothing to refresh it with.
        """
        self._forget_expiry(subscription.room)
        subscription.ends_at_s = None
        if subscription.expire_at_s is not None:
            grace_s = 0.0 if subscription.server_side else self.services.limits.expiry_grace_s
            delay_s = subscription.expire_at_s + grace_s - time.time()
            subscription.ends_at_s = self.services.wheel.now + max(delay_s, 0)
            self.arm_expiry(subscription)

    def arm_expiry(self, subscription: Subscription) -> None:
        """Set the timer of a subscription that has a due time."""
        assert subscription.ends_at_s is not None, "it expires"
        if self._expiries is None:
            self._expiries = {}
        timer = self.services.wheel.at(subscription.ends_at_s, self._subscription_expired, subscription)
        self._expiries[subscription.room] = timer

    def _forget_expiry(self, room: Room) -> None:
        """Watch no longer when a subscription expires: it has ended, or ends at another time."""
        if self._expiries and (timer := self._expiries.pop(room, None)) is not None:
            timer.cancel()

    def forget_expiries(self) -> None:
        """Watch no subscription any more."""
        for room in list(self._expiries or ()):
            self._forget_expiry(room)

    def _subscription_expired(self, subscription: Subscription) -> None:
        """End a subscription whose token was not refreshed within the grace (protocol, section 6.4)."""
        assert self.state.subscriptions.get(subscription.room) is subscription, "its timer goes with it"
        self.leave(subscription.room)
        self.write(self.dialect.unsubscribed(subscription.room, codes.UNSUBSCRIBED_EXPIRED))

    # A slow peer

    @property
    def is_patient(self) -> bool:
        """Whether all that piles up for it is the latest of each key."""
        options_of = self.services.application.room_options
        for room in self.state.subscriptions:
            options = options_of(room)
            if options is None or options.conflate is None:
                return False
        return bool(self.state.subscriptions)

    def choose_patience(self) -> None:
        """Have the kernel hold as little as is right for the rooms there are now."""
        if self.state.holds_little != self.is_patient:
            self.state.holds_little = not self.state.holds_little
            self.transport.limit_unsent(self.state.holds_little)

    def drained(self) -> None:
        """Write what was kept for it while it was slow."""
        for room in self.state.subscriptions:
            self.services.hub.catch_up(room, self)
