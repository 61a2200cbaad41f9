"""
The shapes of the API's requests and results.

Pure. Names and fields are those of Centrifugo's HTTP API (Centrifuge client protocol, section 14), so that its
libraries serve; what they do not know is beside them (`cursor`, `connections`). A field of a request that is not
supported is refused by its name (107): none is accepted and ignored.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from realtime.errors import ClientError
from realtime.json_text import is_text, one_line
from realtime.protocol.shapes import PresenceResult

Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""Unix time. Above 2**53 JavaScript loses precision; below 0 there is no meaning."""


# Requests


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a caller sends. A field that is not here is refused by its name."""


class StreamPosition(Request):
    """A place in a room's stream: after publication `offset`, in the life of the stream that `epoch` names."""

    offset: int = 0
    epoch: str = ""


class Payload(Request, kw_only=True):
    """
    What is published: JSON as `data`, or any bytes in base 64 as `b64data`.

    With `delta` the room has to send differences to members that ask for them; in such a room it always does.
    `skip_history`: only present members receive it, and no client recovers it. `tags`: fields that filters compare.
    `idempotency_key`: a second publication with the same key within 300 s is not made, and has the first one's result.
    """

    data: Raw | UnsetType = UNSET
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] = {}
    idempotency_key: str = ""
    delta: bool = False

    def bytes(self) -> bytes:
        """
        Return the payload.

        Raises:
            ClientError: there is none, or it is not base 64, or there are two.
        """
        data = either("data", self.data, self.b64data)
        if data is None:
            raise bad_request("there is neither `data` nor `b64data`")
        return data


class PublishRequest(Payload, kw_only=True):
    """Publishes into one room. No handler of the application is called."""

    channel: str


class EmitRequest(Request, kw_only=True):
    """
    Sends an event to clients of Socket.IO: to those of `namespace` that are in any of `rooms` and in none of `except`,
    or have such an id; to all of the namespace where no room is given. `args` are its arguments.

    Into a declared room, which is given alone, it is a publication. `volatile`: a client that cannot take it at once
    does not get it. No handler of the application is called.
    """

    event: str
    args: list[Any] = []
    rooms: list[str] = []
    excluded: list[str] = msgspec.field(default_factory=list, name="except")
    namespace: str = "/"
    volatile: bool = False


class BroadcastRequest(Payload, kw_only=True):
    """Publishes the same into several rooms. Each has a reply of its own: some may succeed where others fail."""

    channels: list[str]


class UserRequest(Request, kw_only=True):
    """
    All connections of `user`, or only the one with the id `client`, or only the one of `session`: the id in the connect
    result of a client that has a stream, or listens only. No other client has one.
    """

    user: str
    client: str = ""
    session: str = ""


class UserInRoom(UserRequest, kw_only=True):
    """Takes a user's connections out of a room, or only those that the other fields select."""

    channel: str


class SubscribeRequest(UserInRoom, kw_only=True):
    """
    Puts a user's connections into a room.

    `expire_at`: they are in it until then (Unix time, in seconds). `info` is what others see of them in this room;
    `data` comes with the client's notification. `recover_since`: what was published after it comes right behind.
    """

    expire_at: Seconds = 0
    info: Raw | UnsetType = UNSET
    b64info: str = ""
    data: Raw | UnsetType = UNSET
    b64data: str = ""
    recover_since: StreamPosition | None = None

    def info_bytes(self) -> bytes | None:
        """
        Return `info` or `b64info`, which is JSON as well.

        Raises:
            ClientError: it is not.
        """
        return _json("info", self.info, self.b64info)

    def data_bytes(self) -> bytes | None:
        """
        Return `data` or `b64data`, or None.

        Raises:
            ClientError: it is not base 64, or there are two.
        """
        return either("data", self.data, self.b64data)


class DisconnectCode(Request, kw_only=True):
    """How a connection is closed. The code decides if a client reconnects: the page on codes lists them."""

    code: int = 3503
    reason: str = "force disconnect"


class DisconnectRequest(UserRequest, kw_only=True):
    """Closes a user's connections, except those whose ids are in `whitelist`."""

    whitelist: list[str] = []
    disconnect: DisconnectCode | None = None


class RefreshRequest(UserRequest, kw_only=True):
    """Sets when a user's connections expire (`expire_at`), or with `expired` ends them now."""

    expired: bool = False
    expire_at: Seconds = 0


class RevokeTokenRequest(Request, kw_only=True):
    """`uid` is the token's `jti`; `expire_at` when it would have expired."""

    uid: str
    expire_at: Seconds = 0


