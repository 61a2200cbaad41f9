"""
The deadlines of one client: it speaks in time, it answers pings, and its tokens have not expired.

Runs in the worker, on its event loop. `TimedMember` is a part of the session, between membership.py and session.py. It
decides nothing about time: the functions of state.py do. It closes a connection, or pings a client, as they say. It
never reads the clock of the loop: all times are the timer wheel's, but for those that a token gives.

**One deadline follows the other** (`state.Liveness`): first command, `on_connect`, ping, pong. `expired` says what
follows, and the wheel is set to the next. The expiry of the connection has a timer of its own, and so has that of each
subscription (subscriber.py). All are armed from due times in the state, so that they go on in another process.

**A peer that reads slowly.** The limit on unsent bytes is the transport's. In a session whose rooms all conflate, only
the latest publication of each key waits for the client. So a slow one is served as long as it acknowledges something:
its pong may be late, because the ping waits in the kernel behind what it has still to read.
"""

from __future__ import annotations

import logging
import math
import time

from realtime import codes
from realtime.log_lines import log
from realtime.session.base import Dialect, Services
from realtime.session.membership import Member
from realtime.session.state import ACT_PING, ACT_WAIT, DUE_NOTHING, DUE_PONG, Act, SessionState, expired, ponged, seen
from realtime.timing.timer_wheel import Timer
from realtime.transport.base import Transport

logger = logging.getLogger("realtime.session")


class TimedMember(Member):
    """A client that has deadlines."""

    __slots__ = ("_expiry", "_timer")

    def __init__(self, services: Services, dialect: Dialect, transport: Transport, state: SessionState) -> None:
        super().__init__(services, dialect, transport, state)
        self._timer: Timer | None = None  # of the client's next deadline
        self._expiry: Timer | None = None  # of its token

    def arm(self) -> None:
        """Set all timers from the due times."""
        assert self.is_open, "a session that has ended has no deadlines"
        self.arm_liveness()
        self._arm_expiry()
        for subscription in self.state.subscriptions.values():
            if subscription.ends_at_s is not None:
                self.arm_expiry(subscription)

    def arm_liveness(self) -> None:
        """Set the timer of the client's next deadline, in place of the one before."""
        if self._timer is not None:
            self._timer.cancel()
        liveness = self.state.liveness
        has_deadline = liveness.due is not DUE_NOTHING
        self._timer = self.services.wheel.at(liveness.at_s, TimedMember._deadline, self) if has_deadline else None

    def _arm_expiry(self) -> None:
        """Set the timer of the connection's token, in place of the one before. None means that it never expires."""
        if self._expiry is not None:
            self._expiry.cancel()
        at_s = self.state.expires_at_s
        self._expiry = None if at_s is None else self.services.wheel.at(at_s, TimedMember._expired, self)

    def disarm(self) -> None:
        """Let every timer go: the session has ended, or goes on elsewhere."""
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        if self._expiries:
            self.forget_expiries()
        assert not self._expiries, "a timer that is left would end a subscription that this session does not have"

    def _deadline(self) -> None:
        """Do what follows when the deadline has come."""
        assert self.is_open, "the timer goes when the session ends"
        state, limits, now_s = self.state, self.services.limits, self.services.wheel.now
        takes = state.liveness.due is DUE_PONG and state.liveness.awaits_pong and self.is_patient
        if takes:
            state.liveness, takes = seen(state.liveness, self.transport.acknowledged_bytes())
        state.liveness, act = expired(state.liveness, state.phase, state.wire, now_s, limits, takes=takes)
        if act is ACT_PING:
            self.write(state.wire.ping_frame or self.dialect.ping)
            self.arm_liveness()
        elif act is ACT_WAIT:
            self.arm_liveness()
        elif act is Act.CLOSE_NO_PONG:
            self.finish(codes.NO_PONG)
        elif act is Act.CLOSE_LATE:
            log(logger, logging.WARNING, "x connect timed out", **state.log_fields, within_s=limits.connect_s)
            self.finish(codes.SERVER_ERROR)
        else:
            assert act is Act.CLOSE_STALE, "no other act is left"
            self.finish(state.refusal or codes.STALE)

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

    def pong(self) -> None:
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
        """Have the connection expire at another time, and notify the client. Harmless when it has ended."""
        if not self.is_open:
            return
        self.expire_at(expire_at_s)
        self.write(self.dialect.refreshed(expire_at_s))

    def _expired(self) -> None:
        """Close the connection: its client had the grace to bring another token."""
        assert self.is_open, "the timer goes when the session ends"
        self.finish(codes.CONNECTION_EXPIRED)
