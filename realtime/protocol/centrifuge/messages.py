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
    offset: Offset = 0
    epoch: str = ""


class SubscribeCommand(Struct):
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
    token: str = ""
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeCommand] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}


class UnsubscribeCommand(Struct):
    channel: str = ""


class PublishCommand(Struct):
    channel: str = ""
    data: Raw | UnsetType = UNSET
    type: int = 0


class PresenceCommand(Struct):
    channel: str = ""


class PresenceStatsCommand(Struct):
    channel: str = ""


class HistoryCommand(Struct):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class SendCommand(Struct):
    data: Raw | UnsetType = UNSET


class RPCCommand(Struct):
    method: str = ""
    data: Raw | UnsetType = UNSET


class RefreshCommand(Struct):
    token: str = ""


class SubRefreshCommand(Struct):
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
    code: int
    message: str
    temporary: bool = False


class SubscribeResult(Struct, omit_defaults=True):
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
    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class RPCResult(Struct):
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
    code: int
    reason: str


class SubscribePush(Struct, omit_defaults=True):
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET


class Message(Struct):
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
