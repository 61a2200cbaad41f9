"""
The session of one client: the shell around its state, whatever the wire protocol.

Runs in the worker, on its event loop. A transport gives it whole messages and takes its bytes; a dialect (base.py)
turns messages into commands and runs each. It never looks into a message, and it never decides what a room is.

Theory of operation
-------------------
**State.** All that a session knows is in `SessionState` (state.py) and in its `Connection`. The rest here is
the machinery that can be made anew from it: a queue and a task while commands run, and timers.

**Commands** run one after another, in the order in which they came. The queue and its task exist only while there is
something to run; an idle session has neither. A client that asks faster than it is answered is not read from, above
`QUEUE_MAX` commands; where a transport cannot pause, it is closed above `QUEUE_END`. After `COMMANDS_AT_ONCE` commands
other clients have their turn.

**Concurrent publications.** Where the broker keeps the order of calls, a publication is sent to it, and answered, while
the next command runs: so a burst leaves as one. A command that is no publication waits for all of them.

**Events** of a client start in order, and their handlers run beside one another, as many as publications may be in
flight. Sending events, and rooms of events, are in event_member.py.

**Deadlines** of the client, of its token and of its subscriptions are in timed_member.py.

**The end** comes once: by the client, by a code of ours, or by the transport. Rooms are left, and the application's
handler is called by the hub's departures, at least once.

**Moving.** `quiesce` makes a session idle: no command runs, no publication is in flight, no room is being entered.
Then `export` gives its state as bytes and `drop` forgets it here, and neither the client nor others are notified.
`opening.restore` makes a session of the bytes, which enters its rooms from their positions and goes on.

    open ──quiesce──▶ idle ──export, drop──▶ gone          idle ──resume──▶ open
      └──too long──▶ open: the caller ends it with a code to reconnect
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any, Final

from realtime import codes
from realtime.codes import DisconnectCode
from realtime.errors import AnswerError, Disconnect
from realtime.log_lines import log
from realtime.session import metering
from realtime.session.base import BadMessage, Dialect, Services
from realtime.session.connection import EMPTY, Connection, detach, info_bytes, packed_state
from realtime.session.event_member import EventMember
from realtime.session.plain import NotPlain, check
from realtime.session.state import CLOSED, NOTHING, Event, Phase, SessionState, admitted, encode
from realtime.threads import is_calling
from realtime.transport.base import Transport
from sticky.handoff.journal import MESSAGE, Mark

QUEUE_MAX: Final = 64  # commands that wait for the one that runs; above it the client waits in its kernel
QUEUE_END: Final = 64 * 1024  # commands of earlier messages: only a transport that cannot pause brings more to these
COMMANDS_AT_ONCE: Final = 32  # of one client in one turn of the loop: 1 to 2 ms

logger = logging.getLogger("realtime.session")


class Session(EventMember):
    """One client. Is the transport's `ClientSession`, the registry's `LocalSession` and the connection's server."""

    __slots__ = ("_in_flight", "_mark", "_queue", "_task")

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
        self._in_flight: set[asyncio.Task[None]] | None = None  # publications on their way to the broker
        self._mark = mark

    # From the transport

    def receive(self, message: bytes | str) -> None:
        """Take one whole message: run its commands after those that wait already. Never raises."""
        state = self.state
        if state.phase is CLOSED:
            return
        if state.wire.is_one_way and (state.phase is not Phase.NEW or self._queue is not None):
            self._pass_over()  # it has sent the one command that it may
            return
        mark = self._mark
        mark.journal.states[mark.at] |= MESSAGE  # `mark.begin`: this, and `_run`, is what each message costs
        try:
            received = self.dialect.decode(message)
        except BadMessage as error:
            log(logger, logging.DEBUG, "< bad message", connection=self.connection_id, reason=error)
            self.finish(codes.PROTOCOL)
        else:
            self._queue_up(received)
        if self._task is None:  # else until that is done
            mark.journal.states[mark.at] &= ~MESSAGE

    def take(self, commands: Sequence[Any]) -> None:
        """
        Run commands after those that wait already, as `receive` does: for a wire protocol that has decoded them, since
        one message may be of several sessions.
        """
        if self.state.phase is Phase.CLOSED:
            return
        self._mark.begin(MESSAGE)
        self._queue_up(commands)
        if self._task is None:  # else until that is done
            self._mark.end(MESSAGE)

    def _queue_up(self, received: Sequence[Any]) -> None:
        """
        Run commands, or put them behind those that wait. A task is made only where none runs: most sessions have
        neither a queue nor a task.
        """
        queue = self._queue
        if queue is not None and len(queue) > QUEUE_END:  # a single message may hold more
            metering.over(self.services, self.state, "commands", "too many wait for their turn")
            self.finish(codes.TOO_MANY_REQUESTS_END)
            return
        for command in received:
            if command is None:
                self.pong()
            elif queue is None:
                queue = self._queue = deque((command,))
            else:
                queue.append(command)
        if queue is None or self.state.phase is CLOSED:
            return
        if self._task is None:
            task = self.services.begin(self._run())
            if task.done():
                return
            self._task = task
        if self._queue is not None and len(self._queue) > QUEUE_MAX:
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
        """
        Run the commands in the queue, and end when it is empty. What a command raises is handled by the dialect;
        `Disconnect` alone comes through. The queue and the task go together, so that a session is idle with neither.
        """
        queue, state = self._queue, self.state
        assert queue is not None, "a task runs what is in the queue"
        left = COMMANDS_AT_ONCE
        try:
            while queue and state.phase is not CLOSED:
                if not left:
                    left = COMMANDS_AT_ONCE
                    await asyncio.sleep(0)  # other clients have their turn
                    continue
                left -= 1
                command = queue.popleft()
                in_flight = self._in_flight
                if in_flight and (len(in_flight) >= QUEUE_MAX or not self.dialect.is_publication(command)):
                    await asyncio.wait(in_flight, return_when=self.dialect.waits_for)
                try:
                    await self.dialect.execute(self, command)
                except Disconnect as end:
                    self.end(end.code, end.reason)
                if len(queue) == QUEUE_MAX and self._idle is None:
                    self.transport.resume_reading()
        finally:
            self._queue = self._task = None
            mark = self._mark
            mark.journal.states[mark.at] &= ~MESSAGE  # `mark.end`
            if self._idle is not None:
                self._idle.set()

    def publish_concurrently(self, work: Coroutine[Any, Any, None]) -> None:
        """
        Run a publication, and its answer, while the next command runs: `may_publish_concurrently` allowed it. Or the
        handler of an event, which nothing else has to wait for.
        """
        assert self._queue is not None, "a command publishes, and its task is still running"
        task = self.services.begin(work)
        if not task.done():
            if self._in_flight is None:
                self._in_flight = set()
            self._in_flight.add(task)
            task.add_done_callback(self._published)

    def _published(self, task: asyncio.Task[None]) -> None:
        """Forget a publication that is done. It may be what `quiesce` waits for."""
        assert self._in_flight is not None, "the task is in it"
        self._in_flight.discard(task)
        if self._idle is not None:
            self._idle.set()

    @property
    def may_publish_concurrently(self) -> bool:
        """
        Whether several publications may be in flight: the broker keeps their order, and another command
        waits. A command that begins at once cannot know yet whether one will.
        """
        return self.services.hub.broker.in_order and bool(
            self.services.begin.is_eager or self._queue or self._in_flight
        )

    # What happens to it

    def _move(self, event: Event) -> None:
        """Move to the next phase by the table of state.py, and log it."""
        before = self.state.move(event)
        if logger.isEnabledFor(logging.DEBUG):  # else the values are not worth having
            log(
                logger,
                logging.DEBUG,
                "= session state",
                connection=self.connection_id,
                before=before.value,
                after=self.state.phase.value,
            )

    def begin_connecting(self) -> None:
        """Take the first command. The caller must `admit` or `refuse` the client."""
        self._move(Event.CONNECT)

    def admit(self) -> None:
        """Take the client in: from here on it is pinged, and everything is allowed that it may do."""
        assert not self.state.granted, "what the server gave was entered before the client is admitted"
        self._move(Event.ADMITTED)
        self.services.registry.admit(self)
        self.connection.headers = self.connection.emulated_headers = EMPTY
        share = random.uniform(0.5, 1)  # noqa: S311 - spreads pings, keeps no secret
        self.state.liveness = admitted(self.services.wheel.now, self.services.limits, share)
        self.arm_liveness()
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
        if self._close(code, self.dialect.reason_of(code, reason)):
            if not self.transport.has_close_frame:
                self.transport.write(self.dialect.disconnected(code, reason))
            self.transport.close(code, reason)

    def _close(self, code: int, reason: str) -> bool:
        """End everything but the socket, once. Return whether it was this call that did."""
        if self.state.phase is CLOSED:
            return False
        was_admitted = self.is_admitted
        self._move(Event.CLOSED)
        self.disarm()
        if self._task is not None and not is_calling(self._task):
            self._task.cancel()
        may_return = codes.comes_back(code)
        for room in list(self.state.subscriptions):
            self.leave(room, may_return=may_return)
        assert not self.state.subscriptions, "nothing is written to a client whose connection has ended"
        self.services.registry.discard(self)
        if was_admitted and self.services.hub.departures.ends.are_handled:
            connection, application = self.connection, self.services.application

            def notify() -> Awaitable[None]:
                return application.disconnect(connection, code, reason)

            self.services.hub.departures.ends.ended(connection.user, connection.id, notify, may_return=may_return)
        return True

    def log_refusal(self, what: str, why: object, **fields: Any) -> None:
        """Log what a client does not get to know in full. `what` is refused, `fields` are more of the line."""
        log(logger, logging.INFO, f"x {what} refused", connection=self.connection_id, **fields, reason=why)

    # What the server sends

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that serves the connection."""
        return self.services.event_loop

    def send_message(self, data: bytes) -> None:
        """Send a JSON text that belongs to no room."""
        self.write(self.dialect.message(data))

    # Moving

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is under way."""
        return self._task is None and self._queue is None and not self._in_flight and not self.entering

    def quiesce_now(self) -> bool:
        """Make the session idle where nothing runs, as nearly always; return whether it is. Else `quiesce` waits."""
        if not self.is_idle:
            return False
        self.transport.pause_reading()
        return True

    async def quiesce(self, within_s: float) -> bool:
        """
        Make the session idle: read no more from the client, and let end what runs. The caller then exports it in
        the same turn, or calls `resume`.

        Args:
            within_s: how long that may take.

        Returns:
            Whether it is idle. Where not, it goes on as before: the caller closes it with a code to reconnect, or
            tries again.
        """
        assert self._idle is None, "one caller at a time makes a session idle"
        self.transport.pause_reading()
        self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(within_s):
                while not self.is_idle:
                    await self._idle.wait()
                    self._idle.clear()
        except TimeoutError:
            log(logger, logging.INFO, "- session not idle", **self.state.log_fields, within_s=within_s)
        finally:
            self._idle = None
        if not self.is_idle:
            self.resume()
        return self.is_idle

    def resume(self) -> None:
        """Read on from the client: the session does not move."""
        if self._queue is None or len(self._queue) <= QUEUE_MAX:  # else that resumes which makes it shorter
            self.transport.resume_reading()

    def export(self) -> bytes:
        """
        Return everything that the session is, as bytes: `restore` makes a session of them. It must be open and
        idle. It goes on here until `drop`, which comes in the same turn: what happens between is not in the bytes.

        What is published after `drop` and before `restore` has entered the rooms is read from the streams. In a room
        without history nothing can be read, and the client misses it. To avoid that, the worker to which the session
        moves must subscribe these rooms before the session is exported.

        Raises:
            NotPlain: something in `conn.state` or in the claims is no plain data any more. The log names the key.
            AnswerError: the same of `conn.info`.
        """
        assert self.is_idle and self.is_open, "what is under way cannot move"  # noqa: PT018
        state, connection = self.state, self.connection
        assert state.phase is not Phase.CONNECTING, "a client is admitted by a command that runs"
        try:
            packed, info = packed_state(connection), info_bytes(connection)
            check(state.identity.claims, "conn.claims")
        except (NotPlain, AnswerError) as error:
            log(logger, logging.WARNING, "session cannot move", **state.log_fields, reason=error)
            raise
        state.state, state.info = packed, info
        state.headers, state.emulated_headers = dict(connection.headers), dict(connection.emulated_headers)
        hub = self.services.hub
        for subscription in list(state.subscriptions.values()):  # what is written now may end one: too many keys wait
            local = hub.registry.rooms[subscription.room]
            subscription.position, subscription.base = hub.delivery.export_position(local, self)
        return encode(state)

    def drop(self) -> None:
        """
        Forget the session, which goes on elsewhere: rooms, timers and registry let go of it. Nothing is written to the
        client, and others are not notified. Whatever still holds the session does nothing with it: a notification that
        this process wrote would stand in the middle of one of the other's, and a room that it left is left there, too.
        """
        assert self.is_idle, "a command that runs would answer twice"
        self.disarm()
        hub, identity = self.services.hub, self.state.identity
        for room, subscription in self.state.subscriptions.items():
            hub.leave(room, self, info=None)
            if subscription.shown is not None:
                # The worker to which it moves takes the membership over.
                hub.departures.release(room, self.declared(room), subscription.shown)
        if self.is_admitted:
            hub.departures.ends.release(identity.user, identity.id)
        self.services.registry.discard(self)
        self.state.subscriptions.clear()
        self.state.granted = NOTHING
        self.state.phase = Phase.CLOSED
        detach(self.connection)
