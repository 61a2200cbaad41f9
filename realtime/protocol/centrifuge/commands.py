"""
What each command of the protocol does.

Runs in the worker, inside the task of one session, one command at a time. A command looks at its request, asks the
application, the hub or the tokens, and answers; it raises `ClientError` for an answer that is an error, and
`Disconnect` where the protocol wants the connection closed (Centrifuge client protocol, sections 4 to 10). No command
keeps anything of its own: what outlives it stands in the session and its connection.

Publishing, presence and history are for members of the room, unless its declaration says otherwise (`for_others`). So
`on_subscribe` is the one gate of a room, and an application cannot forget a second one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from realtime import codes
from realtime.auth.credentials import SUBSCRIPTION_TOKEN, TOKEN
from realtime.auth.tokens import ConnectionClaims, SubscriptionClaims, channels_of
from realtime.broker.base import ClientInfo, ConnectionId, Position, Room
from realtime.errors import ClientError, Disconnect, TokenExpired, TokenInvalid
from realtime.json_text import is_text, one_line
from realtime.protocol.centrifuge import answers
from realtime.protocol.centrifuge.messages import (
    Command,
    ConnectRequest,
    ConnectResult,
    Empty,
    HistoryRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    Push,
    RefreshRequest,
    RefreshResult,
    RPCRequest,
    RPCResult,
    SendRequest,
    SubRefreshRequest,
    SubRefreshResult,
    Subscribe,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeRequest,
)
from realtime.protocol.shapes import HistoryResult, PresenceStatsResult
from realtime.rooms.fanout import Accepts
from realtime.rooms.hub import Joined, PendingSubscription, RoomOptions
from realtime.session import tags
from realtime.session.connection import Subscription
from realtime.timing.rate import Meter

if TYPE_CHECKING:
    from realtime.protocol.centrifuge.session import Session

# After these an SDK subscribes again by itself: with another token, and from the stream's top.
COMES_AGAIN: Final = frozenset((codes.TOKEN_EXPIRED.code, codes.UNRECOVERABLE.code))

Wrong = TypeVar("Wrong", ClientError, Disconnect)

RESERVED: Final = "\0"  # rooms in which workers speak with each other
PRIVATE: Final = "$"  # a room of this prefix needs a subscription token
REPLY_UNRECOVERABLE: Final = 2  # bit of SubscribeRequest.flag: error 112 instead of a subscription that lost something
EMPTY: Final = Empty()
TTL_MAX_S: Final = 365 * 86400


# Connect and refresh


async def connect(session: Session, id: int, request: ConnectRequest) -> None:
    """Admit a client, with the rooms that its token and the application give it."""
    session.begin_connecting()
    connection, shared = session.connection, session.shared
    claims = await _connection_claims(session, request.token)
    if claims is not None:
        connection.user, connection.claims = claims.user, claims.raw
        connection.info = None if claims.info is None else msgspec.json.decode(claims.info)
    if request.headers:
        connection.emulated_headers = {name.lower(): value for name, value in request.headers.items()}
    data = await shared.application.connect(connection, _payload(request.data))
    for room in claims.channels if claims else ():
        await session.enter(Room(room))
    if len(session.granted) > shared.limits.rooms_per_connection:
        session.over("rooms", f"more than {shared.limits.rooms_per_connection} rooms")
        raise codes.ROOM_LIMIT.error()
    doors = await _enter_granted(session, request)
    is_admitted = False
    try:
        await shared.hub.departures.admit(ClientInfo(connection.user, connection.id, connection.snapshot()))
        if not session.is_open:
            return
        subs: dict[str, SubscribeResult] = {
            door.subscription.room: _subscribe_result(session, door, door.entry.commit()) for door in doors
        }
        is_admitted = True
    finally:
        if not is_admitted:
            _cancel(session, doors)
            shared.hub.departures.not_admitted(connection.user, connection.id)
    session.admit()
    expires, seconds = ttl(claims.expire_at_s if claims else None)
    ping, pong = session.pings_announced
    result = ConnectResult(
        client=connection.id,
        version=shared.home.version,
        expires=expires,
        ttl=seconds,
        data=_raw(session, data),
        subs=subs,
        ping=ping,
        pong=pong,
        time=int(time.time() * 1000),
    )
    if session.stream_id:
        result.session, result.node = session.stream_id, shared.home.worker
    if session.is_emulated:
        session.emulate()
    session.answer(id, "connect", result)
    for door in doors:
        _activate(session, door)
    session.expire_at(claims.expire_at_s if claims else None)


async def _connection_claims(session: Session, token: str) -> ConnectionClaims | None:
    """Return what a token says, or None for a client without one where those are welcome."""
    if not token:
        if not session.shared.limits.anonymous:
            session.log_refusal("connect", "it has no token, and --anonymous is off")
            raise codes.PROTOCOL.error()
        return None
    try:
        return await session.shared.tokens.verify_connection(token)
    except TokenExpired:
        raise codes.TOKEN_EXPIRED.error() from None
    except TokenInvalid as error:
        raise await _wrong(session, TOKEN, error, codes.INVALID_TOKEN.error()) from None


async def _wrong(session: Session, what: str, why: object, error: Wrong) -> Wrong:
    """Take note of a wrong token, and return the error when it is time to answer."""
    most_s = session.shared.limits.connect_s / 2  # a client that connects is not to be stale by then
    await session.shared.wrong.slow(what, session.connection.address, why, most_s=most_s)
    return error


async def _enter_granted(session: Session, request: ConnectRequest) -> list[Door]:
    doors: list[Door] = []
    try:
        for subscription in list(session.granted.values()):
            position = request.subs.get(subscription.room)
            since = Position(position.epoch, position.offset) if position and position.recover else None
            options = _options(session, subscription.room)
            doors.append(await _enter(session, subscription, options, since=since))
    except BaseException:
        _cancel(session, doors)
        raise
    session.granted.clear()
    return doors


async def refresh(session: Session, id: int, request: RefreshRequest) -> None:
    """Let a connection live longer, by a newer token of the same user."""
    try:
        claims = await session.shared.tokens.verify_connection(request.token)
    except TokenExpired:
        raise codes.CONNECTION_EXPIRED.error() from None
    except TokenInvalid as error:
        raise await _wrong(session, TOKEN, error, codes.INVALID_TOKEN.error()) from None
    if claims.user != session.connection.user:
        raise await _wrong(session, TOKEN, "it is another user's", codes.INVALID_TOKEN.error())
    if set(claims.channels) != set(channels_of(session.connection.claims or {})):
        raise codes.INSUFFICIENT_STATE.error()  # the client connects again, and is given those
    session.connection.claims = claims.raw
    session.expire_at(claims.expire_at_s)
    expires, seconds = ttl(claims.expire_at_s)
    result = RefreshResult(session.connection.id, session.shared.home.version, expires, seconds)
    session.answer(id, "refresh", result)


# Subscriptions


class Door(NamedTuple):
    """A subscription that is about to begin."""

    subscription: Subscription
    options: RoomOptions
    entry: PendingSubscription


async def subscribe(session: Session, id: int, request: SubscribeRequest) -> None:
    """Bring a client into a room, with what it missed where it asks for that."""
    room = _room(session, request.channel)
    if request.type:  # rooms of keys, and shared polls, which are not here
        raise codes.NOT_AVAILABLE.error()
    if request.delta not in ("", "fossil"):
        raise codes.PROTOCOL.error()
    connection = session.connection
    if room in connection.subscriptions or room in session.entering:
        raise codes.ALREADY_SUBSCRIBED.error()
    if len(connection.subscriptions) + len(session.entering) >= session.shared.limits.rooms_per_connection:
        session.over("rooms", f"more than {session.shared.limits.rooms_per_connection} rooms")
        raise codes.LIMIT_EXCEEDED.error()
    options = _options(session, room)
    accepts = _accepts(options, request)
    if request.recover:
        answers.check(session, recovers=True)
    session.entering[room] = None
    try:
        subscription = Subscription(room)
        data = await _authorise(session, subscription, request.token)
        said = await session.shared.application.subscribe(connection, room, _payload(request.data))
        since = Position(request.epoch, request.offset) if request.recover else None
        subscription.delta = options.delta and options.recover and request.delta == "fossil"
        door = await _enter(session, subscription, options, since=since, accepts=accepts)
        try:
            _finish_subscribe(session, id, request, door, said if said is not None else data)
        except BaseException:
            session.shared.hub.cancel(door.entry)
            raise
    except ClientError as error:
        if error.temporary or error.code in COMES_AGAIN:
            session.lose(room)
        else:
            session.lost -= {room}  # it is not to come back
        raise
    except Exception:  # a fault of ours, and answered as temporary
        session.lose(room)
        raise
    finally:
        session.entered(room)


def _finish_subscribe(session: Session, id: int, request: SubscribeRequest, door: Door, data: bytes | None) -> None:
    """Answer and go live. Not a coroutine: nothing may come between the answer and the first publication."""
    if not session.is_open:
        session.shared.hub.cancel(door.entry)
        return
    joined = door.entry.commit()
    if request.flag & REPLY_UNRECOVERABLE and request.recover and door.options.recover and not joined.recovered:
        raise codes.UNRECOVERABLE.error()
    result = _subscribe_result(session, door, joined)
    result.data = _raw(session, data)
    result.expires, result.ttl = ttl(door.subscription.expire_at_s)
    size = session.answer(id, "subscribe", result)
    if result.publications:
        answers.charge(session, size)
    _activate(session, door)


async def subscribe_from_server(
    session: Session, subscription: Subscription, *, data: bytes | None = None, since: Position | None = None
) -> None:
    """
    Bring a connected client into a room that it did not ask for, and notify it.

    Args:
        subscription: of a room in which the client is not yet; harmless where it is.
        data: comes with the notification.
        since: what was published after it follows the notification, where the room still has all of that. Else the
            client begins at the stream's top: it has asked for nothing that it could miss.
    """
    room = _room(session, subscription.room)
    if room in session.entering:
        session.entering[room] = None  # also if it was to be left again
        return
    if room in session.connection.subscriptions:
        return
    if len(session.connection.subscriptions) >= session.shared.limits.rooms_per_connection:
        raise codes.LIMIT_EXCEEDED.error()
    session.entering[room] = None
    try:
        door = await _enter(session, subscription, _options(session, room), since=since)
        try:
            if session.is_open:
                _notify_subscribed(session, door, data)
        finally:
            session.shared.hub.cancel(door.entry)  # harmless for a member
    finally:
        session.entered(room)


def _notify_subscribed(session: Session, door: Door, data: bytes | None) -> None:
    """Write the notification and what it recovers, and go live. Not a coroutine: see `_finish_subscribe`."""
    room, joined = door.subscription.room, door.entry.commit()
    told = Subscribe(recoverable=door.options.recover, positioned=door.options.recover, data=_raw(session, data))
    if joined.position is not None:
        told.epoch, told.offset = joined.position.epoch, joined.position.offset
    recovers = door.entry.since is not None and joined.recovered
    if recovers:
        assert door.entry.since is not None
        told.offset = door.entry.since.offset
    session.write(session.codec.push(Push(channel=room, subscribe=told)))
    if recovers:
        for publication in joined.publications:
            session.write(session.codec.push_publication(room, publication))
    _activate(session, door)


def _accepts(options: RoomOptions, request: SubscribeRequest) -> Accepts | None:
    """Return what a filter by tags lets through, or None where there is none."""
    if request.tf is None:
        return None
    if not options.filters or request.delta:  # a difference to what was filtered out helps nobody
        raise codes.BAD_REQUEST.error()
    try:
        wanted = tags.compile_filter(request.tf)
    except tags.BadFilter as error:
        raise ClientError(codes.BAD_REQUEST.code, f"{codes.BAD_REQUEST.message}: {error}") from None
    return lambda publication: wanted(publication.tags or {})


async def _enter(
    session: Session,
    subscription: Subscription,
    options: RoomOptions,
    *,
    since: Position | None,
    accepts: Accepts | None = None,
) -> Door:
    connection, room = session.connection, subscription.room
    info = connection.describe()
    if subscription.chan_info is not None:
        info = msgspec.structs.replace(info, chan_info=subscription.chan_info)
    subscription.join_leave = options.join_leave
    subscription.positioned = options.recover
    entry = await session.shared.hub.enter(
        room,
        session,
        options,
        info=info,
        since=since if options.recover else None,
        watches=subscription.join_leave,
        wire=session.shared.wire(session.codec, session.transport.framing, is_delta=True)
        if subscription.delta
        else None,
        accepts=_both(accepts, session.shared.application.accepts(connection, room)),
    )
    subscription.shown = None if entry.info is None else ConnectionId(entry.info.connection_id)
    return Door(subscription, options, entry)


def _both(one: Accepts | None, other: Accepts | None) -> Accepts | None:
    """Return what lets through what both do."""
    if one is None or other is None:
        return one or other
    return lambda publication: one(publication) and other(publication)


def _activate(session: Session, door: Door) -> None:
    session.connection.subscriptions[door.subscription.room] = door.subscription
    session.shared.hub.activate(door.entry)
    session.choose_patience()
    session.watch_subscription(door.subscription)


def _cancel(session: Session, doors: list[Door]) -> None:
    for door in doors:
        session.shared.hub.cancel(door.entry)


def _subscribe_result(session: Session, door: Door, joined: Joined) -> SubscribeResult:
    """
    Return what a client is told of its subscription. After a recovery the position is the one it asked for: it moves
    on by the publications (protocol, section 6.1, step 9).
    """
    delta = door.subscription.delta
    result = SubscribeResult(recoverable=door.options.recover, positioned=door.options.recover, delta=delta)
    if joined.position is None:
        return result
    since = door.entry.since
    result.epoch = joined.position.epoch
    result.offset = since.offset if since is not None and joined.recovered else joined.position.offset
    result.was_recovering = since is not None
    result.recovered = joined.recovered
    result.publications = [session.codec.pub_of(publication, delta=delta) for publication in joined.publications]
    return result


async def _authorise(session: Session, subscription: Subscription, token: str) -> bytes | None:
    """Check the subscription token where there is one or has to be one; return the data that it carries."""
    if not token:
        if subscription.room.startswith(PRIVATE):
            raise codes.PERMISSION_DENIED.error()
        return None
    claims = await _subscription_claims(session, subscription.room, token)
    subscription.chan_info = None if claims.info is None else one_line(claims.info)
    subscription.expire_at_s = claims.expire_at_s
    return claims.data


async def _subscription_claims(session: Session, room: Room, token: str) -> SubscriptionClaims:
    try:
        claims = await session.shared.tokens.verify_subscription(token)
    except TokenExpired:
        raise codes.TOKEN_EXPIRED.error() from None
    except TokenInvalid as error:
        raise await _wrong(session, SUBSCRIPTION_TOKEN, error, codes.PERMISSION_DENIED.error()) from None
    connection = session.connection
    if claims.channel != room or claims.user != connection.user or claims.client not in (None, "", connection.id):
        why = "it is for another room, user or connection"
        raise await _wrong(session, SUBSCRIPTION_TOKEN, why, codes.INVALID_TOKEN.error())
    return claims


async def sub_refresh(session: Session, id: int, request: SubRefreshRequest) -> None:
    """Let a subscription live longer, by a newer token."""
    room = _room(session, request.channel)
    subscription = session.connection.subscriptions.get(room)
    if subscription is None:
        raise codes.PERMISSION_DENIED.error()
    if not request.token:
        raise codes.BAD_REQUEST.error()
    if subscription.expire_at_s is None:
        raise codes.PROTOCOL.error()
    claims = await _subscription_claims(session, room, request.token)
    subscription.expire_at_s = claims.expire_at_s
    session.watch_subscription(subscription)
    session.answer(id, "sub_refresh", SubRefreshResult(*ttl(subscription.expire_at_s)))


async def unsubscribe(session: Session, id: int, request: UnsubscribeRequest) -> None:
    """Take a client out of a room; one in which it is not is no error."""
    session.leave(_room(session, request.channel))
    session.answer(id, "unsubscribe", Empty())


# In a room


async def publish(session: Session, id: int, request: PublishRequest) -> None:
    """Publish into a room, as the application words it."""
    room, options = _permitted(session, request.channel, "publish")
    if request.type:
        raise codes.NOT_AVAILABLE.error()
    data = _payload(request.data)
    if data is None or not (options.binary or not session.codec.IS_BINARY or is_text(data)):
        raise codes.BAD_REQUEST.error()
    if not options.publish:
        raise codes.PERMISSION_DENIED.error()
    if options.is_metered:
        await _spend(session, room, options)
    worded = await session.shared.application.publish(session.connection, room, data)
    if worded is not None:
        info = session.connection.describe(room)
        publishing = session.shared.hub.publish(
            room,
            worded if options.binary else one_line(worded),
            info=info,
            exclude="" if options.echo else session.connection.id,
        )
        if session.publish_on_the_side(publishing, id):
            return
        await publishing
    session.answer(id, "publish", EMPTY)


async def _spend(session: Session, room: Room, options: RoomOptions) -> None:
    """Count a publication against the room's rates, the cheapest first."""
    connection, subscription = session.connection, session.connection.subscriptions.get(room)
    rate = options.rate
    if rate is not None:
        if subscription is None:  # not a member: a meter of its own would be one for each room that it names
            is_within = await session.shared.hub.allow(room, f"connection {connection.id}", rate)
        else:
            if subscription.meter is None:
                subscription.meter = Meter()
            is_within = subscription.meter.take(asyncio.get_running_loop().time(), rate)
        if not is_within:
            _too_many(session, "rate", f"{room}: more than {rate} of this connection")
    user, rate = connection.user, options.user_rate
    if rate is not None:
        who = f"user {user}" if user else f"address {connection.address}"
        if not await session.shared.hub.allow(room, who, rate):
            _too_many(session, "user_rate", f"{room}: more than {rate} of this {who.partition(' ')[0]}")
    rate = options.room_rate
    if rate is not None and not await session.shared.hub.allow(room, "all", rate):
        _too_many(session, "room_rate", f"{room}: more than {rate} of all together")


