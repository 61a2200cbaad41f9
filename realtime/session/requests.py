"""
What a client may do apart from subscribing: connect, refresh, publish, look at a room, call the application.

Runs in the worker, inside the task of one session, one request at a time. Each is a call with plain arguments and a
plain result, whatever the wire protocol: that decodes the one and encodes the other. A request raises `ClientError` for
an answer that is an error, and `Disconnect` where the connection has to end. None keeps anything of its own: what
outlives it stands in the session's state.

Publishing, presence and history are for members of the room, unless its declaration says otherwise (`for_others`). So
`on_subscribe` is the one gate of a room, and an application cannot forget a second one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from realtime import codes
from realtime.auth.tokens import ConnectionClaims
from realtime.broker.base import (
    ClientInfo,
    ConnectionId,
    History,
    MemberCounts,
    Position,
    Published,
    PublishRequest,
    Room,
)
from realtime.json_text import is_text, one_line
from realtime.rooms.census import Census
from realtime.rooms.options import RoomOptions
from realtime.session import claims, metering
from realtime.session.base import Subscribed
from realtime.session.entry import Entry, subscribed
from realtime.session.session import Session
from realtime.timing.rate import Meter


class Connected(Struct, frozen=True):
    """What a client gets to know when it is admitted: the application's data, its rooms, when it expires."""

    data: bytes | None
    subscribed: Sequence[Subscribed]
    expire_at_s: float | None


