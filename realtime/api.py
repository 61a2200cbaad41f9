"""
The API for other programs, over HTTP.

Runs in the worker, below `/api`, where a key is configured; any worker of any machine answers alike. Methods, requests
and results are those of Centrifugo's HTTP API, so that its libraries serve (Centrifuge client protocol, section 14):
`POST /api/publish` and so on with the key in `X-API-Key`, several at once by `/api/batch`, and the older form
`POST /api` with `method` and `params`. `GET /api/openapi.json` describes it, `GET /api/tail?channel=…` follows a room.

The requests' shapes are the structures below. No handler of the application is asked: who has the key may do anything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import fnmatch
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

import realtime
from realtime.broker.base import ClientInfo, Position, Room
from realtime.errors import BrokerUnavailable, ClientError
from realtime.fanout import Wire as AnyWire
from realtime.hub import Hub, Insufficient
from realtime.post import Disconnect, Postman, Refresh, Subscribe, Unsubscribe
from realtime.protocol.centrifuge import codes, json, uni
from realtime.protocol.centrifuge.messages import HistoryResult, PresenceResult, PresenceStatsResult, info_of
from realtime.protocol.centrifuge.wire import Wire
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.stream import EVENTS, SLOW, UNCACHED, Stream, answer, cut, gone, headers_of, read_body
from realtime.transport.stream import Limits as StreamLimits
from realtime.users import find

PREFIX: Final = "/api"
BODY_MAX: Final = 4 * 1024**2  # a batch is larger than any one message
BATCH_MAX: Final = 1000
PAGE_MAX: Final = 10_000

Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]  # Unix time

logger = logging.getLogger("realtime.api")


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


class UserInRoom(Struct, kw_only=True):
    user: str
    channel: str
    client: str = ""


class DisconnectCode(Struct, kw_only=True):
    code: int = 3503
    reason: str = "force disconnect"


class DisconnectRequest(Struct, kw_only=True):
    user: str
    client: str = ""
    whitelist: list[str] = []
    disconnect: DisconnectCode | None = None


class RefreshRequest(Struct, kw_only=True):
    user: str
    client: str = ""
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


class Api:
    """The API in one worker."""

    def __init__(self, hub: Hub, postman: Postman, *, keys: Sequence[str]) -> None:
        """
        Args:
            hub: this worker's rooms.
            postman: reaches the sessions of all workers.
            keys: each opens everything; without one there is no API.
        """
        self.keys = tuple(key.encode() for key in keys)
        self._hub = hub
        self._postman = postman
        self.methods: dict[str, tuple[type, Callable[[Any], Awaitable[Any]], type]] = {
            "publish": (PublishRequest, self._publish, PublishResult),
            "broadcast": (BroadcastRequest, self._broadcast, BroadcastResult),
            "subscribe": (UserInRoom, self._subscribe, Empty),
            "unsubscribe": (UserInRoom, self._unsubscribe, Empty),
            "disconnect": (DisconnectRequest, self._disconnect, Empty),
            "refresh": (RefreshRequest, self._refresh, Empty),
            "revoke_token": (RevokeTokenRequest, self._revoke_token, Empty),
            "invalidate_user_tokens": (InvalidateUserTokensRequest, self._invalidate_user_tokens, Empty),
            "presence": (PresenceRequest, self._presence, PresencePage),
            "presence_stats": (RoomRequest, self._presence_stats, PresenceStatsResult),
            "history": (HistoryRequest, self._history, HistoryResult),
            "history_remove": (RoomRequest, self._history_remove, Empty),
            "connections": (ConnectionsRequest, self._connections, ConnectionsResult),
            "channels": (ChannelsRequest, self._channels, ChannelsResult),
            "info": (InfoRequest, self._info, InfoResult),
        }

    # HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request below `PREFIX`."""
        headers = headers_of(scope)
        name = scope["path"].removeprefix(PREFIX).strip("/")
        if not self._opens(headers.get("x-api-key", ""), headers.get("authorization", "")):
            await answer(send, 401, b"X-API-Key is missing or wrong.\n")
        elif name == "openapi.json":
            await _send_json(send, 200, msgspec.json.encode(describe(self)))
        elif name == "tail":
            await self._tail(scope, receive, send)
        elif scope["method"] != "POST":
            await answer(send, 405, b"POST.\n", [(b"allow", b"POST")])
        elif (body := await read_body(receive, BODY_MAX)) is None:
            await answer(send, 413, b"The request is too large.\n")
        elif name and name != "batch" and name not in self.methods:
            await answer(send, 404, b"There is no such method.\n")
        else:
            await _send_json(send, 200, msgspec.json.encode(await self._answer(name, body or b"{}")))

    def _opens(self, key: str, authorization: str) -> bool:
        kind, _, credentials = authorization.partition(" ")
        given = key or (credentials if kind.lower() == "apikey" else "")
        found = [
            hmac.compare_digest(given.encode(), known) for known in self.keys
        ]  # all of them: the time tells nothing
        return any(found)

    async def _answer(self, name: str, body: bytes) -> Any:
        try:
            if name == "batch":
                return await self._batch(msgspec.json.decode(body, type=BatchRequest))
            if not name:
                older = msgspec.json.decode(body, type=dict[str, Raw])
                name = msgspec.json.decode(older.get("method", Raw(b'""')), type=str)
                body = bytes(older.get("params", Raw(b"{}")))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return _error(ClientError(107, f"bad request: {error}"))
        return await self._call(name, body)

    async def _batch(self, request: BatchRequest) -> BatchResult | Reply:
        if len(request.commands) > BATCH_MAX or any(len(each) != 1 for each in request.commands):
            return _error(ClientError(107, f"bad request: at most {BATCH_MAX} commands, each of one method"))
        calls = [next(iter(each.items())) for each in request.commands]
        if request.parallel:
            replies = await asyncio.gather(*[self._call(name, bytes(body)) for name, body in calls])
        else:
            replies = [await self._call(name, bytes(body)) for name, body in calls]
        return BatchResult(
            [
                {"error": reply.error} if reply.error is not UNSET else {name: reply.result}
                for (name, _), reply in zip(calls, replies, strict=True)
            ]
        )

    async def _call(self, name: str, body: bytes) -> Reply:
        """Run one method; what goes wrong becomes its reply."""
        if name not in self.methods:
            return _error(codes.METHOD_NOT_FOUND.error())
        shape, method, _ = self.methods[name]
        try:
            return Reply(await method(msgspec.json.decode(body, type=shape)))
        except msgspec.MsgspecError as error:
            return _error(ClientError(107, f"bad request: {error}"))
        except ClientError as error:
            return _error(error)
        except KeyError:
            return _error(codes.UNKNOWN_ROOM.error())
        except BrokerUnavailable as error:
            logger.warning("! %s: %s", name, error)
            return _error(codes.UNAVAILABLE.error())

    # Rooms

    async def _publish(self, request: PublishRequest) -> PublishResult:
        return await self._publish_into(request.channel, request)

    async def _publish_into(self, name: str, payload: Payload) -> PublishResult:
        room, data = _room(name), payload.bytes()
        options = self._hub.options_of(room)
        if options is None:
            raise codes.UNKNOWN_ROOM.error()
        if not options.binary:
            if not json.is_text(data):
                raise ClientError(107, "bad request: the payload is no JSON, and the room is not `binary`")
            data = json.one_line(data)
        published = await self._hub.publish(
            room,
            data,
            tags=payload.tags or None,
            idempotency_key=payload.idempotency_key or None,
            keep=not payload.skip_history,
        )
        return PublishResult(published.position.offset, published.position.epoch)

    async def _broadcast(self, request: BroadcastRequest) -> BroadcastResult:
        async def one(name: str) -> Reply:
            try:
                return Reply(await self._publish_into(name, request))
            except ClientError as error:
                return _error(error)
            except BrokerUnavailable:
                return _error(codes.UNAVAILABLE.error())

        return BroadcastResult(await asyncio.gather(*[one(name) for name in request.channels]))

    async def _presence(self, request: PresenceRequest) -> PresencePage:
        if not self._options(request.channel).presence:
            raise codes.NOT_AVAILABLE.error()
        room = Room(request.channel)
        if request.limit <= 0:
            members, cursor = await self._hub.members(room), ""
        else:
            page = await self._hub.members_page(room, cursor=request.cursor, limit=min(request.limit, PAGE_MAX))
            members, cursor = page.members, page.cursor
        return PresencePage({client: info_of(info) for client, info in members.items()}, cursor)

    async def _presence_stats(self, request: RoomRequest) -> PresenceStatsResult:
        if not self._options(request.channel).presence:
            raise codes.NOT_AVAILABLE.error()
        counts = await self._hub.member_counts(Room(request.channel))
        return PresenceStatsResult(counts.clients, counts.users)

    async def _history(self, request: HistoryRequest) -> HistoryResult:
        if not self._options(request.channel).retention.size:
            raise codes.NOT_AVAILABLE.error()
        since = Position(request.since.epoch, request.since.offset) if request.since else None
        limit = PAGE_MAX if request.limit < 0 else min(request.limit, PAGE_MAX)
        page = await self._hub.history(Room(request.channel), since=since, limit=limit, reverse=request.reverse)
        if since is not None and since.epoch not in ("", page.top.epoch):
            raise codes.UNRECOVERABLE.error()
        return HistoryResult([json.pub_of(each) for each in page.publications], page.top.epoch, page.top.offset)

    async def _history_remove(self, request: RoomRequest) -> Empty:
        self._options(request.channel)
        await self._hub.forget_history(Room(request.channel))
        return Empty()

    def _options(self, name: str) -> Any:
        options = self._hub.options_of(_room(name))
        if options is None:
            raise codes.UNKNOWN_ROOM.error()
        return options

    async def _channels(self, request: ChannelsRequest) -> ChannelsResult:
        found: dict[str, RoomInfo] = {}
        for told in await self._postman.survey():
            for room, clients in told.rooms.items():
                if not request.pattern or fnmatch.fnmatchcase(room, request.pattern):
                    found.setdefault(room, RoomInfo(0)).num_clients += clients
        return ChannelsResult(found)

    async def _info(self, request: InfoRequest) -> InfoResult:
        now = time.time()
        return InfoResult(
            [
                Node(
                    uid=told.worker,
                    name=f"{told.node}-{told.slot}",
                    version=realtime.__version__,
                    num_clients=told.clients,
                    num_users=told.users,
                    num_channels=len(told.rooms),
                    uptime=int(now - told.since_s),
                )
                for told in await self._postman.survey()
            ]
        )

    # Users

    async def _connections(self, request: ConnectionsRequest) -> ConnectionsResult:
        places = await find(self._postman, request.user)
        return ConnectionsResult(
            {
                place.client: Connected(place.address, list(place.rooms), place.slot, place.worker, place.node)
                for place in places
            }
        )

    async def _subscribe(self, request: UserInRoom) -> Empty:
        self._options(request.channel)
        await self._postman.tell_all(Subscribe(request.user, request.channel, request.client))
        return Empty()

    async def _unsubscribe(self, request: UserInRoom) -> Empty:
        await self._postman.tell_all(Unsubscribe(request.user, _room(request.channel), request.client))
        return Empty()

    async def _disconnect(self, request: DisconnectRequest) -> Empty:
        told = request.disconnect or DisconnectCode()
        if not 3000 <= told.code < 5000:
            raise ClientError(107, "bad request: a disconnect's code is from 3000 to 4999")
        await self._postman.tell_all(
            Disconnect(request.user, request.client, tuple(request.whitelist), told.code, told.reason[:32])
        )
        return Empty()

    async def _refresh(self, request: RefreshRequest) -> Empty:
        if request.expired:
            end = codes.CONNECTION_EXPIRED
            await self._postman.tell_all(Disconnect(request.user, request.client, (), end.code, end.reason))
        else:
            await self._postman.tell_all(
                Refresh(request.user, request.client, float(request.expire_at) if request.expire_at else None)
            )
        return Empty()

    async def _revoke_token(self, request: RevokeTokenRequest) -> Empty:
        if not request.uid:
            raise ClientError(107, "bad request: `uid` is the `jti` of a token")
        await self._postman.revoke(token=request.uid, until_s=float(request.expire_at))
        return Empty()

    async def _invalidate_user_tokens(self, request: InvalidateUserTokensRequest) -> Empty:
        await self._postman.revoke(
            user=request.user, before_s=float(request.issued_before), until_s=float(request.expire_at)
        )
        return Empty()

    # A room, followed

    async def _tail(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = parse_qs(scope["query_string"].decode("latin-1")).get("channel", [])
        options = self._hub.options_of(Room(names[0])) if names and not names[0].startswith("\0") else None
        if options is None:
            await answer(send, 404, b"?channel= names no room that is declared.\n")
            return
        room = Room(names[0])
        follower = _Follower()
        try:
            entry = await self._hub.enter(
                room,
                follower,
                replace(options, presence=False, has_farewells=False),
                info=ClientInfo("", follower.client),
                watches=options.join_leave,
            )
        except BrokerUnavailable:
            await answer(send, 503, b"The broker is away.\n")
            return
        try:
            entry.settle()
        except Insufficient:
            self._hub.abandon(entry)
            await answer(send, 503, b"Publications were lost just now. Try again.\n")
            return
        self._hub.go_live(entry)

        async def follow() -> None:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *UNCACHED]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
            await follower.outlet.pump(send)

        left = asyncio.ensure_future(gone(receive))
        pumping = asyncio.ensure_future(follow())
        try:
            await asyncio.wait((left, pumping), return_when=asyncio.FIRST_COMPLETED)
            takes_nothing = pumping.done() and isinstance(pumping.exception(), TimeoutError)
            if takes_nothing or follower.outlet.ended == SLOW:
                logger.warning(
                    "x %s of %s: slow: %d bytes wait for it", follower.client, room, follower.outlet.buffered()
                )
        finally:
            for task in (left, pumping):
                task.cancel()
            await asyncio.gather(left, pumping, return_exceptions=True)
            self._hub.leave(room, follower, info=None)
        if takes_nothing:
            cut(scope)
        else:
            await send({"type": "http.response.body", "body": b""})


