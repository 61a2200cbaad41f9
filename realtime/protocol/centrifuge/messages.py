"""
The messages of the protocol, as structures.

Field names are the schema's (Centrifuge client protocol, section 3.3). Zero values are left out when encoded, except in
the fields that SDKs read without a default: those are required here and so always written. Payloads (`data`, `info`)
are `msgspec.Raw`: JSON texts that are neither parsed nor written anew. Nothing here does anything.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from realtime.protocol.shapes import HistoryResult, Info, PresenceResult, PresenceStatsResult, Pub
from realtime.session.tags import FilterNode

# What clients send

# As far as a number in JavaScript, and in Redis' Lua, is exact: no stream counts further, and a broker takes no other.
Offset = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class StreamPosition(Struct, omit_defaults=True):
    """A place in a stream. `epoch` "" is any: a client that has no position yet."""

    offset: Offset = 0
    epoch: str = ""


class SubscribeCommand(Struct):
    """
    Subscribe to a room (section 6.1). Also a value of `ConnectCommand.subs`, where it is only a position.

    `positioned`, `recoverable` and `join_leave` are wishes. The declaration of the room decides, so they are read and
    not used. Of `flag`, bit 2 has meaning here; bit 1 is for numeric ids, which this server does not give (section
    6.5). A `type` other than 0 asks for keyed rooms, which are refused (section 13).
    """

    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    data: Raw | UnsetType = UNSET
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    flag: int = 0
    type: int = 0
    tf: FilterNode | None = None


class ConnectCommand(Struct):
    """
    The first command (section 5.1).

    `subs` are positions of rooms that the server may give, and never a wish for a subscription (section 9). `name` and
    `version` are of the SDK. `headers` come from the client itself: no proxy has seen them, so they prove nothing.
    """

    token: str = ""
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeCommand] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}


class UnsubscribeCommand(Struct):
    """Leave a room (section 6.3). It succeeds also where the client is not in the room."""

    channel: str = ""


class PublishCommand(Struct):
    """Publish in a room (section 7.1). `type` is for keyed rooms, which are refused."""

    channel: str = ""
    data: Raw | UnsetType = UNSET
    type: int = 0


class PresenceCommand(Struct):
    """Request the members of a room (section 7.2)."""

    channel: str = ""


class PresenceStatsCommand(Struct):
    """Request how many members a room has, and how many users (section 7.2)."""

    channel: str = ""


class HistoryCommand(Struct):
    """
    Request a page of a stream (section 7.3). `limit` 0 asks for the position alone, and -1 for as many publications as
    one answer may have. `since` itself is not in the page.
    """

    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class SendCommand(Struct):
    """A message for the application, without an answer (section 7.4). So it is the one command that needs no id."""

    data: Raw | UnsetType = UNSET


class RPCCommand(Struct):
    """Call a method of the application (section 7.4)."""

    method: str = ""
    data: Raw | UnsetType = UNSET


class RefreshCommand(Struct):
    """Let the connection live longer, by a newer token of the same user (section 5.3)."""

    token: str = ""


class SubRefreshCommand(Struct):
    """Let a subscription live longer, by a newer token (section 6.4). `type` is for keyed rooms."""

    channel: str = ""
    token: str = ""
    type: int = 0


class Command(Struct):
    """One command. Exactly one of the fields after `id` is set, or none in a pong."""

    id: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    connect: ConnectCommand | None = None
    subscribe: SubscribeCommand | None = None
    unsubscribe: UnsubscribeCommand | None = None
    publish: PublishCommand | None = None
    presence: PresenceCommand | None = None
    presence_stats: PresenceStatsCommand | None = None
    history: HistoryCommand | None = None
    send: SendCommand | None = None
    rpc: RPCCommand | None = None
    refresh: RefreshCommand | None = None
    sub_refresh: SubRefreshCommand | None = None


class EmulationRequest(Struct):
    """One POST of a client whose other half is a stream: whole messages of the session, as `data`."""

    node: str = ""
    session: str = ""
    data: Raw | UnsetType = UNSET


# What the server answers


class EmptyResult(Struct):
    """The result of a command that has none: `{}`, and never left out."""


class Error(Struct, omit_defaults=True):
    """
    The answer to a command that failed. `code` and `message` are always written: an SDK in Python reads them without a
    default (section 3.1).
    """

    code: int
    message: str
    temporary: bool = False


class SubscribeResult(Struct, omit_defaults=True):
    """
    The answer to `subscribe`, and what a connect says of each room that the server gave (sections 6.1 and 9).

    Where `recovered`, the offset is the client's own and moves on by the publications: with the top, a client that
    reconnects in between would skip them. `expires` and `ttl` make an SDK refresh the token of the subscription.
    """

    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Pub] = msgspec.field(default_factory=list)
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(Struct, omit_defaults=True):
    """
    The answer to `connect` (section 5.1). `client` and `version` must not be empty.

    `ping` is in seconds; 0 means that no pings are expected as messages. `session` and `node` are for transports of two
    halves: with them, later commands find the worker that has the stream (section 2.4). `time` is Unix time in
    milliseconds.
    """

    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeResult] = msgspec.field(default_factory=dict)
    ping: int = 0
    pong: bool = False
    time: int = 0
    session: str = ""
    node: str = ""


class RefreshResult(Struct, omit_defaults=True):
    """The answer to `refresh`. `client` and `version` are written as in `ConnectResult`."""

    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, omit_defaults=True):
    """The answer to `sub_refresh`. `ttl` is in seconds, and at least 1 where the subscription expires."""

    expires: bool = False
    ttl: int = 0


class RPCResult(Struct):
    """The answer of the application's method; without `data` where it returned nothing."""

    data: Raw | UnsetType = UNSET


Result = (
    EmptyResult
    | ConnectResult
    | SubscribeResult
    | RefreshResult
    | SubRefreshResult
    | PresenceResult
    | PresenceStatsResult
    | HistoryResult
    | RPCResult
)


# What the server says unasked


class UnsubscribePush(Struct):
    """The server has ended a subscription. From code 2500 on, an SDK subscribes again (section 8.3)."""

    code: int
    reason: str


class SubscribePush(Struct, omit_defaults=True):
    """The server has put the client into a room. What it missed there follows as publications (section 9)."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET


class Message(Struct):
    """A message of the application that belongs to no room (section 7.4)."""

    data: Raw


class Disconnected(Struct):
    """The end of a connection, on transports that have no close frame."""

    code: int
    reason: str


class Refreshed(Struct, omit_defaults=True):
    """The server has changed when the connection expires."""

    expires: bool = False
    ttl: int = 0


class Membership(Struct):
    """A join or a leave."""

    info: Info


class Push(Struct, omit_defaults=True):
    """A push. Exactly one of the fields after `channel` is set."""

    channel: str = ""
    pub: Pub | UnsetType = UNSET
    join: Membership | UnsetType = UNSET
    leave: Membership | UnsetType = UNSET
    unsubscribe: UnsubscribePush | UnsetType = UNSET
    subscribe: SubscribePush | UnsetType = UNSET
    message: Message | UnsetType = UNSET
    disconnect: Disconnected | UnsetType = UNSET
    refresh: Refreshed | UnsetType = UNSET
