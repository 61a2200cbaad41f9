"""
One client of the Centrifuge protocol: its state, its pings, and the order of its commands.

Runs in the worker. A session takes whole messages from its transport and runs the commands in them one after another
(protocol, section 4), in a task that exists only while there is something to run. What each command does is in
commands.py, what the sessions of a worker share in server.py. A session holds no timer of the event loop and, while
idle, no task; all it knows is plain data here and in its `Connection`.

    NEW ──connect──▶ CONNECTING ──admitted──▶ CONNECTED
                          └───────refused──▶ REFUSED          any state ──closed──▶ CLOSED
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw

from realtime import codes
from realtime.broker.base import ConnectionId, Position, Room
from realtime.errors import BrokerUnavailable, ClientError, Disconnect, TokenUnverified
from realtime.protocol.centrifuge import commands, uni
from realtime.protocol.centrifuge.codec import BadFrame, Codec
from realtime.protocol.centrifuge.messages import Command, Disconnected, Message, Push, Refreshed, Result, Unsubscribe
from realtime.rooms.hub import Insufficient
from realtime.session.connection import EMPTY, Connection, Subscription
from realtime.tasks import IS_EAGER, begin
from realtime.threads import is_calling
from realtime.timing.rate import CostMeter, Meter, Rate
from realtime.timing.timer_wheel import Timer
from realtime.transport.base import Handshake, Transport
from sticky.journal import MESSAGE

if TYPE_CHECKING:
    from realtime.protocol.centrifuge.server import Centrifuge

QUEUE_MAX: Final = 64  # commands that wait for the one that runs; above it the client waits in its kernel
QUEUE_END: Final = 64 * 1024  # one message of 64 KiB holds less; who is beyond could not be paused

REFUSALS: Final = 10  # times the commands that it may send, a client is refused some before it is closed
COMMANDS_AT_ONCE: Final = 32  # of one client in one turn of the loop: 1 to 2 ms

NONE: Final[frozenset[Any]] = frozenset()
PONG: Final = Command()

logger = logging.getLogger("realtime.session")


class State(enum.Enum):
    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"
    CLOSED = "closed"


class Event(enum.Enum):
    CONNECT = "connect"
    ADMITTED = "admitted"
    REFUSED = "refused"
    CLOSED = "closed"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.NEW, Event.CONNECT): State.CONNECTING,
    (State.CONNECTING, Event.ADMITTED): State.CONNECTED,
    (State.CONNECTING, Event.REFUSED): State.REFUSED,
    **{(state, Event.CLOSED): State.CLOSED for state in State},
}


class Session:
    """One client. Is the hub's `Subscriber` and the connection's `Voice`."""

    __slots__ = (
        "__weakref__",
        "_awaits_pong",
        "_expiry",
        "_holds_little",
        "_mark",
        "_meter",
        "_overran",
        "_publishing",
        "_queue",
        "_refusal",
        "_subscription_expiries",
        "_taken",
        "_task",
        "_timer",
        "_too_soon",
        "answers",
        "codec",
        "connection",
        "entering",
        "granted",
        "is_emulated",
        "is_one_way",
        "lost",
        "shared",
        "state",
        "stream_id",
        "transport",
        "wire",
    )

    def __init__(self, shared: Centrifuge, transport: Transport, handshake: Handshake, codec: Codec) -> None:
        self.shared = shared
        self.transport = transport
        self.codec = codec
        transport.choose_framing(binary=codec.IS_BINARY)
        self.wire = shared.wire(codec, transport.framing)
        self.is_one_way = handshake.is_one_way
        self.is_emulated = handshake.is_emulated
        # By this `/emulation` and the API find it, and nobody can guess it. Who has a two-way WebSocket has none.
        self.stream_id = str(uuid.uuid4()) if self.is_emulated or self.is_one_way else ""
        self.state = State.NEW
        self.connection = Connection(
            ConnectionId(str(uuid.uuid4())),
            self,
            address=handshake.address,
            scheme=handshake.scheme,
            path=handshake.path,
            query=handshake.query,
            headers=handshake.headers,
            sticky_id=handshake.sticky_id,
            transport=handshake.transport,
            slot=shared.home.slot,
            worker=shared.home.worker,
            node=shared.home.node,
        )
        # Rooms at whose door it stands, and how each is to be left again: what was asked for meanwhile.
        self.entering: dict[Room, codes.UnsubscribeCode | None] = {}
        self.lost: frozenset[Room] = NONE  # rooms that it lost, or could not enter now, and may come back to
        self.granted: dict[Room, Subscription] = {}  # rooms that the server gave it before it was admitted
        self._queue: deque[Command] | None = None  # only while a task runs
        self._task: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] | None = None  # publications on their way to the broker
        self._meter: Meter | None = None  # of commands
        self._refusal: codes.DisconnectCode | None = None  # how one ends that was refused for now, and stays
        self.answers: CostMeter | None = None  # what large answers have cost
        self._too_soon: Meter | None = None  # of those that came too soon
        self._overran: frozenset[str] = NONE  # limits of which the log has heard
        self._mark = handshake.mark
        self._awaits_pong = False
        self._holds_little = False  # the kernel, of what the peer does not take
        self._taken: int | None = None  # by a patient peer, when its pong was due
        self._timer: Timer = shared.wheel.after(shared.limits.connect_s, Session._is_stale, self)
        self._expiry: Timer | None = None
        self._subscription_expiries: dict[Room, Timer] | None = None

    # From the transport

    def receive(self, message: bytes | str) -> None:
        """Take one whole message: run its commands after those that wait already."""
        if self.state is State.CLOSED:
            return
        if self.is_one_way and (self.state is not State.NEW or self._queue is not None):
            self._pass_over()  # it has said what it may, whatever this is
            return
        self._mark.begin(MESSAGE)
        self._receive(message)
        if self._task is None:  # else until that is done
            self._mark.end(MESSAGE)

    def _receive(self, message: bytes | str) -> None:
        try:
            received = self.codec.decode(message)
        except BadFrame as error:
            logger.debug("< %s: %s", self.connection.id, error)
            self.finish(codes.PROTOCOL)
            return
        for command in received:
            if command == PONG:
                self._pong()
            elif self._queue is None:
                self._queue = deque([command])
            else:
                self._queue.append(command)
        if self._queue is None or not self.is_open:
            return
        if self._task is None:
            task = begin(self._run())
            if task.done():
                return
            self._task = task
        waiting = 0 if self._queue is None else len(self._queue)
        if waiting > QUEUE_MAX:
            self.transport.pause_reading()
        if waiting > QUEUE_END:  # a transport that cannot pause
            self.over("commands", "too many wait for their turn")
            self.finish(codes.TOO_MANY_REQUESTS_END)

    def _pass_over(self) -> None:
        """Count what a client that only listens has no business to send. It may do so as often as others may ask."""
        rate = self.shared.commands
        if rate is not None and not self._allows(rate):
            self.finish(codes.TOO_MANY_REQUESTS_END)

    def connection_lost(self, code: int, reason: str) -> None:
        """Leave every room, and tell the application that an admitted client is gone."""
        self._wind_up(code, reason)

    def _wind_up(self, code: int, reason: str) -> bool:
        """End everything but the socket, once. Return whether it was this call that did."""
        if self.state is State.CLOSED:
            return False
        admitted = self.state is State.CONNECTED
        self._move(Event.CLOSED)
        self._timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._task is not None and not is_calling(self._task):
            self._task.cancel()
        away = codes.comes_back(code)
        for room in list(self.connection.subscriptions):
            self.leave(room, away=away)
        self.shared.registry.discard(self)
        if admitted:
            connection = self.connection

            def tell() -> Awaitable[None]:
                return self.shared.application.disconnect(connection, code, reason)

            self.shared.hub.departures.ended(connection.user, connection.id, tell, away=away)
        return True

    # Commands, one after another

    async def _run(self) -> None:
        queue = self._queue
        assert queue is not None
        left = COMMANDS_AT_ONCE
        try:
            while queue and self.is_open:
                if not left:
                    left = COMMANDS_AT_ONCE
                    await asyncio.sleep(0)  # other clients have their turn
                    continue
                left -= 1
                command = queue.popleft()
                if self._publishing and (command.publish is None or len(self._publishing) >= QUEUE_MAX):
                    await asyncio.wait(self._publishing)  # what another command is to find has happened
                try:
                    await self._execute(command)
                except Disconnect as end:
                    self.end(end.code, end.reason)
                if len(queue) == QUEUE_MAX:
                    self.transport.resume_reading()
        finally:
            self._queue = self._task = None
            self._mark.end(MESSAGE)

    async def _execute(self, command: Command) -> None:
        """Run one command, and answer it where that failed."""
        method, request = commands.method_of(command)
        if method is None or (command.id <= 0 and method != "send"):
            raise codes.PROTOCOL.error()
        if self.state is not (State.NEW if method == "connect" else State.CONNECTED):
            raise (self._refusal or codes.PROTOCOL).error()
        try:
            if self.shared.commands is not None and method != "connect":
                self._meter_command(method, self.shared.commands)
            await commands.TABLE[method](self, command.id, request)
        except ClientError as error:
            self._answer_error(command.id, method, error)
        except BrokerUnavailable as error:
            self._log_unavailable(method, error)
            self._answer_error(command.id, method, codes.UNAVAILABLE.error())
        except TokenUnverified as error:
            logger.info("x %s: %s: its token cannot be verified now: %s", self.connection.id, method, error)
            self._answer_error(command.id, method, codes.UNAVAILABLE.error())
        except Insufficient:
            raise codes.INSUFFICIENT_STATE.error() from None
        except Disconnect:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("! %s: %s waited for something that was cancelled", self.connection.id, method)
            self._answer_error(command.id, method, codes.INTERNAL.error())
        except Exception:
            logger.exception("! %s: %s failed", self.connection.id, method)
            self._answer_error(command.id, method, codes.INTERNAL.error())

    def _log_unavailable(self, method: str, error: BrokerUnavailable) -> None:
        """Name whom the broker failed; not each of all, while it is away."""
        level = logging.WARNING if self.shared.hub.is_served else logging.DEBUG
        logger.log(level, "! %s: %s: %s", self.connection.id, method, error)

    def publish_on_the_side(self, publishing: Coroutine[Any, Any, object], id: int) -> bool:
        """
        Let a publication go to the broker, and its answer come, while the next command runs: so a burst leaves as one.
        Return False, and do nothing, where the broker would not keep the order, or where no command waits; a command
        that begins at once cannot know yet whether one will.
        """
        if not self.shared.hub.in_order or not (IS_EAGER or self._queue or self._publishing):
            return False
        task = begin(self._answer_publish(publishing, id))
        if not task.done():
            self._publishing = self._publishing or set()
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        return True

    async def _answer_publish(self, publishing: Coroutine[Any, Any, object], id: int) -> None:
        try:
            await publishing
            self.answer(id, "publish", commands.EMPTY)
        except BrokerUnavailable as error:
            self._log_unavailable("publish", error)
            self._answer_error(id, "publish", codes.UNAVAILABLE.error())
        except Exception:
            logger.exception("! %s: publish failed", self.connection.id)
            self._answer_error(id, "publish", codes.INTERNAL.error())

    def _meter_command(self, method: str, rate: Rate) -> None:
        """
        Refuse a command that comes too soon. It all ends with one that has no answer, and so would be lost in silence,
        and for a client that goes on for long in spite of refusals.
        """
        if self._allows(rate):
            return
        if self._too_soon is None:
            self._too_soon = Meter()
        now = asyncio.get_running_loop().time()
        if method == "send" or not self._too_soon.take(now, Rate(rate.count * REFUSALS, rate.period_s)):
            raise codes.TOO_MANY_REQUESTS_END.error()
        raise codes.TOO_MANY_REQUESTS.error()

    def _allows(self, rate: Rate) -> bool:
        """Take one command of the rate, or say that it came too soon."""
        if self._meter is None:
            self._meter = Meter()
        if self._meter.take(asyncio.get_running_loop().time(), rate):
            return True
        self.over("commands", f"more than {self.shared.limits.commands_per_second} commands a second")
        return False

    def over(self, limit: str, why: str) -> None:
        """Count that the client ran over a limit, and log the first time."""
        self.shared.registry.overruns[limit] += 1
        if limit not in self._overran:
            self._overran |= {limit}
            logger.warning("x %s: %s", self.who, why)

    def _answer_error(self, id: int, method: str, error: ClientError) -> None:
        if method == "send":
            return  # it has no answer
        if self.is_one_way:
            self.finish(uni.disconnect_for(error))
            return
        self.write(self.codec.error_reply(id, error))
        if self.state is State.CONNECTING:
            self._move(Event.REFUSED)
            if error.temporary or error.code == codes.TOKEN_EXPIRED.code:
                self._refusal = uni.disconnect_for(error)  # what was said for now is not said for good afterwards
            assert self._queue is not None
            self._queue.clear()  # the rest of that frame is not looked at

    def answer(self, id: int, method: str, result: Result) -> int:
        """Answer a command that succeeded. Return the size of the answer in bytes."""
        reply = self.codec.reply(id, method, result)
        self.write(reply)
        return len(reply)

    @property
    def who(self) -> str:
        """Who this is, for the log."""
        return f"{self.connection.id} ({self.connection.address}, user {self.connection.user!r})"

    # A slow peer

    @property
    def is_patient(self) -> bool:
        """Whether all that piles up for it is the latest of each key."""
        options_of = self.shared.application.room_options
        for room in self.connection.subscriptions:
            options = options_of(room)
            if options is None or options.conflate is None:
                return False
        return bool(self.connection.subscriptions)

    def choose_patience(self) -> None:
        """Have the kernel hold as little as is right for the rooms there are now."""
        if self._holds_little != self.is_patient:
            self._holds_little = not self._holds_little
            self.transport.hold_little(self._holds_little)

    def drained(self) -> None:
        """Write what was kept for it while it was slow."""
        for room in self.connection.subscriptions:
            self.shared.hub.catch_up(room, self)

    # State

    def _move(self, event: Event) -> None:
        before = self.state
        after = TRANSITIONS.get((before, event))
        if after is None:
            raise AssertionError(f"a session that is {before.value} cannot be told {event.value}")
        self.state = after
        logger.debug("= %s: %s -> %s", self.connection.id, before.value, after.value)

    @property
    def is_open(self) -> bool:
        """Whether anything can still be said to the client."""
        return self.state is not State.CLOSED

    @property
    def connection_id(self) -> str:
        """The id by which the hub knows this member."""
        return self.connection.id

    @property
    def is_admitted(self) -> bool:
        """Whether the client is connected."""
        return self.state is State.CONNECTED

    @property
    def is_present(self) -> bool:
        """Whether the client is connected, or about to be."""
        return self.state in (State.CONNECTING, State.CONNECTED)

    @property
    def protocol_name(self) -> str:
        """The encoding, as `connections` names it."""
        return "json" if self.is_one_way else self.codec.NAME

    def emulate(self) -> None:
        """Take commands from `/emulation`."""
        self.shared.registry.add_stream(self)

    def begin_connecting(self) -> None:
        """Take the first command."""
        self._move(Event.CONNECT)

    def admit(self) -> None:
        """Take the client in: from here on it is pinged, and everything is allowed that it may do."""
        self._move(Event.ADMITTED)
        self.connection.headers = self.connection.emulated_headers = EMPTY
        self._timer.cancel()
        ping_s = self.shared.limits.ping_s
        if ping_s > 0:
            first = random.uniform(ping_s / 2, ping_s)  # noqa: S311 - spreads pings, keeps no secret
            self._timer = self.shared.wheel.after(first, type(self)._ping, self)

    def finish(self, code: codes.DisconnectCode) -> None:
        """Close with one of the protocol's own codes."""
        self.end(code.code, code.reason)

    def log_refusal(self, what: str, why: object) -> None:
        """Log what a client is not told in full."""
        logger.info("x %s: %s refused: %s", self.connection.id, what, why)

    # Pings and deadlines, all on the wheel

    def _is_stale(self) -> None:
        """End a connection that is not admitted in time. A `connect` that is under way is given as long again."""
        if self.state is State.CONNECTING:
            self._timer = self.shared.wheel.after(self.shared.limits.connect_s, Session._is_late, self)
        else:
            self.finish(self._refusal or codes.STALE)

    def _is_late(self) -> None:
        if self.state is State.CONNECTING:
            logger.warning("x %s: connect: no answer within %g s", self.who, self.shared.limits.connect_s)
            self.finish(codes.SERVER_ERROR)
        else:
            self.finish(self._refusal or codes.STALE)

    # A ping waits in the kernels behind all that a slow peer has still to read. A patient one, which is not closed for
    # that, may take minutes to come to it: it is waited for as long as the peer takes something.

    def _ping(self) -> None:
        self._awaits_pong = not self.is_one_way
        self.transport.write(self.wire.ping)
        self._timer = self.shared.wheel.after(self.shared.limits.pong_s, Session._check_pong, self)

    def _check_pong(self) -> None:
        if self._awaits_pong:
            if self.is_patient and self._takes_something():
                self._timer = self.shared.wheel.after(self.shared.limits.pong_s, Session._check_pong, self)
            else:
                self.finish(codes.NO_PONG)
            return
        limits = self.shared.limits
        self._timer = self.shared.wheel.after(limits.ping_s - limits.pong_s, type(self)._ping, self)

    @property
    def pings_announced(self) -> tuple[int, bool]:
        """
        What the client is told: how many seconds are between two pings, and whether it has to answer. Who is told of 0
        neither expects pings nor answers them.
        """
        ping_s = self.shared.limits.ping_s
        return math.ceil(ping_s), ping_s > 0 and not self.is_one_way

    def pong_received(self) -> None:
        """Take a frame that answers nothing: this client is pinged by messages."""

    def _pong(self) -> None:
        if not self._awaits_pong:
            self.finish(codes.PROTOCOL)
        self._awaits_pong = False
        self._taken = None

    def _takes_something(self) -> bool:
        """Whether the peer has taken something since the pong was due, or since it was asked before."""
        before, self._taken = self._taken, self.transport.taken()
        return before is None or self._taken > before

    def expire_at(self, expire_at_s: float | None) -> None:
        """Close the connection some grace after `expire_at_s` (Unix time), unless it is refreshed before."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if expire_at_s is not None:
            delay_s = expire_at_s - time.time() + self.shared.limits.expiry_grace_s
            self._expiry = self.shared.wheel.after(max(delay_s, 0), Session._expired, self)

    def refresh(self, expire_at_s: float | None) -> None:
        """Have the connection expire at another time, and tell the client."""
        self.expire_at(expire_at_s)
        expires, ttl = commands.ttl(expire_at_s)
        self.write(self.codec.push(Push(refresh=Refreshed(expires, ttl))))

    def _expired(self) -> None:
        self.finish(codes.CONNECTION_EXPIRED)

    def watch_subscription(self, subscription: Subscription) -> None:
        """
        End a subscription some grace after its token expired, unless it is refreshed before. What the server granted
        ends in time: the client has nothing to refresh it with.
        """
        self._forget_expiry(subscription.room)
        if subscription.expire_at_s is not None:
            if self._subscription_expiries is None:
                self._subscription_expiries = {}
            delay_s = self._ends_at_s(subscription) - time.time()
            timer = self.shared.wheel.after(max(delay_s, 0), self._subscription_expired, subscription)
            self._subscription_expiries[subscription.room] = timer

    def _forget_expiry(self, room: Room) -> None:
        """Watch no longer when a subscription expires: it has ended, or ends at another time."""
        if self._subscription_expiries and (timer := self._subscription_expiries.pop(room, None)) is not None:
            timer.cancel()

    def _ends_at_s(self, subscription: Subscription) -> float:
        assert subscription.expire_at_s is not None, "it expires"
        grace_s = 0.0 if subscription.server_side else self.shared.limits.expiry_grace_s
        return subscription.expire_at_s + grace_s

    def _subscription_expired(self, subscription: Subscription) -> None:
        if self.connection.subscriptions.get(subscription.room) is not subscription:
            return
        if subscription.expire_at_s is None:
            return
        if self._ends_at_s(subscription) > time.time() + 1:
            return  # refreshed since; that refresh watches it
        self.leave(subscription.room)
        self._push_unsubscribe(subscription.room, codes.UNSUBSCRIBED_EXPIRED)

    # Rooms

    def leave(self, room: Room, *, away: bool = False) -> bool:
        """
        End a subscription. Nothing of the room is written from here on; others learn of it on the side. `away`: the
        client may come back.
        """
        self.lost -= {room}
        subscription = self.connection.subscriptions.get(room)
        if subscription is None:
            return False
        info = None if subscription.shown is None else self.connection.describe(room)
        del self.connection.subscriptions[room]
        self._forget_expiry(room)
        self.shared.hub.leave(room, self, info=info, away=away)
        if self._holds_little or self.connection.subscriptions:
            self.choose_patience()
        return True

    def insufficient(self, room: Room) -> None:
        """The hub lost publications of this room, and this session is no member any more."""
        subscription = self.connection.subscriptions.get(room)
        if subscription is None or self.state is State.CLOSED:
            return
        if subscription.server_side:
            self.finish(codes.INSUFFICIENT_STATE)
            return
        info = self.connection.describe(room)
        del self.connection.subscriptions[room]
        self._forget_expiry(room)
        self.lose(room)
        if subscription.shown is not None:
            self.shared.hub.withdraw(room, info)
        self._push_unsubscribe(room, codes.UNSUBSCRIBED_INSUFFICIENT)

    def lose(self, room: Room) -> None:
        """Note that the client may come back to a room: what it asks there until then fails for now, not for good."""
        if len(self.lost) < self.shared.limits.rooms_per_connection:  # more than one can come back to
            self.lost |= {room}

    def _push_unsubscribe(self, room: Room, code: codes.UnsubscribeCode) -> None:
        self.write(self.codec.push(Push(channel=room, unsubscribe=Unsubscribe(code.code, code.reason))))

    # The connection's voice

    def event_loop(self) -> asyncio.AbstractEventLoop:
        return self.shared.event_loop

    def write(self, payload: bytes) -> None:
        """Send one message of the protocol."""
        self.transport.write(self.wire.frame(payload))

    def send_message(self, data: bytes) -> None:
        self.write(self.codec.push(Push(message=Message(Raw(self.codec.payload(data))))))

    def end(self, code: int, reason: str) -> None:
        if self._wind_up(code, reason):
            if not self.transport.has_close_frame:
                self.write(self.codec.push(Push(disconnect=Disconnected(code, reason))))
            self.transport.close(code, reason)

    async def enter(self, room: Room) -> None:
        if self.state is State.CONNECTING:
            self.granted[room] = Subscription(room, server_side=True)
        elif self.state is State.CONNECTED:
            await commands.subscribe_from_server(self, Subscription(room, server_side=True))

    async def grant(
        self,
        room: Room,
        *,
        expire_at_s: float | None = None,
        info: bytes | None = None,
        data: bytes | None = None,
        since: Position | None = None,
    ) -> None:
        """
        Put an admitted client into a room from the server's side. One that was granted before is prolonged.

        Args:
            expire_at_s: when it ends, in Unix time; None for never.
            info: JSON that others see of the client in this room.
            data: comes with the client's notification.
            since: what was published after it comes right behind, where the room still has it.

        Raises:
            ClientError: the room is not declared (102), or the client has too many (106).
        """
        before = self.connection.subscriptions.get(room)
        if before is not None and before.server_side:
            before.expire_at_s = expire_at_s
            self.watch_subscription(before)
        elif self.state is State.CONNECTED:
            granted = Subscription(room, server_side=True, chan_info=info, expire_at_s=expire_at_s)
            await commands.subscribe_from_server(self, granted, data=data, since=since)

    async def exit(self, room: Room, code: int, reason: str) -> None:
        self.granted.pop(room, None)
        how = codes.UnsubscribeCode(code, reason)
        if room in self.entering:
            self.entering[room] = how
        else:
            self._put_out(room, how)

    def entered(self, room: Room) -> None:
        """Stand at a room's door no more, whatever came of it."""
        how = self.entering.pop(room, None)
        if how is not None:
            self._put_out(room, how)

    def _put_out(self, room: Room, how: codes.UnsubscribeCode) -> None:
        if self.leave(room):
            self._push_unsubscribe(room, how)
