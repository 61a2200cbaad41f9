"""
One Engine.IO connection, whatever carries it: long polling, a WebSocket, or first the one and then the other.

Runs in the worker. It owns no task, and one timer: its heartbeat. What it carries goes to an `EngineUser`, which knows
neither polls nor probes. It never reads a request and never speaks HTTP: polling.py and upgrade.py do.

Theory of operation
===================

**One form of everything written.** `write` takes WebSocket frames. A connection on a WebSocket writes them as they are.
A connection that polls keeps them (`Polling`), and a poll takes them as its body. So a room encodes an event once, and
an upgrade sends what waits without a change.

**States.**

    OPEN     the user gets messages, and may write
    ENDING   the user was notified; a client that polls has not fetched the last packets yet, and has `LINGER_S` for it
    CLOSED   nothing knows it any more; its sid is unknown

`close` goes to ENDING where a client polls and holds no poll, else to CLOSED. `lost` goes to CLOSED at once: what the
client did, or did not do, leaves no time. Either notifies the user exactly once, within the call.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from realtime import codes
from realtime.log_lines import log
from realtime.protocol.socketio.base import (
    FORCED_CLOSE,
    PARSE_ERROR,
    SHUTTING_DOWN,
    TRANSPORT_CLOSE,
    TRANSPORT_ERROR,
    EngineLimits,
    EngineUser,
    Polling,
)
from realtime.protocol.socketio.endpoints import POLLING, WEBSOCKET
from realtime.protocol.socketio.heartbeat import Beating, Heartbeats
from realtime.protocol.socketio.packets import CLOSE, NOOP, BadPacket, EngineType, decode_engine
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Handshake, Transport
from realtime.transport.client_log import SLOW_CLIENT
from realtime.transport.left_behind import fallen_behind, note

NORMAL: Final = (1000, "")  # how a WebSocket is closed; clients look at no code of it
TOO_BIG: Final = 1009  # a message too big (RFC 6455, section 7.4.1)
LINGER_S: Final = 30.0  # for a client that polls to fetch the last packets; as the reference server has it

logger = logging.getLogger("realtime.socketio")


class Engines:
    """
    All Engine.IO connections of a worker, by their ids.

    Attributes:
        connections: those whose sid is known, also while they are ENDING.
        slow: connections that were closed because more waited for a poll than may.
        too_big: POST requests that were too large.
    """

    def __init__(self, limits: EngineLimits, wheel: TimerWheel) -> None:
        """To be made on the event loop that serves the connections. `wheel`: turned by that loop's clock."""
        self.limits: Final = limits
        self.wheel: Final = wheel
        self.loop: Final = asyncio.get_running_loop()
        self.connections: Final[dict[str, EngineConnection]] = {}
        self.slow = self.too_big = 0
        self.heartbeats: Final = Heartbeats(limits, wheel)

    def transport_of(self, sid: str) -> str | None:
        """Return which transport the session with this id uses; None where there is none. Is `endpoints.Find`."""
        connection = self.connections.get(sid)
        return None if connection is None else connection.transport

    def open_packet(self, sid: str, upgrades: list[str]) -> bytes:
        """Return the packet that answers a handshake. Clients want exactly these five keys."""
        limits = self.limits
        about = {
            "sid": sid,
            "upgrades": upgrades,
            "pingInterval": round(limits.ping_s * 1000),
            "pingTimeout": round(limits.pong_s * 1000),
            "maxPayload": limits.message_bytes,
        }
        return b"0" + msgspec.json.encode(about)


class EngineState(enum.Enum):
    """Of a connection; the head of this file has the transitions."""

    OPEN = "open"
    ENDING = "ending"
    CLOSED = "closed"


