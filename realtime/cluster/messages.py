"""
The messages that workers send to each other: plain data in msgpack, one structure for each kind.

Sent and received by workers of all machines, perhaps of two releases during a deploy: a field is added at the end, with
a default, and a tag keeps its meaning (realtime/broker/formats.py has the whole rule). Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from realtime.auth.revocation import Revocation


class EmulatedInput(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """What a client sent beside its stream, for the worker that has the stream. The answer goes to `asker`."""

    stream_id: str
    data: bytes
    asker: str
    number: int


class InputReceived(msgspec.Struct, frozen=True, tag="k", array_like=True):
    """The answer to `EmulatedInput`: it has reached its session, or there is no such session."""

    number: int
    is_here: bool


class DisconnectUser(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """Close a user's connections: all, or the one `connection_id`, or the one of `stream_id`; but none of `keep`."""

    user: str
    connection_id: str = ""
    keep: tuple[str, ...] = ()
    code: int = 3503
    reason: str = "force disconnect"
    stream_id: str = ""


class SubscribeUser(msgspec.Struct, frozen=True, tag="s", array_like=True):
    """
    Subscribe a user's connections to a room: until `expire_at_s` (Unix time; None: until they end), shown to others
    with `info`, notified with `data`, and with what was published after `since`, an epoch and an offset.
    """

    user: str
    room: str
    connection_id: str = ""
    stream_id: str = ""
    expire_at_s: float | None = None
    info: bytes | None = None
    data: bytes | None = None
    since: tuple[str, int] | None = None


class UnsubscribeUser(msgspec.Struct, frozen=True, tag="u", array_like=True):
    """End the subscriptions of a user's connections to a room."""

    user: str
    room: str
    connection_id: str = ""
    stream_id: str = ""


class RefreshUser(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """Have a user's connections expire at another time: Unix seconds, 0 for now and None for never."""

    user: str
    connection_id: str = ""
    expire_at_s: float | None = None
    stream_id: str = ""


class Revoke(msgspec.Struct, frozen=True, tag="v", array_like=True):
    """Refuse tokens from now on."""

    revocation: Revocation


class SurveyRequest(msgspec.Struct, frozen=True, tag="q", array_like=True):
    """Ask every worker what it serves; the answer goes to `asker`. With `user`: the connections of that user."""

    asker: str
    number: int
    user: str | None = None


class UserConnection(msgspec.Struct, frozen=True, array_like=True):
    """One connection of a user."""

    connection_id: str
    address: str
    rooms: list[str]
    transport: str = ""
    protocol: str = ""
    user: str = ""


class SurveyReply(msgspec.Struct, frozen=True, tag="t", array_like=True):
    """What one worker serves."""

    number: int
    worker: str
    node: str
    slot: int
    since_s: float
    clients: int = 0
    users: int = 0
    rooms: dict[str, int] = {}
    places: list[UserConnection] = []
    release: str = ""  # of the worker; empty from one of 0.1


class Group(msgspec.Struct, frozen=True, array_like=True):
    """
    Connections of a namespace: those that are in any of `rooms`, by the names that the application uses, or have it as
    their id; all where there is none. Those in `excluded` are left out.
    """

    namespace: str
    rooms: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class EmitEvent(msgspec.Struct, frozen=True, tag="m", array_like=True):
    """Send an event (`session/events.py`) to the connections of a group."""

    group: Group
    event: bytes
    is_volatile: bool = False


class MoveGroup(msgspec.Struct, frozen=True, tag="w", array_like=True):
    """Put the connections of a group into rooms, and take them out of others."""

    group: Group
    enters: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


class EndGroup(msgspec.Struct, frozen=True, tag="x", array_like=True):
    """Close the connections of a group."""

    group: Group
    code: int
    reason: str


class FindGroup(msgspec.Struct, frozen=True, tag="f", array_like=True):
    """Ask every worker for its connections of a group; the answer goes to `asker`."""

    asker: str
    number: int
    group: Group


class FoundGroup(msgspec.Struct, frozen=True, tag="g", array_like=True):
    """The connections of a group that one worker has."""

    number: int
    worker: str
    node: str
    slot: int
    places: list[UserConnection]


class CallGroup(msgspec.Struct, frozen=True, tag="c", array_like=True):
    """
    Send an event to the connections of a group, and collect what they acknowledge with for `within_s`. The answer goes
    to `asker`.
    """

    asker: str
    number: int
    group: Group
    event: bytes
    within_s: float


class CalledGroup(msgspec.Struct, frozen=True, tag="h", array_like=True):
    """What the connections of one worker acknowledged with, by id, and which of them did not."""

    number: int
    worker: str
    answers: dict[str, bytes]
    silent: list[str]


Message: TypeAlias = (
    EmulatedInput
    | InputReceived
    | DisconnectUser
    | SubscribeUser
    | UnsubscribeUser
    | RefreshUser
    | Revoke
    | SurveyRequest
    | SurveyReply
    | EmitEvent
    | MoveGroup
    | EndGroup
    | FindGroup
    | FoundGroup
    | CallGroup
    | CalledGroup
)

decode: Final[Callable[[bytes], Message]] = msgspec.msgpack.Decoder(Message).decode
encode: Final[Callable[[Message], bytes]] = msgspec.msgpack.Encoder().encode
