"""
What each method of the API does.

Runs in the worker. A method takes a request and returns a result, both of messages.py; what is wrong with a request is
a `ClientError`. It asks the hub for what concerns rooms, and the bus for what concerns users, who may be connected
anywhere. It knows no HTTP and no keys, and asks no handler of the application.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from realtime import codes
from realtime.api.emitting import emit
from realtime.api.glob import BadGlob, compile_glob
from realtime.api.messages import (
    BroadcastRequest,
    BroadcastResult,
    ChannelsRequest,
    ChannelsResult,
    Connected,
    ConnectionsRequest,
    ConnectionsResult,
    DisconnectCode,
    DisconnectRequest,
    EmitRequest,
    Empty,
    HistoryRequest,
    InfoRequest,
    InfoResult,
    InvalidateUserTokensRequest,
    Node,
    Payload,
    PresencePage,
    PresenceRequest,
    PublishRequest,
    PublishResult,
    RefreshRequest,
    Reply,
    RevokeTokenRequest,
    RoomInfo,
    RoomRequest,
    SubscribeRequest,
    UserInRoom,
    bad_request,
)
from realtime.application.users import check_leaves, find
from realtime.broker import base
from realtime.broker.base import Position, Room
from realtime.broker.formats import BEFORE
from realtime.cluster.bus import ClusterBus
from realtime.cluster.messages import DisconnectUser, RefreshUser, SubscribeUser, UnsubscribeUser
from realtime.errors import BrokerUnavailable, ClientError, NotKept, RoomIsPattern, UnknownRoom
from realtime.json_text import is_text, one_line
from realtime.protocol.shapes import JSON, HistoryResult, PresenceStatsResult, info_of, presence_entries, pub_of
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.session.target import Emitter

PAGE_MAX: Final = 10_000
"""Publications or members in one result: some megabytes, which a program can still read in one piece."""
FIRST_CODE, LAST_CODE = 3000, 4999
"""Of closing a connection: those of the protocol and of applications. Below are WebSocket's own (RFC 6455, 7.4.2)."""
REASON_MAX: Final = 32
"""Characters of a reason: as in a `Disconnect` of the application. A close frame has room for 123 bytes."""

logger = logging.getLogger("realtime.api")


