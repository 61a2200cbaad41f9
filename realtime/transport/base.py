"""
What stands between a transport and a wire protocol.

Runs in the worker. A transport turns a socket's bytes into whole messages and back (`Framing`, `Transport`). Above it
stands one `ClientSession` per connection, which turns messages into subscriptions, publications and answers. Nothing
here does anything: these are the shapes. A second wire protocol is a second `SessionFactory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from sticky.handoff.journal import NO_MARK, Mark


class Framing(Protocol):
    """How one kind of transport wraps a message. Stateless; one object serves all connections of its kind."""

    name: str
    takes_several: bool
    """Whether a message may hold several answers or pushes, as the encoding divides them."""

    def frame(self, payload: bytes) -> bytes:
        """Return the bytes that carry `payload` on the socket."""


class Transport(Protocol):
    """What a session may do with its transport."""

    framing: Framing
    has_close_frame: bool
    """Whether `close` can carry its code and reason to the client."""

    def choose_framing(self, *, binary: bool) -> None:
        """Choose the framing for an encoding that is text, or not. Comes before anything is written."""

    def write(self, data: bytes) -> None:
        """
        Send bytes that are framed already. Never blocks; does nothing once closing. Above the outbound limit the
        transport closes itself as `slow` (3008).

        The caller must look whether `left_behind.fallen_behind` is empty afterwards, and else call `note(data)`: once
        for all transports to which it has written these bytes.
        """

    def close(self, code: int, reason: str) -> None:
        """Flush, say goodbye with `code` and `reason`, close. `connection_lost` follows. Idempotent."""

    def pause_reading(self) -> None:
        """Receive no further message, so that a client which asks faster than it is answered waits in its kernel."""

    def resume_reading(self) -> None:
        """End `pause_reading`."""

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""

    def buffered(self) -> int:
        """Return how many bytes wait in this process."""

    def acknowledged_bytes(self) -> int:
        """
        Return a number that grows whenever the peer acknowledges bytes. Compare two results: one alone means nothing.
        """

    def limit_unsent(self, is_limited: bool) -> None:
        """
        Limit the bytes that the kernel holds and cannot send yet, or end that limit. With it a client gets the latest
        state, however slowly it reads; without it, the kernel holds as much as for others.
        """


class ClientSession(Protocol):
    """One client's end of a wire protocol, fed by the transport."""

    def receive(self, message: bytes | str) -> None:
        """Take one whole message. Never raises on what a peer may send."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection, and tell the client why."""

    @property
    def is_patient(self) -> bool:
        """Whether a peer that takes something, though slowly, is served on: nothing piles up for it."""

    @property
    def log_fields(self) -> Mapping[str, Any]:
        """The client, as fields of a log line: `connection`, `address`, and `user` where there is one."""

    def pong_received(self) -> None:
        """Learn that the peer sent the answer to a ping frame, asked or not (RFC 6455, section 5.5.3)."""

    def drained(self) -> None:
        """Learn that the peer, which had not taken everything, has caught up."""

    def connection_lost(self, code: int, reason: str) -> None:
        """Learn that the socket is gone. Called exactly once, and nothing follows it."""


class Handshake(Struct, frozen=True):
    """What the transport knows of a client before its first message."""

    address: str
    client_port: int = 0
    scheme: str = "http"
    path: str = "/"
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    sticky_id: str | None = None
    transport: str = "websocket"
    is_one_way: bool = False
    is_emulated: bool = False  # what the client sends comes by requests of their own
    ping_frame: bytes | None = None  # what it asks to be pinged with, in place of the protocol's own message
    mark: Mark = NO_MARK  # of what is in flight on its connection


class Parameters(Struct, frozen=True):
    """What a wire protocol has read out of the URL of a client's first request."""

    query: Mapping[str, str]
    """What is left of the query: the application's part."""
    first: bytes | None = None
    """The client's first message, where the URL itself brought it."""
    is_one_way: bool = False
    """The client only listens."""
    wants_ping_frames: bool = False
    """The client is to be pinged by frames of its WebSocket (RFC 6455, section 5.5.2)."""
    takes_compression: bool = True
    """What is written to the client may be compressed, where that is set and the client offers it."""
    refusal: str | None = None
    """Why the request cannot be served, in the words of the wire protocol; the client gets 400 with this text."""


class ParameterReader(Protocol):
    """The part of a wire protocol that reads a URL."""

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        """
        Return what the URL of a client's first request says. Never raises: a client may send any URL.

        Args:
            path: without the query, as the client sent it.
            query: decoded.
        """


class NoParameters:
    """A `ParameterReader` for a wire protocol whose clients say nothing by the URL."""

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        """Leave the whole query to the application."""
        return Parameters(query)


class SessionFactory(ParameterReader, Protocol):
    """Makes the session of a connection whose handshake is done."""

    subprotocols: Sequence[str]

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> ClientSession: ...
