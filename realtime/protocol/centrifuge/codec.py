"""
What a session needs of an encoding, whichever it is.

Pure: shapes only. `json` and `protobuf` are two modules with these names, and `uni` (one-way clients) is a third. A
codec knows no socket and no session; one message in is a list of commands, and everything that goes out is one whole
message for the transport to frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from realtime.broker.base import ClientInfo, ConnectionId, RawPublication, Room
from realtime.codes import ErrorCode
from realtime.errors import ClientError
from realtime.protocol.centrifuge.messages import Command, Push, Result
from realtime.protocol.shapes import Pub


class BadFrame(Exception):
    """A message that no client of this protocol sends. The text is for the log."""


class Codec(Protocol):
    """One encoding of the protocol."""

    @property
    def NAME(self) -> str:  # noqa: N802 - modules implement this, and it is a constant there
        """The name of the encoding: a session that moves finds its codec by it."""

    @property
    def IS_BINARY(self) -> bool:  # noqa: N802
        """Whether it goes in binary frames, and payloads may be any bytes."""

    @property
    def PING(self) -> bytes:  # noqa: N802
        """The empty answer, which a client answers with an empty command (section 5.2)."""

    @property
    def BETWEEN(self) -> bytes | None:  # noqa: N802
        """What stands between two answers or pushes in one message; None where there can be but one."""

    def decode(self, message: bytes | str, /) -> list[Command]:
        """
        Return the commands of one message, in order.

        Raises:
            BadFrame: nothing in it, malformed, or a field of another type than the schema's.
        """

    def reply(self, id: int, method: str, result: Result, /) -> bytes:
        """Return the answer to command `id`."""

    def error_reply(self, id: int, error: ClientError | ErrorCode, /) -> bytes:
        """Return the answer to a command that failed."""

    def presence_entries(self, members: Mapping[ConnectionId, ClientInfo], /) -> bytes:
        """Return members as they stand in the answer to `presence`; nothing for no members."""

    def presence_reply(self, id: int, entries: Sequence[bytes], /) -> bytes:
        """Return the answer to `presence`, of what `presence_entries` returned."""

    def push(self, push: Push, /) -> bytes:
        """Return a push of a rare kind. What is written to every member of a room has functions of its own below."""

    def push_publication(self, room: Room, publication: RawPublication, /) -> bytes:
        """Return the push of a publication."""

    def push_delta(self, room: Room, publication: RawPublication, delta: bytes | None, /) -> bytes:
        """Return the push for a client with deltas: of `delta` against the publication before, or of the whole."""

    def push_join(self, room: Room, info: ClientInfo, /) -> bytes:
        """Return the push of a join."""

    def push_leave(self, room: Room, info: ClientInfo, /) -> bytes:
        """Return the push of a leave."""

    def pub_of(self, publication: RawPublication, /, *, delta: bool = False) -> Pub:
        """Return a publication as it stands in a list of them; `delta`: for a client that negotiated deltas."""

    def payload(self, data: bytes, /) -> bytes:
        """Return a payload as it can stand in a message. JSON loses its raw newlines, which would end the message."""