class EngineConnection(Beating):
    """
    One Engine.IO connection. On a WebSocket it is the socket's `ClientSession`.

    Attributes:
        sid: its id, a secret: with it anybody can speak for the client.
        handshake: what is known of the client since its first request.
        user: what its messages are for. It is there before the first one comes.
        polling: what it is while it polls; None on a WebSocket.
        websocket: what it writes to; None while it polls.
        reason: why it ended.
    """

    __slots__ = (
        "__weakref__",
        "_engines",
        "_paused",
        "_state",
        "handshake",
        "polling",
        "reason",
        "sid",
        "user",
        "websocket",
    )

    def __init__(self, engines: Engines, sid: str, handshake: Handshake, websocket: Transport | None) -> None:
        """Begin a connection. The caller sets `user` next, in the same turn."""
        assert sid not in engines.connections, "an id is made once"
        self.sid: Final = sid
        self.handshake: Final = handshake
        self.user: EngineUser
        self.websocket = websocket
        self.polling = Polling() if websocket is None else None
        self.reason: str | None = None
        self._engines = engines
        self._state = EngineState.OPEN
        self._paused: asyncio.Event | bool = False  # an event where something waits for the end of it
        super().__init__(engines.heartbeats)
        engines.connections[sid] = self

    def __repr__(self) -> str:
        return f"<engine {self.handshake.address} {self.transport} {self._state.value}>"

    @property
    def transport(self) -> str:
        """The transport that is used now, as clients name it."""
        return POLLING if self.websocket is None else WEBSOCKET

    @property
    def message_bytes(self) -> int:
        """How large a message may be."""
        return self._engines.limits.message_bytes

    @property
    def is_open(self) -> bool:
        """Whether its user gets messages and may write."""
        return self._state is EngineState.OPEN

    @property
    def log_fields(self) -> Mapping[str, Any]:
        """The client, as fields of a log line. The sid is in none."""
        return {"address": self.handshake.address, "protocol": "socketio"}

    # What the user does

    def write(self, frames: bytes) -> None:
        """
        Send WebSocket frames, each one Engine.IO packet. Never blocks; does nothing once the connection has ended. A
        client that takes too little is closed as slow.

        The frames of a packet with attachments come in one call. As with `Transport.write`, the caller looks into
        `left_behind.fallen_behind` afterwards; `send` does that.
        """
        if self.websocket is not None:
            self.websocket.write(frames)
        elif self._state is EngineState.OPEN and self.polling is not None:
            self.polling.put(frames)
            if self.polling.size > self._engines.limits.outbound_bytes and self.polling.held is None:
                self._engines.slow += 1
                log(logger, logging.WARNING, SLOW_CLIENT, **self.log_fields, waiting_bytes=self.polling.size)
                # Not within this call: the user may be writing to all members of a room.
                self._engines.loop.call_soon(self.lost, TRANSPORT_ERROR)
                self.polling.waiting.clear()
                self.polling.size = 0

    def send(self, frames: bytes) -> None:
        """As `write`, for a caller that writes to this connection alone: nothing has to follow."""
        self.write(frames)
        if fallen_behind:
            note(frames)

    @property
    def takes_now(self) -> bool:
        """Whether what is written now leaves at once: what is volatile is dropped elsewise."""
        if self._state is not EngineState.OPEN:
            return False
        if self.websocket is not None:
            return self.websocket.is_congested_since() is None
        return self.polling is not None and self.polling.held is not None

    def close(self, reason: str) -> None:
        """Close in an orderly way: what was written is sent before. The user is notified now. Harmless when ended."""
        if not self._end(reason):
            return
        polling = self.polling
        if polling is None:
            self._forget()
            return
        polling.put(CLOSE)
        self.linger()

    def pause_reading(self) -> None:
        """Give the user no further message, so that the client waits: in its kernel, or for the answer to its POST."""
        if not self._paused:
            self._paused = True
            if self.websocket is not None:
                self.websocket.pause_reading()

    def resume_reading(self) -> None:
        """End `pause_reading`."""
        paused, self._paused = self._paused, False
        if isinstance(paused, asyncio.Event):
            paused.set()
        if paused and self.websocket is not None:
            self.websocket.resume_reading()

    def is_congested_since(self) -> float | None:
        """See `Transport`. What waits for a poll is no congestion: the client fetches it when it likes."""
        return None if self.websocket is None else self.websocket.is_congested_since()

    def buffered(self) -> int:
        """Return how many bytes wait in this process."""
        if self.websocket is not None:
            return self.websocket.buffered()
        return 0 if self.polling is None else self.polling.size

    def acknowledged_bytes(self) -> int:
        """See `Transport`."""
        return 0 if self.websocket is None else self.websocket.acknowledged_bytes()

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport`."""
        if self.websocket is not None:
            self.websocket.limit_unsent(is_limited)

    # What the client does

    def receive(self, message: bytes | str) -> None:
        """Take one frame of the WebSocket. See `ClientSession`."""
        if self._state is not EngineState.OPEN:
            return
        if isinstance(message, bytes):
            self.user.message(message)
        elif message[:1] == "4":
            self.user.message(message[1:])
        else:
            try:
                self.take(*decode_engine(message))
            except BadPacket as error:
                self.fail(error)

    def take(self, kind: EngineType, data: str | bytes) -> None:
        """Take one packet of the client. Does nothing once the connection has ended."""
        if self._state is not EngineState.OPEN:
            return
        match kind:
            case EngineType.MESSAGE:
                self.user.message(data)
            case EngineType.PONG:
                self._take_pong()
            case EngineType.CLOSE:
                self._closed_by_client()
            case EngineType.PING:  # in protocol 4 the server pings
                self.lost(TRANSPORT_ERROR)
            case EngineType.OPEN | EngineType.UPGRADE | EngineType.NOOP:
                pass  # without a meaning here, as in the reference server

    def fail(self, error: BadPacket) -> None:
        """End the connection of a client that sent what no client sends."""
        log(logger, logging.INFO, "x bad packet", **self.log_fields, reason=error)
        self.lost(PARSE_ERROR)

    def _closed_by_client(self) -> None:
        """End by a packet of the client. The poll that it holds, or sends at the same time, is answered."""
        if self._end(TRANSPORT_CLOSE):
            if self.polling is None:
                self._forget()
            else:
                self.polling.put(NOOP)
                self.linger()

    def linger(self) -> None:
        """Give a client that polls time to fetch the last packets; none where a poll is there that takes them."""
        assert self.polling is not None, "only a client that polls has anything to fetch"
        if self.polling.held is not None:
            self._forget()
        else:
            self._timer = self._engines.wheel.after(LINGER_S, EngineConnection._forget, self)

    def lost(self, reason: str) -> None:
        """End at once. A poll that is held is answered, and later requests are of an unknown session."""
        if self._end(reason) and self.polling is not None and self.polling.held is not None:
            self.polling.put(CLOSE)
        if self._state is not EngineState.CLOSED:
            self._forget()

    def _end(self, reason: str) -> bool:
        """Notify the user of the end, once. Return whether it was this call that did."""
        if self._state is not EngineState.OPEN:
            return False
        self._state = EngineState.ENDING
        self.reason = reason
        self._timer.cancel()
        log(logger, logging.DEBUG, "x engine closed", **self.log_fields, reason=reason)
        self.user.closed(reason)
        return True

    def abandon(self) -> None:
        """Forget a connection for which no user could be made."""
        self._state = EngineState.CLOSED
        self._timer.cancel()
        del self._engines.connections[self.sid]

    def _forget(self) -> None:
        """Let go of everything. From here on the sid is unknown."""
        assert self._state is EngineState.ENDING, "the user is notified before, and the connection ends once"
        self._state = EngineState.CLOSED
        self._timer.cancel()
        self._engines.connections.pop(self.sid, None)
        self.resume_reading()
        if self.websocket is not None:
            self.websocket.close(*NORMAL)
        if self.polling is not None and self.polling.probe is not None:
            self.polling.probe.end(*NORMAL)

    def fetched(self) -> None:
        """Learn that a poll took everything. A connection that was only waiting for that is forgotten."""
        if self._state is EngineState.ENDING:
            self._forget()

    @property
    def is_paused(self) -> bool:
        """Whether the user reads nothing."""
        return bool(self._paused)

    async def resumed(self) -> None:
        """Return once the user reads on, or the connection has ended."""
        while self._paused:
            if not isinstance(self._paused, asyncio.Event):
                self._paused = asyncio.Event()
            await self._paused.wait()

    def upgrade(self, websocket: Transport) -> None:
        """Go on over a WebSocket. No poll is held, and none is being answered. What waits is sent first, in order."""
        polling = self.polling
        assert polling is not None, "a connection is upgraded once"
        assert polling.held is None, "what a poll took is written before"
        self.polling, self.websocket = None, websocket
        if polling.waiting:
            self.send(polling.take())
        if self._paused:
            websocket.pause_reading()
        self.user.upgraded(self.transport)

    # As the `ClientSession` of a WebSocket

    is_patient = False  # a client that takes too little is closed as slow

    def end(self, code: int, reason: str) -> None:
        """Close so that the client comes back. A poll that is held is refused, for a close packet keeps some away."""
        if self.websocket is not None and self._end(SHUTTING_DOWN if code == codes.SHUTDOWN.code else FORCED_CLOSE):
            self._state = EngineState.CLOSED
            self._engines.connections.pop(self.sid, None)
            self.websocket.close(code, reason)
        elif self.websocket is None:
            self._end(SHUTTING_DOWN)
            if self._state is not EngineState.CLOSED:
                self._forget()
            if self.polling is not None and self.polling.held is not None:
                self.polling.held.wake()

    def pong_received(self) -> None:
        """Pongs of WebSockets are not the heartbeat."""

    def drained(self) -> None:
        """See `ClientSession`."""
        if self._state is EngineState.OPEN:
            self.user.drained()

    def connection_lost(self, code: int, reason: str) -> None:
        """Learn that the WebSocket is gone. See `ClientSession`."""
        if code == codes.SHUTDOWN.code:
            self.lost(SHUTTING_DOWN)
        else:
            self.lost(TRANSPORT_ERROR if code == TOO_BIG else TRANSPORT_CLOSE)
