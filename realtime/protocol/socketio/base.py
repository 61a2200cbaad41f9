"""
What Engine.IO connections, their users, their polls and their upgrades are to one another.

Runs in the worker. Shapes, limits and the words for an end. Nothing here reads a packet, and only `Polling` does
anything: it keeps what no poll has taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from realtime.settings import Settings
from realtime.transport.asgi import Scope
from realtime.transport.base import ClientSession

# Why a connection ended, in the words of the reference server.
TRANSPORT_CLOSE: Final = "transport close"
TRANSPORT_ERROR: Final = "transport error"
PING_TIMEOUT: Final = "ping timeout"
PARSE_ERROR: Final = "parse error"
FORCED_CLOSE: Final = "forced close"
SHUTTING_DOWN: Final = "server shutting down"


class EngineUser(Protocol):
    """What an Engine.IO connection carries messages for. It is made with the connection."""

    def message(self, data: str | bytes) -> None:
        """Take one message. Never raises on what a client may send; it may close the connection."""

    def upgraded(self, transport: str) -> None:
        """Learn that the client has another transport from now on: its name."""

    def drained(self) -> None:
        """Learn that the client, which had not taken everything, has caught up."""

    def closed(self, reason: str) -> None:
        """
        Learn that the connection has ended, once. Nothing is written from now on. It comes within `close` too, so a
        user that closes has to expect it there.
        """


class Cancellable(Protocol):
    """A timer, of the wheel or of the loop."""

    def cancel(self) -> None:
        """Have it never fire. Harmless when it did."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Times and sizes of Engine.IO connections."""

    ping_s: float = Settings.socketio_ping_s
    """Between a pong and the next ping."""
    pong_s: float = Settings.socketio_ping_timeout_s
    """From a ping to its pong."""
    message_bytes: int = Settings.message_bytes
    """Of one POST, and of one message: what the handshake announces as `maxPayload`."""
    outbound_bytes: int = Settings.outbound_bytes
    """That may wait for a client that polls."""

    @classmethod
    def from_settings(cls, settings: Settings) -> EngineLimits:
        """Return the limits that are set."""
        return cls(
            settings.socketio_ping_s,
            settings.socketio_ping_timeout_s,
            settings.message_bytes,
            settings.outbound_bytes,
        )


class HeldPoll(Protocol):
    """A poll that waits for packets (`polling.Poll`)."""

    def wake(self) -> None:
        """Answer with what waits, in a later turn of the loop. Harmless when it is being answered."""


class UpgradingTransport(Protocol):
    """A WebSocket whose session can be another one (`transport.websocket.WebSocketTransport`)."""

    def hand_over(self, session: ClientSession) -> None:
        """Let another session have the connection from the next message on."""


@dataclass(slots=True)
class Polling:
    """
    What a connection is while it polls.

    Attributes:
        waiting: frames that no poll has taken.
        size: their bytes.
        held: the poll that is there now, until its answer was written.
        post: the request whose body is read now.
        probe: what tries a WebSocket now.
        is_probed: the WebSocket was found good: polls are to end soon.
        on_answered: to be called once the poll that is being answered was.
    """

    waiting: list[bytes] = field(default_factory=list)
    size: int = 0
    held: HeldPoll | None = None
    post: Scope | None = None
    probe: ClientSession | None = None
    is_probed: bool = False
    on_answered: Callable[[], None] | None = None

    def put(self, frames: bytes) -> None:
        """Keep frames, and wake the poll that waits for some."""
        self.waiting.append(frames)
        self.size += len(frames)
        if self.held is not None:
            self.held.wake()

    def take(self) -> bytes:
        """Take out everything that waits."""
        frames = self.waiting[0] if len(self.waiting) == 1 else b"".join(self.waiting)
        self.waiting.clear()
        self.size = 0
        return frames

    def put_back(self, frames: bytes) -> None:
        """Have frames wait in front of all others: they did not fit."""
        if frames:
            self.waiting.insert(0, frames)
            self.size += len(frames)