class InvalidateUserTokensRequest(Request, kw_only=True):
    """All tokens of a user from before `issued_before`, or now; `expire_at` is when the last of them expires."""

    user: str
    issued_before: Seconds = 0
    expire_at: Seconds = 0


class RoomRequest(Request, kw_only=True):
    """Is about one room, named by `channel`."""

    channel: str


class PresenceRequest(Request, kw_only=True):
    """With `limit`, a page of about so many; `cursor` is what the page before said."""

    channel: str
    limit: int = 0
    cursor: str = ""


class ConnectionsRequest(Request, kw_only=True):
    """Lists the connections of a user on all workers of all machines."""

    user: str


class HistoryRequest(Request, kw_only=True):
    """
    Reads what a room keeps: at most `limit` publications, from `since` on, or the newest first with `reverse`.

    With `limit` 0 the result is the position at the top alone; a negative one stands for as many as a page may have.
    """

    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class ChannelsRequest(Request, kw_only=True):
    """`pattern`: a glob (`glob.py`), such as `chat:*` or `{news,chat}:*`; none for all rooms."""

    pattern: str = ""


class InfoRequest(Request):
    """Lists the workers of all machines."""


class OlderRequest(Request, kw_only=True):
    """A method's name and its request, as `POST /api` takes them."""

    method: str = ""
    params: Raw = Raw(b"{}")


class BatchRequest(Request, kw_only=True):
    """
    Several requests in one, each an object with its method's name as the only field.

    They run one after another, or with `parallel` all at once. The replies come in the order of the requests.
    """

    commands: list[dict[str, Raw]]
    parallel: bool = False


def bad_request(problem: str) -> ClientError:
    """Return the error for a request that is not understood (107)."""
    return ClientError(107, f"bad request: {problem}")


def either(name: str, value: Raw | UnsetType, encoded: str) -> bytes | None:
    """
    Return the bytes of a field that has a twin in base 64, or None where neither is given.

    Raises:
        ClientError: both are given, or the twin is not base 64.
    """
    if not encoded:
        return None if isinstance(value, UnsetType) else bytes(value)
    if not isinstance(value, UnsetType):
        raise bad_request(f"`{name}` and `b64{name}` exclude each other")
    try:
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise bad_request(f"`b64{name}` is not base 64") from None


def _json(name: str, value: Raw | UnsetType, encoded: str) -> bytes | None:
    """Return a field that has to be JSON also where it came in base 64. `null` says the same as leaving it out."""
    data = either(name, value, encoded)
    if data is None or data == b"null":
        return None
    if not is_text(data):
        raise bad_request(f"`b64{name}` is no JSON")
    return one_line(data)


# Results


class Empty(Struct):
    """A result without fields: the request is done, or on its way to the workers concerned."""


class PublishResult(Struct):
    """The position of the publication in the room's stream."""

    offset: int
    epoch: str


class Reply(Struct, omit_defaults=True):
    """
    The answer to a call: a result, or an error with `code` and `message`.

    Either way the HTTP status is 200, as in Centrifugo: a status of another kind is about the request as a whole.
    """

    result: Any = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class PresencePage(PresenceResult, omit_defaults=True):
    """Members of a room, by connection id. `cursor` asks for the next page; the last page has none."""

    cursor: str = ""


class Connected(Struct):
    """One connection: its transport, the rooms that it is in (`channels`), and the worker that serves it."""

    user: str
    transport: str
    protocol: str
    address: str
    channels: list[str]
    slot: int
    worker: str
    node: str


class ConnectionsResult(Struct):
    """A user's connections, by connection id."""

    connections: dict[str, Connected]


class BroadcastResult(Struct):
    """A reply for each room, in the order of the request."""

    responses: list[Reply]


class BatchResult(Struct):
    """For each request an object with its method and result, or with `error`."""

    replies: list[Any]


class RoomInfo(Struct):
    """How many connections are in a room, on all workers together."""

    num_clients: int


class ChannelsResult(Struct):
    """The rooms that have members now. A room with nothing but history is not among them."""

    channels: dict[str, RoomInfo]


class Node(Struct):
    """
    One worker: Centrifugo's nodes are processes, and so are these. Its `name` has the machine and the slot. `num_subs`
    counts memberships: a connection in three rooms counts three times. `uptime` is in seconds.
    """

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_channels: int
    num_subs: int
    uptime: int


class InfoResult(Struct):
    """All workers that answered in time. A worker that hangs or just starts may be missing."""

    nodes: list[Node]