def _too_many(session: Session, limit: str, why: str) -> NoReturn:
    session.over(limit, why)
    raise codes.TOO_MANY_REQUESTS.error()


async def presence(session: Session, id: int, request: PresenceRequest) -> None:
    """Tell who is in a room."""
    room, _ = _permitted(session, request.channel, "presence")
    answers.check(session)
    reply = answers.presence_reply(session, id, room, await session.shared.hub.census(room))
    session.write(reply)
    answers.charge(session, len(reply))


async def presence_stats(session: Session, id: int, request: PresenceStatsRequest) -> None:
    """Tell how many are in a room."""
    room, _ = _permitted(session, request.channel, "presence")
    counts = await session.shared.hub.member_counts(room)
    session.answer(id, "presence_stats", PresenceStatsResult(counts.clients, counts.users))


async def history(session: Session, id: int, request: HistoryRequest) -> None:
    """Tell what was published in a room (protocol, section 7.3)."""
    room, _ = _permitted(session, request.channel, "history")
    since = None if request.since is None else Position(request.since.epoch, request.since.offset)
    if request.limit < -1 or (since is not None and request.reverse and not since.offset):
        raise codes.BAD_REQUEST.error()
    answers.check(session)
    most = session.shared.limits.history_page
    limit = most if request.limit == -1 else min(request.limit, most)
    page = await session.shared.hub.history(room, since=since, limit=limit, reverse=request.reverse)
    if since is not None and since.epoch not in ("", page.top.epoch):
        raise codes.UNRECOVERABLE.error()
    publications = [session.codec.pub_of(each) for each in page.publications]
    result = HistoryResult(publications, page.top.epoch, page.top.offset)
    answers.charge(session, session.answer(id, "history", result))


