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


class SubscribeRequest(Struct):
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


class ConnectRequest(Struct):
    token: str = ""
    data: Raw | UnsetType = UNSET
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}


class UnsubscribeRequest(Struct):
    channel: str = ""


class PublishRequest(Struct):
    channel: str = ""
    data: Raw | UnsetType = UNSET
    type: int = 0


class PresenceRequest(Struct):
    channel: str = ""


class PresenceStatsRequest(Struct):
    channel: str = ""


class HistoryRequest(Struct):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class SendRequest(Struct):
    data: Raw | UnsetType = UNSET


class RPCRequest(Struct):
    method: str = ""
    data: Raw | UnsetType = UNSET


class RefreshRequest(Struct):
    token: str = ""


class SubRefreshRequest(Struct):
    channel: str = ""
    token: str = ""
    type: int = 0


class Command(Struct):
    """One command. Exactly one of the fields after `id` is set, or none in a pong."""

    id: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class EmulationRequest(Struct):
    """One POST of a client whose other half is a stream: whole messages of the session, as `data`."""

    node: str = ""
    session: str = ""
    data: Raw | UnsetType = UNSET


# What the server answers


class Empty(Struct):
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
    Empty
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


class Unsubscribe(Struct):
    code: int
    reason: str


class Subscribe(Struct, omit_defaults=True):
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
    unsubscribe: Unsubscribe | UnsetType = UNSET
    subscribe: Subscribe | UnsetType = UNSET
    message: Message | UnsetType = UNSET
    disconnect: Disconnected | UnsetType = UNSET
    refresh: Refreshed | UnsetType = UNSET