async def connect(
    session: Session,
    answer: Callable[[Connected], None],
    *,
    token: str = "",
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    positions: Mapping[str, Position] | None = None,
    entering: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """
    Admit a client, with the rooms that its token and the application give it.

    Args:
        session: of which this is the first command.
        answer: writes the answer. It is called once, in the turn in which the subscriptions begin; not where the
            connection has ended meanwhile.
        token: a connection token.
        data: for the application's `on_connect`.
        headers: what the client itself says in place of headers.
        positions: from where it recovers in rooms that the server gives it.
        entering: enters what the client is in already while `on_connect` runs.

    Raises:
        ClientError: it is not admitted, and may say so to the client; the connection stays until it goes.
        Disconnect: it is not admitted, and the connection ends.
    """
    session.begin_connecting()
    connection, services = session.connection, session.services
    found = await _identify(session, token)
    if headers:
        connection.emulated_headers = {name.lower(): value for name, value in headers.items()}
    if entering is not None:
        await entering()
    of_handler = await services.application.connect(connection, data)
    for room in found.channels if found else ():
        await session.enter(Room(room))
    entries: list[Entry] = []
    if session.state.granted:
        _check_room_limit(session)
        entries = await session.enter_granted(positions or {})
    ends = services.hub.departures.ends
    is_admitted = False
    try:
        if ends.are_handled:
            await ends.admit(ClientInfo(connection.user, connection.id, connection.snapshot()))
        if not session.is_open:
            return
        begun = [subscribed(entry, entry.pending.commit()) for entry in entries]
        is_admitted = True
    finally:
        if not is_admitted:
            session.cancel(entries)
            ends.not_admitted(connection.user, connection.id)
    session.admit()
    expire_at_s = found.expire_at_s if found else None
    answer(Connected(of_handler, begun, expire_at_s))
    session.activate(entries)
    if expire_at_s is not None:
        session.expire_at(expire_at_s)


async def _identify(session: Session, token: str) -> ConnectionClaims | None:
    """Make the client the user of its token, before `on_connect` runs; return the claims, None without a token."""
    found = await claims.of_connection(session.services, session.state.identity, token)
    if found is not None:
        connection = session.connection
        connection.user, connection.claims = found.user, found.raw
        connection.info = None if found.info is None else msgspec.json.decode(found.info)
    return found


def _check_room_limit(session: Session) -> None:
    """See that token and `on_connect` give no more rooms than a client may have. There is nothing to ask again."""
    most = session.services.limits.rooms_per_connection
    if len(session.state.granted) > most:
        metering.over(session.services, session.state, "rooms", f"more than {most} rooms")
        raise codes.ROOM_LIMIT.error()


async def refresh(session: Session, token: str) -> float | None:
    """Let a connection live longer, by a newer token of the same user. Return when that expires, in Unix time."""
    found = await claims.of_refresh(session.services, session.state.identity, token)
    session.connection.claims = found.raw
    session.expire_at(found.expire_at_s)
    return found.expire_at_s


# In a room


def permitted(session: Session, name: str, deed: str) -> tuple[Room, RoomOptions]:
    """
    Return a room in which the client may do something, one of `FOR_OTHERS`: it is a member, or the room lets others do
    this as well.

    Raises:
        ClientError: the room has no such thing (108), or the client may not (103); a temporary one where that is none
            of the client's doing.
    """
    room = session.room_named(name)
    options = session.options_of(room)
    if (deed == "presence" and not options.presence) or (deed == "history" and not options.retention.size):
        raise codes.NOT_AVAILABLE.error()
    if room not in session.state.subscriptions and deed not in options.for_others:
        # A client that was removed for what the broker lost comes back by itself, and may do then what it may not now.
        raise (codes.UNAVAILABLE if room in session.state.lost else codes.PERMISSION_DENIED).error()
    return room, options


async def publish(
    session: Session,
    room: Room,
    options: RoomOptions,
    data: bytes | None,
    *,
    tags: Mapping[str, str] | None = None,
    without_sender: bool = False,
) -> Coroutine[Any, Any, Published] | None:
    """
    Run the room's handler on a payload. Return the publishing of what it made of it; None where it drops it.

    Nothing is published yet: the caller awaits the coroutine, or gives it to `Session.publish_concurrently`.

    Args:
        session: of the client that publishes.
        room: in which `permitted` lets it.
        options: of the room.
        data: a JSON text, or any bytes where the room is `binary`.
        tags: short texts beside it.
        without_sender: the client does not get it, also where the room has `echo`.

    Raises:
        ClientError: it is no payload of this room, clients may not publish there, or it came too soon.
    """
    if data is None or not (options.binary or not session.dialect.is_binary or is_text(data)):
        raise codes.BAD_REQUEST.error()
    if not options.publish:
        raise codes.PERMISSION_DENIED.error()
    if options.is_metered:
        await _spend(session, room, options)
    connection = session.connection
    accepted = await session.services.application.publish(connection, room, data)
    if accepted is None:
        return None
    return session.services.hub.broker.publish(
        PublishRequest(
            room,
            accepted if options.binary else one_line(accepted),
            options.retention,
            info=connection.describe(room),
            tags=tags,
            exclude="" if options.echo and not without_sender else connection.id,
        )
    )


async def _spend(session: Session, room: Room, options: RoomOptions) -> None:
    """Count a publication against the room's rates, the cheapest first."""
    connection, subscription = session.connection, session.state.subscriptions.get(room)
    broker, rate = session.services.hub.broker, options.rate
    if rate is not None:
        if subscription is None:  # not a member: a meter of its own would be one for each room that it names
            is_within = await broker.allow(room, f"connection {connection.id}", rate)
        else:
            if subscription.meter is None:
                subscription.meter = Meter()
            is_within = subscription.meter.take(asyncio.get_running_loop().time(), rate)
        if not is_within:
            _too_many(session, "rate", f"{room}: more than {rate} of this connection")
    user, rate = connection.user, options.user_rate
    if rate is not None:
        by = f"user {user}" if user else f"address {connection.address}"
        if not await broker.allow(room, by, rate):
            _too_many(session, "user_rate", f"{room}: more than {rate} of this {by.partition(' ')[0]}")
    rate = options.room_rate
    if rate is not None and not await broker.allow(room, "all", rate):
        _too_many(session, "room_rate", f"{room}: more than {rate} of all together")


def _too_many(session: Session, limit: str, why: str) -> NoReturn:
    """Refuse a publication that came too soon, and log the first time."""
    metering.over(session.services, session.state, limit, why)
    raise codes.TOO_MANY_REQUESTS.error()


async def presence(session: Session, name: str) -> tuple[Census, dict[ConnectionId, ClientInfo]]:
    """
    Return the members of a room, and those to add: the client itself may be newer than that. The caller must charge
    for the answer.
    """
    room, _ = permitted(session, name, "presence")
    metering.check_answer(session.services, session.state)
    census = await session.services.hub.members.census(room)
    subscription = session.state.subscriptions.get(room)
    if subscription is None or subscription.shown is None or subscription.shown in census.members:
        return census, {}
    return census, {subscription.shown: session.connection.describe(room)}


async def presence_stats(session: Session, name: str) -> MemberCounts:
    """Count the members of a room."""
    room, _ = permitted(session, name, "presence")
    return await session.services.hub.members.counts(room)


async def history(session: Session, name: str, *, since: Position | None, limit: int, reverse: bool) -> History:
    """Return a page of what was published in a room. `limit` -1: as many as there may be. The caller must charge."""
    room, options = permitted(session, name, "history")
    if limit < -1 or (since is not None and reverse and not since.offset):
        raise codes.BAD_REQUEST.error()
    metering.check_answer(session.services, session.state)
    most = session.services.limits.history_page
    limit = most if limit == -1 else min(limit, most)
    page = await session.services.hub.broker.history(
        room, retention=options.retention, since=since, limit=limit, reverse=reverse
    )
    if since is not None and since.epoch not in ("", page.top.epoch):
        raise codes.UNRECOVERABLE.error()
    return page


# Apart from rooms


def rpc(session: Session, method: str, data: bytes | None) -> Awaitable[bytes | None]:
    """Call a method of the application; the caller awaits its answer."""
    return session.services.application.rpc_call(session.connection, method, data)


async def send(session: Session, data: bytes | None) -> None:
    """Hand a message to the application. It has no answer."""
    if data is None:
        raise codes.PROTOCOL.error()
    await session.services.application.message(session.connection, data)