# Apart from rooms


async def rpc(session: Session, id: int, request: RPCRequest) -> None:
    """Call a method of the application."""
    data = await session.shared.application.rpc_call(session.connection, request.method, _payload(request.data))
    session.answer(id, "rpc", RPCResult(_raw(session, data)))


async def send(session: Session, id: int, request: SendRequest) -> None:
    """Hand a message to the application. It has no answer."""
    data = _payload(request.data)
    if data is None:
        raise codes.PROTOCOL.error()
    await session.shared.application.message(session.connection, data)


# What they share


def _room(session: Session, name: str) -> Room:
    """Check a room's name."""
    if not name:
        raise codes.PROTOCOL.error()
    if len(name.encode()) > session.shared.limits.room_name_bytes or name.startswith(RESERVED):
        raise codes.BAD_REQUEST.error()
    return Room(name)


def _options(session: Session, room: Room) -> RoomOptions:
    options = session.shared.application.room_options(room)
    if options is None:
        raise codes.UNKNOWN_ROOM.error()
    if options.binary and not session.codec.IS_BINARY:  # what is published there need not be JSON
        raise codes.NOT_AVAILABLE.error()
    return options


def _permitted(session: Session, name: str, deed: str) -> tuple[Room, RoomOptions]:
    """
    Return a room in which the client may do something, one of `FOR_OTHERS`: it is a member, or the room lets others do
    this as well.

    Raises:
        ClientError: the room has no such thing (108), or the client may not (103); a temporary one where that is none
            of the client's doing.
    """
    room = _room(session, name)
    options = _options(session, room)
    if (deed == "presence" and not options.presence) or (deed == "history" and not options.retention.size):
        raise codes.NOT_AVAILABLE.error()
    if room not in session.connection.subscriptions and deed not in options.for_others:
        # Who was put out for what the broker lost comes back by itself, and may do then what it may not now.
        raise (codes.UNAVAILABLE if room in session.lost else codes.PERMISSION_DENIED).error()
    return room, options


def _payload(data: Raw | UnsetType) -> bytes | None:
    """Return a payload apart from the message that it came in, which is not kept for its sake."""
    return None if isinstance(data, UnsetType) or not data else bytes(data)


def _raw(session: Session, data: bytes | None) -> Raw | UnsetType:
    return UNSET if data is None else Raw(session.codec.payload(data))


def ttl(expire_at_s: float | None) -> tuple[bool, int]:
    """Return the fields `expires` and `ttl`, in whole seconds."""
    if expire_at_s is None:
        return False, 0
    return True, max(1, min(int(expire_at_s - time.time()), TTL_MAX_S))


Method = Callable[["Session", int, Any], Awaitable[None]]

TABLE: Final[dict[str, Method]] = {
    "publish": publish,
    "rpc": rpc,
    "send": send,
    "connect": connect,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "history": history,
    "presence": presence,
    "presence_stats": presence_stats,
    "refresh": refresh,
    "sub_refresh": sub_refresh,
}  # the commonest first


def method_of(command: Command) -> tuple[str | None, Any]:
    """Return the name and the request of a command; no name where it has none that we know."""
    for name in TABLE:
        request = getattr(command, name)
        if request is not None:
            return name, request
    return None, None
