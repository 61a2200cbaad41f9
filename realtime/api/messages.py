"""
The shapes of the API's requests and results.

Pure. Names and fields are those of Centrifugo's HTTP API (Centrifuge client protocol, section 14), so that its
libraries serve; what they do not know is beside them (`cursor`, `connections`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from realtime.errors import ClientError
from realtime.protocol.centrifuge.messages import PresenceResult

Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]  # Unix time


# Requests


class StreamPosition(Struct):
    offset: int = 0
    epoch: str = ""


class Payload(Struct, kw_only=True):
    """What is published: JSON as `data`, or any bytes in base 64 as `b64data`."""

    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    version: int = 0

    def bytes(self) -> bytes:
        """
        Return the payload.

        Raises:
            ClientError: there is none, or it is not base 64.
        """
        if self.version:
            raise ClientError(107, "bad request: `version` is not supported")
        if not isinstance(self.data, UnsetType):
            return bytes(self.data)
        try:
            decoded = base64.b64decode(self.b64data, validate=True)
        except (ValueError, binascii.Error):
            raise ClientError(107, "bad request: `b64data` is not base 64") from None
        if not decoded:
            raise ClientError(107, "bad request: there is neither `data` nor `b64data`")
        return decoded


class PublishRequest(Payload, kw_only=True):
    channel: str


class BroadcastRequest(Payload, kw_only=True):
    channels: list[str]


class UserRequest(Struct, kw_only=True):
    """
    All connections of `user`, or only the one with the id `client`, or only the one of `session`: the id in the connect
    result of a client that has a stream, or listens only. No other client has one.
    """

    user: str
    client: str = ""
    session: str = ""


class UserInRoom(UserRequest, kw_only=True):
    channel: str


class DisconnectCode(Struct, kw_only=True):
    code: int = 3503
    reason: str = "force disconnect"


class DisconnectRequest(UserRequest, kw_only=True):
    whitelist: list[str] = []
    disconnect: DisconnectCode | None = None


class RefreshRequest(UserRequest, kw_only=True):
    expired: bool = False
    expire_at: Seconds = 0


class RevokeTokenRequest(Struct, kw_only=True):
    """`uid` is the token's `jti`; `expire_at` when it would have expired."""

    uid: str
    expire_at: Seconds = 0


class InvalidateUserTokensRequest(Struct, kw_only=True):
    """All tokens of a user from before `issued_before`, or now; `expire_at` is when the last of them expires."""

    user: str
    issued_before: Seconds = 0
    expire_at: Seconds = 0


class RoomRequest(Struct, kw_only=True):
    channel: str


class PresenceRequest(Struct, kw_only=True):
    """With `limit`, a page of about so many; `cursor` is what the page before said."""

    channel: str
    limit: int = 0
    cursor: str = ""


class ConnectionsRequest(Struct, kw_only=True):
    user: str


class HistoryRequest(Struct, kw_only=True):
    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ChannelsRequest(Struct, kw_only=True):
    pattern: str = ""


class InfoRequest(Struct):
    pass


class BatchRequest(Struct, kw_only=True):
    commands: list[dict[str, Raw]]
    parallel: bool = False


# Results


class Empty(Struct):
    pass


class PublishResult(Struct):
    offset: int
    epoch: str


class Reply(Struct, omit_defaults=True):
    result: Any = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class PresencePage(PresenceResult, omit_defaults=True):
    cursor: str = ""


class Connected(Struct):
    address: str
    channels: list[str]
    slot: int
    worker: str
    node: str


class ConnectionsResult(Struct):
    connections: dict[str, Connected]


class BroadcastResult(Struct):
    responses: list[Reply]


class BatchResult(Struct):
    replies: list[Any]


class RoomInfo(Struct):
    num_clients: int


class ChannelsResult(Struct):
    channels: dict[str, RoomInfo]


class Node(Struct):
    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    uptime: int


class InfoResult(Struct):
    nodes: list[Node]
