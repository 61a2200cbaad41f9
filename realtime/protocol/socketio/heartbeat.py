"""
The heartbeat of Engine.IO connections: the server pings, and a client that does not answer in time is gone.

Runs in the worker, as a part of each connection. It owns the connection's one timer, and knows no packet but the ping.

A ping is due `ping_s` after the handshake and after each pong. Only a pong answers it. The deadline is `pong_s` behind
the time at which the ping was due, exactly: clients and their tests count so. The timer wheel is late by up to a tick.
So it wakes a tick early, and a timer of the loop takes over for the rest. Where an interval is of few ticks, both are
timers of the loop. While the user reads nothing, a pong would not be read either, and the deadline moves.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Final

from realtime.protocol.socketio.base import PING_TIMEOUT, Cancellable, EngineLimits
from realtime.protocol.socketio.packets import PING
from realtime.timing.timer_wheel import TICK_S, TimerWheel

SHORT_S: Final = 8 * TICK_S  # where an interval is below this, a tick is too much
PAUSED_S: Final = 1.0  # until another look at a client that cannot be heard


class Heartbeats:
    """What the heartbeats of a worker's connections share: the timers, and the two intervals."""

    def __init__(self, limits: EngineLimits, wheel: TimerWheel) -> None:
        """To be made on the event loop by whose clock `wheel` is turned."""
        self.wheel: Final = wheel
        self.loop: Final = asyncio.get_running_loop()
        self.ping_s: Final = limits.ping_s
        self.pong_s: Final = limits.pong_s
        self._is_short = min(limits.ping_s, limits.pong_s) < SHORT_S

    def ping_at(self, due_s: float, heart: Beating) -> Cancellable:
        """Schedule a ping; it may be a tick late."""
        if self._is_short:
            return self.loop.call_at(due_s, Beating.beat, heart)
        return self.wheel.at(due_s, Beating.beat, heart)

    def expire_at(self, due_s: float, heart: Beating) -> Cancellable:
        """Schedule the end of the time for a pong. It is never late but by what the loop itself is."""
        if self._is_short:
            return self.loop.call_at(due_s, Beating.beat, heart)
        return self.wheel.at(due_s - 2 * TICK_S, Beating.approach, heart)


class Beating:
    """A connection's heartbeat. The connection derives from this class."""

    __slots__ = ("_due_s", "_heartbeats", "_is_pinged", "_timer")

    def __init__(self, heartbeats: Heartbeats) -> None:
        """Begin at the handshake."""
        self._heartbeats = heartbeats
        self._is_pinged = False  # and has not answered
        self._due_s = heartbeats.loop.time() + heartbeats.ping_s
        self._timer: Cancellable = heartbeats.ping_at(self._due_s, self)

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the client is to be pinged."""

    @property
    @abstractmethod
    def is_paused(self) -> bool:
        """Whether what the client sends is not read, by our own wish."""

    @abstractmethod
    def send(self, frames: bytes) -> None:
        """Send WebSocket frames."""

    @abstractmethod
    def lost(self, reason: str) -> None:
        """End the connection at once."""

    def beat(self) -> None:
        """Ping, or end the connection of a client that did not answer a ping. The timer calls this."""
        if not self.is_open:
            return
        beats = self._heartbeats
        now_s = beats.loop.time()
        if not self._is_pinged:
            self._is_pinged = True
            self._due_s = max(self._due_s, now_s - TICK_S) + beats.pong_s
            self._timer = beats.expire_at(self._due_s, self)
            self.send(PING)
        elif self.is_paused or now_s - self._due_s > TICK_S:
            # What the client sent was not read: by our user's wish, or because the loop stood still.
            self._due_s = now_s + (PAUSED_S if self.is_paused else TICK_S)
            self._timer = beats.loop.call_at(self._due_s, Beating.beat, self)
        else:
            self.lost(PING_TIMEOUT)

    def approach(self) -> None:
        """Have the loop's own timer end the time for a pong: it is exact. The wheel calls this a tick before."""
        if self.is_open:
            self._timer = self._heartbeats.loop.call_at(self._due_s, Beating.beat, self)

    def _take_pong(self) -> None:
        """Take a pong. One that was not asked for changes nothing: a client must not put off its pings."""
        if self._is_pinged:
            self._is_pinged = False
            self._timer.cancel()
            self._due_s = self._heartbeats.loop.time() + self._heartbeats.ping_s
            self._timer = self._heartbeats.ping_at(self._due_s, self)