class Methods:
    """The methods, by name."""

    def __init__(self, hub: Hub, bus: ClusterBus, emitter: Emitter) -> None:
        """
        Args:
            hub: this worker's rooms.
            bus: reaches the sessions of all workers.
            emitter: sends events: the application.
        """
        self._hub, self._bus, self._emitter = hub, bus, emitter
        self.by_name: dict[str, tuple[type, Callable[[Any], Awaitable[Any]], type]] = {
            "publish": (PublishRequest, self._publish, PublishResult),
            "broadcast": (BroadcastRequest, self._broadcast, BroadcastResult),
            "emit": (EmitRequest, self._emit, Empty),
            "subscribe": (SubscribeRequest, self._subscribe, Empty),
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
        """The shape of the request, what does it, the shape of the result. OpenAPI and the reference are made of it."""

    async def call(self, name: str, body: bytes) -> Reply:
        """
        Run one method with a JSON text; what goes wrong becomes its reply.

        Programs learn from the code what to do: 102 and 107 are mistakes of theirs, and 100 is temporary. What the
        broker said goes to the log alone, since it may name addresses of ours.
        """
        if name not in self.by_name:
            return refused(codes.METHOD_NOT_FOUND.error())
        shape, method, _ = self.by_name[name]
        try:
            return Reply(await method(msgspec.json.decode(body, type=shape)))
        except msgspec.MsgspecError as error:
            return refused(bad_request(str(error)))
        except ClientError as error:
            return refused(error)
        except BrokerUnavailable as error:
            logger.warning("! %s: %s", name, error)
            return refused(codes.UNAVAILABLE.error())

    # Rooms

    async def _publish(self, request: PublishRequest) -> PublishResult:
        """Publish into one room."""
        return await self._publish_into(request.channel, request)

    async def _publish_into(self, name: str, payload: Payload) -> PublishResult:
        """
        Publish, with the retention that the room's declaration says.

        The broker is called without the hub, for members on this worker hear of it as all others do: from the broker,
        so that all see one order. The publication has no author, since no client made it.

        Raises:
            ClientError: no such room is declared, the name is a pattern, or members could not receive this payload.
            BrokerUnavailable: it may be published, or not. With an `idempotency_key` trying again is safe.
        """
        room, data = _room(name), payload.bytes()
        if "{" in room or "*" in room:
            raise bad_request(f"`channel`: {RoomIsPattern(room)}")
        options = self._options(room)
        if payload.delta and not options.delta:
            raise bad_request("`delta`: the room is not declared with `delta=True`")
        if not options.binary:
            data = _json_payload(data)
        published = await self._hub.broker.publish(
            base.PublishRequest(
                room,
                data,
                base.NOT_KEPT if payload.skip_history else options.retention,
                tags=payload.tags or None,
                idempotency_key=payload.idempotency_key or None,
            )
        )
        return PublishResult(published.position.offset, published.position.epoch)

    async def _emit(self, request: EmitRequest) -> Empty:
        """Send an event to clients of Socket.IO."""
        await emit(self._emitter, request)
        return Empty()

    async def _broadcast(self, request: BroadcastRequest) -> BroadcastResult:
        """Publish into each room at the same time. A room that fails has an error in its place, and spoils no other."""

        async def one(name: str) -> Reply:
            try:
                return Reply(await self._publish_into(name, request))
            except ClientError as error:
                return refused(error)
            except BrokerUnavailable:
                return refused(codes.UNAVAILABLE.error())

        return BroadcastResult(await asyncio.gather(*[one(name) for name in request.channels]))

    async def _presence(self, request: PresenceRequest) -> PresencePage:
        """
        Return the members of a room: all of them, or a page of about `limit`.

        The whole list is the hub's census, which clients' requests share: many of both cost one read of the broker.
        Pages go to the broker each time. A member that comes or goes between two pages may be in none of them.
        """
        if not self._options(request.channel).presence:
            raise _not_kept(NotKept(request.channel, "presence", "presence=True"))
        room = Room(request.channel)
        if request.cursor and request.limit <= 0:
            raise bad_request("`cursor` needs `limit`: it names a page")
        if request.limit <= 0:
            census = await self._hub.members.census(room)
            said = census.encoded.get(JSON)
            if said is None:  # made once for all programs and clients
                said = census.encoded[JSON] = presence_entries(census.members)
            return PresencePage(cast(Any, Raw(b"{%b}" % said)), "")
        page = await self._hub.broker.members_page(room, cursor=request.cursor, limit=min(request.limit, PAGE_MAX))
        return PresencePage({client: info_of(info) for client, info in page.members.items()}, page.cursor)

    async def _presence_stats(self, request: RoomRequest) -> PresenceStatsResult:
        """Count a room's members, without reading them."""
        if not self._options(request.channel).presence:
            raise _not_kept(NotKept(request.channel, "presence", "presence=True"))
        counts = await self._hub.members.counts(Room(request.channel))
        return PresenceStatsResult(counts.clients, counts.users)

    async def _history(self, request: HistoryRequest) -> HistoryResult:
        """
        Return what a room keeps.

        Raises:
            ClientError: the room keeps no history, or `since` is of another life of its stream (112). Then what was
                published in between cannot be known, and an empty page would be a lie.
        """
        retention = self._options(request.channel).retention
        if not retention.size:
            raise _not_kept(NotKept(request.channel, "history", "history=N"))
        since = Position(request.since.epoch, request.since.offset) if request.since else None
        limit = PAGE_MAX if request.limit < 0 else min(request.limit, PAGE_MAX)
        page = await self._hub.broker.history(
            Room(request.channel), retention=retention, since=since, limit=limit, reverse=request.reverse
        )
        if since is not None and since.epoch not in ("", page.top.epoch):
            raise codes.UNRECOVERABLE.error()
        return HistoryResult([pub_of(each) for each in page.publications], page.top.epoch, page.top.offset)

    async def _history_remove(self, request: RoomRequest) -> Empty:
        """Forget what a room keeps. Offsets go on from where they are, so a client that was away learns of its loss."""
        self._options(request.channel)
        await self._hub.broker.forget_history(Room(request.channel))
        return Empty()

    def _options(self, name: str) -> RoomOptions:
        """
        Return how a room is declared.

        Raises:
            ClientError: no declaration matches (102), or this is no room's name (107).
        """
        declarations = self._hub.declarations
        options = declarations.room_options(_room(name))
        if options is None:
            raise _unknown(UnknownRoom(name, declarations.room_patterns()))
        return options

    async def _channels(self, request: ChannelsRequest) -> ChannelsResult:
        """
        List the rooms that have members, by asking every worker.

        Each worker sends the names of all its rooms: for a cluster with very many of them this is an expensive call.
        """
        try:
            matches = compile_glob(request.pattern or "*").match
        except BadGlob as error:
            raise bad_request(f"`pattern`: {error}") from None
        found: dict[str, RoomInfo] = {}
        for told in await self._bus.survey():
            for room, clients in told.rooms.items():
                if matches(room):
                    found.setdefault(room, RoomInfo(0)).num_clients += clients
        return ChannelsResult(found)

    async def _info(self, request: InfoRequest) -> InfoResult:
        """List the workers. `uptime` compares two machines' clocks, so a second more or less says nothing."""
        now = time.time()
        return InfoResult(
            [
                Node(
                    uid=told.worker,
                    name=f"{told.node}-{told.slot}",
                    version=told.release or BEFORE.release,
                    num_clients=told.clients,
                    num_users=told.users,
                    num_channels=len(told.rooms),
                    num_subs=sum(told.rooms.values()),
                    uptime=int(now - told.since_s),
                )
                for told in await self._bus.survey()
            ]
        )

    # Users

    async def _connections(self, request: ConnectionsRequest) -> ConnectionsResult:
        """List a user's connections wherever they are."""
        places = await find(self._bus, request.user)
        return ConnectionsResult(
            {
                place.connection_id: Connected(
                    request.user,
                    place.transport,
                    place.protocol,
                    place.address,
                    list(place.rooms),
                    place.slot,
                    place.worker,
                    place.node,
                )
                for place in places
            }
        )

    async def _subscribe(self, request: SubscribeRequest) -> Empty:
        """
        Put a user's connections into a room, whichever workers serve them.

        What can be known here is refused here, so that a mistake is an error and not silence. The rest is up to each
        worker: the result says that the workers were notified, not that a connection is in the room now.
        """
        options = self._options(request.channel)
        data, since = request.data_bytes(), request.recover_since
        if since is not None and not options.recover:
            raise bad_request("`recover_since`: the room keeps no history to recover from")
        if data is not None and not options.binary:
            data = _json_payload(data)
        await self._bus.send_all(
            SubscribeUser(
                request.user,
                request.channel,
                request.client,
                request.session,
                expire_at_s=float(request.expire_at) or None,
                info=request.info_bytes(),
                data=data,
                since=None if since is None else (since.epoch, since.offset),
            )
        )
        return Empty()

    async def _unsubscribe(self, request: UserInRoom) -> Empty:
        """
        Take a user's connections out of a room.

        The room is declared, or the user is in it: after a deploy clients may still be in a room that the new code
        lacks.
        """
        room = _room(request.channel)
        try:
            await check_leaves(self._bus, self._hub.declarations, request.user, room)
        except UnknownRoom as error:
            raise _unknown(error) from None
        await self._bus.send_all(UnsubscribeUser(request.user, room, request.client, request.session))
        return Empty()

    async def _disconnect(self, request: DisconnectRequest) -> Empty:
        """Close a user's connections, on all workers."""
        told = request.disconnect or DisconnectCode()
        if not FIRST_CODE <= told.code <= LAST_CODE:
            raise bad_request("a disconnect's code is from 3000 to 4999")
        await self._bus.send_all(
            DisconnectUser(
                request.user,
                request.client,
                tuple(request.whitelist),
                told.code,
                told.reason[:REASON_MAX],
                request.session,
            )
        )
        return Empty()

    async def _refresh(self, request: RefreshRequest) -> Empty:
        """
        Set when a user's connections expire.

        `expired` closes them with the code for an expired connection. A client then fetches another token, and comes
        back if it gets one. `expire_at` 0 lets them stay for as long as they like.
        """
        if request.expired and request.expire_at:
            raise bad_request("`expired` and `expire_at` exclude each other")
        if request.expired:
            end = codes.CONNECTION_EXPIRED
            await self._bus.send_all(
                DisconnectUser(request.user, request.client, (), end.code, end.reason, request.session)
            )
        else:
            expire_at_s = float(request.expire_at) if request.expire_at else None
            await self._bus.send_all(RefreshUser(request.user, request.client, expire_at_s, request.session))
        return Empty()

    async def _revoke_token(self, request: RevokeTokenRequest) -> Empty:
        """
        Revoke one token, and end the connections that it opened.

        With `expire_at` it is forgotten when the token would have expired anyway, else after 30 days.
        """
        if not request.uid:
            raise bad_request("`uid` is the `jti` of a token")
        await self._bus.revoke(token=request.uid, until_s=float(request.expire_at))
        return Empty()

    async def _invalidate_user_tokens(self, request: InvalidateUserTokensRequest) -> Empty:
        """Do the same with all tokens of a user that were issued before a moment: after a changed password."""
        await self._bus.revoke(
            user=request.user, before_s=float(request.issued_before), until_s=float(request.expire_at)
        )
        return Empty()


def _unknown(error: UnknownRoom) -> ClientError:
    """Return the refusal for other programs, which learn what is declared; clients learn the code alone."""
    return ClientError(codes.UNKNOWN_ROOM.code, f"{codes.UNKNOWN_ROOM.message}: {error}")


def _not_kept(error: NotKept) -> ClientError:
    """Return the refusal for other programs, which learn what the declaration lacks; clients learn the code alone."""
    return ClientError(codes.NOT_AVAILABLE.code, f"{codes.NOT_AVAILABLE.message}: {error}")


def _json_payload(data: bytes) -> bytes:
    """
    Return a payload on one line, as members that speak JSON get it: there, a line feed ends a message.

    Raises:
        ClientError: it is no JSON.
    """
    if not is_text(data):
        raise bad_request("the payload is no JSON, and the room is not `binary`")
    return one_line(data)


def _room(name: str) -> Room:
    """
    Return a room's name as the broker has it. Names that begin with NUL are the server's own rooms.

    Raises:
        ClientError: this is none.
    """
    if not name or name.startswith("\0") or len(name.encode()) > 255:
        raise bad_request("a channel's name has 1 to 255 bytes")
    return Room(name)


def refused(error: ClientError) -> Reply:
    """Return the reply that says what was wrong."""
    return Reply(error={"code": error.code, "message": error.message})
