"""
The session of one client: the shell around its state, whatever the wire protocol.

Runs in the worker, on its event loop. A transport gives it whole messages and takes its bytes; a dialect (base.py)
turns messages into commands and runs each. It never looks into a message, and it never decides what a room is.

Theory of operation
-------------------
**State.** All that a session knows is in `SessionState` (state.py) and in its `Connection`. What stands here besides is
the machinery that can be made anew from it: a queue and a task while commands run, and timers.

**Commands** run one after another, in the order in which they came. The queue and its task exist only while there is
something to run; an idle session has neither. A client that asks faster than it is answered is not read from, above
`QUEUE_MAX` commands; where a transport cannot pause, it is closed above `QUEUE_END`. After `COMMANDS_AT_ONCE` commands
other clients have their turn.

**Publications beside.** Where the broker keeps the order of calls, a publication is sent to it, and answered, while the
next command runs: so a burst leaves as one. A command that is no publication waits for all of them.

**Timers.** One deadline follows the other (state.Liveness): first command, `on_connect`, ping, pong. `expired` in
state.py decides what follows; here that is done, and the wheel is set to the next. Expiries of the connection and of
its subscriptions have timers of their own. All are armed from due times in the state, so that they go on in another
process.

**Patience.** The limit on unsent bytes is the transport's. A session whose rooms all conflate is patient: nothing piles
up for its client but the latest of each key, so a slow one is served as long as it takes something.

**The end** comes once: by the client, by a code of ours, or by the transport. Rooms are left, and the application's
handler is called by the hub's departures, at least once.

**Moving.** `quiesce` brings a session to rest: no command runs, no publication is under way, no room is being entered.
Then `export` gives its state as bytes and `drop` forgets it here, and nothing is said to the client or to others.
`opening.restore` makes a session of the bytes, which enters its rooms from their positions and goes on.

    open ──quiesce──▶ at rest ──export, drop──▶ gone          at rest ──resume──▶ open
      └──too long──▶ open: the caller ends it with a code to reconnect
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final

from realtime import codes
from realtime.codes import DisconnectCode
from realtime.errors import Disconnect
from realtime.session import metering
from realtime.session.base import BadMessage, Dialect, Services
from realtime.session.connection import EMPTY, Connection, info_bytes, packed_state
from realtime.session.membership import Member
from realtime.session.plain import NotPlain, check
from realtime.session.state import Act, Due, Event, Phase, SessionState, admitted, encode, expired, ponged, seen
from realtime.threads import is_calling
from realtime.timing.timer_wheel import Timer
from realtime.transport.base import Transport
from sticky.handoff.journal import MESSAGE, Mark

QUEUE_MAX: Final = 64  # commands that wait for the one that runs; above it the client waits in its kernel
QUEUE_END: Final = 64 * 1024  # commands of earlier messages: only a transport that cannot pause brings more to these
COMMANDS_AT_ONCE: Final = 32  # of one client in one turn of the loop: 1 to 2 ms

logger = logging.getLogger("realtime.session")


class Session(Member):
    """One client. Is the transport's `ClientSession`, the registry's `LocalSession` and the connection's server."""

    __slots__ = ("_beside", "_expiry", "_mark", "_queue", "_task", "_timer")

    def __init__(
        self,
        services: Services,
        dialect: Dialect,
        transport: Transport,
        state: SessionState,
        mark: Mark,
        headers: Mapping[str, str] = EMPTY,
    ) -> None:
        """
        Make a session of its parts: `opening.begin` and `opening.restore` do, and arm it.

        Args:
            services: of the worker.
            dialect: what the client speaks.
            transport: whose framing the dialect has.
            state: all that it is.
            mark: of what is in flight on its connection.
            headers: of the handshake.
        """
        super().__init__(services, dialect, transport, state)
        self.connection = Connection(state.identity, self, state.subscriptions, headers=headers)
        self._queue: deque[Any] | None = None  # only while a task runs
        self._task: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] | None = None  # publications on their way to the broker
        self._mark = mark
        self._timer: Timer | None = None
        self._expiry: Timer | None = None

    # From the transport

    def receive(self, message: bytes | str) -> None:
        """Take one whole message: run its commands after those that wait already. Never raises."""
        state = self.state
        if state.phase is Phase.CLOSED:
            return
        if state.wire.is_one_way and (state.phase is not Phase.NEW or self._queue is not None):
            self._pass_over()  # it has said what it may, whatever this is
            return
        self._mark.begin(MESSAGE)
        self._receive(message)
        if self._task is None:  # else until that is done
            self._mark.end(MESSAGE)

    def _receive(self, message: bytes | str) -> None:
        try:
            received = self.dialect.decode(message)
        except BadMessage as error:
            logger.debug("< %s: %s", self.state.identity.id, error)
            self.finish(codes.PROTOCOL)
            return
        if self._queue is not None and len(self._queue) > QUEUE_END:  # a single message may hold more
            metering.over(self.services, self.state, "commands", "too many wait for their turn")
            self.finish(codes.TOO_MANY_REQUESTS_END)
            return
        for command in received:
            if command is None:
                self._pong()
            elif self._queue is None:
                self._queue = deque([command])
            else:
                self._queue.append(command)
        if self._queue is None or not self.is_open:
            return
        if self._task is None:
            task = self.services.begin(self._run())
            if task.done():
                return
            self._task = task
        waiting = 0 if self._queue is None else len(self._queue)
        if waiting > QUEUE_MAX:
            self.transport.pause_reading()

    def _pass_over(self) -> None:
        """Count what a client that only listens has no business to send. It may do so as often as others may ask."""
        rate = self.services.commands
        if rate is not None and not metering.allows_command(self.services, self.state, rate):
            self.finish(codes.TOO_MANY_REQUESTS_END)

    def connection_lost(self, code: int, reason: str) -> None:
        """Leave every room, and have the application learn that an admitted client is gone."""
        self._close(code, reason)

    # Commands, one after another

    async def _run(self) -> None:
        queue = self._queue
        assert queue is not None, "a task runs what is in the queue"
        left = COMMANDS_AT_ONCE
        try:
            while queue and self.is_open:
                if not left:
                    left = COMMANDS_AT_ONCE
                    await asyncio.sleep(0)  # other clients have their turn
                    continue
                left -= 1
                command = queue.popleft()
                beside = self._beside
                if beside and (len(beside) >= QUEUE_MAX or not self.dialect.is_publication(command)):
                    await asyncio.wait(beside)  # what another command finds has happened
                try:
                    await self.dialect.execute(self, command)
                except Disconnect as end:
                    self.end(end.code, end.reason)
                if len(queue) == QUEUE_MAX and self._rest is None:
                    self.transport.resume_reading()
        finally:
            self._queue = self._task = None
            self._mark.end(MESSAGE)
            self._rests()

    def publish_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a publication, and its answer, come about while the next command runs: `may_publish_beside` said so."""
        task = self.services.begin(work)
        if not task.done():
            if self._beside is None:
                self._beside = set()
            self._beside.add(task)
            task.add_done_callback(self._published)

    def _published(self, task: asyncio.Task[None]) -> None:
        assert self._beside is not None, "the task is in it"
        self._beside.discard(task)
        self._rests()

    @property
    def may_publish_beside(self) -> bool:
        """
        Whether publications may come about beside one another: the broker keeps their order, and another command
        waits. A command that begins at once cannot know yet whether one will.
        """
        return self.services.hub.broker.in_order and bool(self.services.begin.is_eager or self._queue or self._beside)

    # What happens to it

    def _move(self, event: Event) -> None:
        before = self.state.move(event)
        logger.debug("= %s: %s -> %s", self.state.identity.id, before.value, self.state.phase.value)

    def begin_connecting(self) -> None:
        """Take the first command. The caller must `admit` or `refuse` the client."""
        self._move(Event.CONNECT)

    def admit(self) -> None:
        """Take the client in: from here on it is pinged, and everything is allowed that it may do."""
        self._move(Event.ADMITTED)
        self.connection.headers = self.connection.emulated_headers = EMPTY
        share = random.uniform(0.5, 1)  # noqa: S311 - spreads pings, keeps no secret
        self.state.liveness = admitted(self.services.wheel.now, self.services.limits, share)
        self._arm()
        if self.state.wire.is_emulated:
            self.services.registry.add_stream(self)

    def refuse(self, refusal: DisconnectCode | None) -> None:
        """Keep a client that was not admitted until it goes. `refusal`: how it ends then, where that is for now."""
        self._move(Event.REFUSED)
        self.state.refusal = refusal
        assert self._queue is not None, "it is refused by a command that runs"
        self._queue.clear()  # the rest of that message is not looked at

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code that the client understands. Harmless when it has ended."""
        if self._close(code, reason):
            if not self.transport.has_close_frame:
                self.write(self.dialect.disconnected(code, reason))
            self.transport.close(code, reason)

    def _close(self, code: int, reason: str) -> bool:
        """End everything but the socket, once. Return whether it was this call that did."""
        if self.state.phase is Phase.CLOSED:
            return False
        was_admitted = self.is_admitted
        self._move(Event.CLOSED)
        self._disarm()
        if self._task is not None and not is_calling(self._task):
            self._task.cancel()
        away = codes.comes_back(code)
        for room in list(self.state.subscriptions):
            self.leave(room, away=away)
        self.services.registry.discard(self)
        if was_admitted:
            connection, application = self.connection, self.services.application

            def notify() -> Awaitable[None]:
                return application.disconnect(connection, code, reason)

            self.services.hub.connection_ends.ended(connection.user, connection.id, notify, away=away)
        return True

    def log_refusal(self, what: str, why: object) -> None:
        """Log what a client does not get to know in full."""
        logger.info("x %s: %s refused: %s", self.state.identity.id, what, why)

    # What the server sends

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that serves the connection."""
        return self.services.event_loop

    def send_message(self, data: bytes) -> None:
        """Send a JSON text that belongs to no room."""
        self.write(self.dialect.message(data))

    # Deadlines, all on the wheel

    def arm(self) -> None:
        """Set all timers from the due times."""
        self._arm()
        self._arm_expiry()
        for subscription in self.state.subscriptions.values():
            if subscription.ends_at_s is not None:
                self.arm_expiry(subscription)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        liveness = self.state.liveness
        has_deadline = liveness.due is not Due.NOTHING
        self._timer = self.services.wheel.at(liveness.at_s, Session._deadline, self) if has_deadline else None

    def _arm_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        at_s = self.state.expires_at_s
        self._expiry = None if at_s is None else self.services.wheel.at(at_s, Session._expired, self)

    def _disarm(self) -> None:
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self.forget_expiries()

    def _deadline(self) -> None:
        """Do what follows when the deadline has come."""
        state, limits, now_s = self.state, self.services.limits, self.services.wheel.now
        takes = state.liveness.due is Due.PONG and state.liveness.awaits_pong and self.is_patient
        if takes:
            state.liveness, takes = seen(state.liveness, self.transport.taken())
        state.liveness, act = expired(state.liveness, state.phase, state.wire, now_s, limits, takes=takes)
        if act is Act.CLOSE_NO_PONG:
            self.finish(codes.NO_PONG)
        elif act is Act.CLOSE_LATE:
            logger.warning("x %s: connect: no answer within %g s", self.who, limits.connect_s)
            self.finish(codes.SERVER_ERROR)
        elif act is Act.CLOSE_STALE:
            self.finish(state.refusal or codes.STALE)
        else:
            if act is Act.PING:
                self.write(state.wire.ping_frame or self.dialect.ping)
            self._arm()

    @property
    def pings_announced(self) -> tuple[int, bool]:
        """
        What the client gets to know: the seconds between two pings, and whether it has to answer. A client that is
        announced 0 neither expects pings nor answers them; that is so where they are frames and not messages.
        """
        if self.state.wire.ping_frame is not None:
            return 0, False
        ping_s = self.services.limits.ping_s
        return math.ceil(ping_s), ping_s > 0 and not self.state.wire.is_one_way

    def _pong(self) -> None:
        """Take a message that answers a ping. One that answers none is a mistake of the client."""
        if self.state.wire.ping_frame is not None or not self.state.liveness.awaits_pong:
            self.finish(codes.PROTOCOL)
        self.state.liveness = ponged(self.state.liveness)

    def pong_received(self) -> None:
        """Take a frame that answers a ping; asked for or not, it is as good. Other clients' frames answer nothing."""
        if self.state.wire.ping_frame is not None:
            self.state.liveness = ponged(self.state.liveness)

    def expire_at(self, expire_at_s: float | None) -> None:
        """Close the connection some grace after `expire_at_s` (Unix time), unless it is refreshed before."""
        self.state.expires_at_s = None
        if expire_at_s is not None:
            delay_s = expire_at_s - time.time() + self.services.limits.expiry_grace_s
            self.state.expires_at_s = self.services.wheel.now + max(delay_s, 0)
        self._arm_expiry()

    def refresh(self, expire_at_s: float | None) -> None:
        """Have the connection expire at another time, and notify the client."""
        self.expire_at(expire_at_s)
        self.write(self.dialect.refreshed(expire_at_s))

    def _expired(self) -> None:
        self.finish(codes.CONNECTION_EXPIRED)

    # Moving

    def _rests(self) -> None:
        """Wake `quiesce`: something has ended."""
        if self._rest is not None:
            self._rest.set()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing of it is under way."""
        return self._task is None and self._queue is None and not self._beside and not self.entering

    async def quiesce(self, within_s: float) -> bool:
        """
        Bring the session to rest: read no more from the client, and let end what runs. The caller then exports it in
        the same turn, or calls `resume`.

        Args:
            within_s: how long that may take.

        Returns:
            Whether it is at rest. Where not, it goes on as before: the caller closes it with a code to reconnect, or
            tries again.
        """
        assert self._rest is None, "a session is brought to rest by one caller at a time"
        self.transport.pause_reading()
        self._rest = asyncio.Event()
        try:
            async with asyncio.timeout(within_s):
                while not self.is_at_rest:
                    await self._rest.wait()
                    self._rest.clear()
        except TimeoutError:
            logger.info("= %s: not at rest within %g s", self.who, within_s)
        finally:
            self._rest = None
        if not self.is_at_rest:
            self.resume()
        return self.is_at_rest

    def resume(self) -> None:
        """Read on from the client: the session does not move."""
        if self._queue is None or len(self._queue) <= QUEUE_MAX:  # else that resumes which makes it shorter
            self.transport.resume_reading()

    def export(self) -> bytes:
        """
        Return everything that the session is, as bytes: `restore` makes a session of them. It must be open and at
        rest. It goes on here until `drop`, which comes in the same turn: what happens between is not in the bytes.

        Raises:
            NotPlain: something in `conn.state` or in the claims is no plain data any more. The log names the key.
        """
        assert self.is_at_rest and self.is_open, "what is under way cannot move"  # noqa: PT018
        state, connection = self.state, self.connection
        try:
            packed = packed_state(connection)
            check(state.identity.claims, "conn.claims")
        except NotPlain as error:
            logger.warning("x %s: it cannot move: %s", self.who, error)
            raise
        state.state, state.info = packed, info_bytes(connection)
        state.headers, state.emulated_headers = dict(connection.headers), dict(connection.emulated_headers)
        for subscription in state.subscriptions.values():
            subscription.position, subscription.base = self.services.hub.whereabouts(subscription.room, self)
        return encode(state)

    def drop(self) -> None:
        """
        Forget the session, which goes on elsewhere: rooms, timers and registry let go of it, and the worker to which it
        moves may take over its memberships. Nothing is written to the client, and others are not notified.
        """
        assert self.is_at_rest, "a command that runs would answer twice"
        self._disarm()
        hub, identity = self.services.hub, self.state.identity
        for room, subscription in self.state.subscriptions.items():
            hub.leave(room, self, info=None)
            if subscription.shown is not None:
                hub.release(room, subscription.shown)
        if self.is_admitted:
            hub.connection_ends.release(identity.user, identity.id)
        self.services.registry.discard(self)
        self.state.phase = Phase.CLOSED  # whatever still holds it does nothing
        self.connection.moved()