_FOLLOWED: Final = Wire(uni, EVENTS)


class _Follower:
    """A program that follows a room; it is a member, and nobody sees it."""

    def __init__(self) -> None:
        self.client = f"tail-{secrets.token_hex(8)}"
        self.outlet = Stream(EVENTS, EVENTS, StreamLimits())

    @property
    def wire(self) -> AnyWire:
        return _FOLLOWED

    def insufficient(self, room: Room) -> None:
        self.outlet.close(codes.INSUFFICIENT_STATE.code, codes.INSUFFICIENT_STATE.reason)


def _room(name: str) -> Room:
    if not name or name.startswith("\0") or len(name.encode()) > 255:
        raise ClientError(107, "bad request: a channel's name has 1 to 255 bytes")
    return Room(name)


def _error(error: ClientError) -> Reply:
    return Reply(error={"code": error.code, "message": error.message})


async def _send_json(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# Its description


def describe(api: Api) -> dict[str, Any]:
    """Return the API as an OpenAPI 3.1 document."""
    shapes = [shape for shape, _, _ in api.methods.values()] + [result for _, _, result in api.methods.values()]
    _, components = msgspec.json.schema_components(
        [*shapes, BatchRequest, BatchResult], schema_hook=_any, ref_template="#/components/schemas/{name}"
    )

    def operation(name: str, shape: type, result: Any) -> dict[str, Any]:
        told = {"type": "object", "properties": {"result": result, "error": {"$ref": "#/components/schemas/Error"}}}
        return {
            "post": {
                "operationId": name,
                "security": [{"key": []}],
                "requestBody": {"content": {"application/json": {"schema": _ref(shape)}}},
                "responses": {
                    "200": {"description": "A result, or an error.", "content": {"application/json": {"schema": told}}},
                    "401": {"description": "The key is missing or wrong."},
                },
            }
        }

    paths = {f"{PREFIX}/{name}": operation(name, shape, _ref(of)) for name, (shape, _, of) in api.methods.items()}
    paths[f"{PREFIX}/batch"] = operation("batch", BatchRequest, _ref(BatchResult))
    error = {"type": "object", "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "realtime", "version": realtime.__version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": error},
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
    }


def _ref(shape: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _any(kind: type) -> dict[str, Any]:
    """Raw is any JSON."""
    if kind is Raw:
        return {}
    raise NotImplementedError
