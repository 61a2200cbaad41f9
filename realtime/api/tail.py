"""
A room, followed by a program: its publications as server-sent events.

Runs in the worker, for as long as the request lasts. The program that follows is a member of the room as the hub has
it, and no client sees it: it has no presence, and no handler hears of it. It gets what comes from now on; what was
before is `history`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from urllib.parse import parse_qs

from realtime import codes
from realtime.broker.base import ClientInfo, Room
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.rooms.fanout import Encoder
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.rooms.pending import Insufficient
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.client_log import SLOW_CLIENT
from realtime.transport.http import UNCACHED, begin_response, connection_of, cut, gone, respond_text
from realtime.transport.stream import EVENTS, SLOW, Stream, StreamLimits

logger = logging.getLogger("realtime.api")


async def tail(hub: Hub, encoder: Encoder, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `GET …/tail?channel=ROOM`, until the program has gone or takes nothing. `encoder`: of `EVENTS`."""
    names = parse_qs(scope["query_string"].decode("latin-1")).get("channel", [])
    options = hub.declarations.room_options(Room(names[0])) if names and not names[0].startswith("\0") else None
    if options is None:
        await respond_text(send, 404, b"?channel= names no room that is declared.\n")
        return
    room, follower = Room(names[0]), _Follower(encoder)
    problem = await _enter(hub, room, options, follower)
    if problem:
        await respond_text(send, 503, problem)
        return
    try:
        takes_nothing = await _follow(room, follower, scope, receive, send)
    finally:
        hub.leave(room, follower, info=None)
    if takes_nothing:
        cut(scope)
    else:
        await send({"type": "http.response.body", "body": b""})


async def _enter(hub: Hub, room: Room, options: RoomOptions, follower: _Follower) -> bytes:
    """
    Make the follower a member. Return why it is none; nothing where it is, and the caller owes `hub.leave`.

    Between entering and `activate` the hub keeps what is published, as for any member: so the first event is the first
    publication after this, with none left out.
    """
    info = ClientInfo("", follower.connection_id)
    try:
        entry = await hub.enter(room, follower, options.unseen(), info=info, watches=options.join_leave)
    except BrokerUnavailable:
        return b"The broker is away.\n"
    try:
        entry.commit()
    except Insufficient:
        hub.cancel(entry)
        return b"Publications were lost just now. Try again.\n"
    hub.activate(entry)
    return b""


async def _follow(room: Room, follower: _Follower, scope: Scope, receive: Receive, send: Send) -> bool:
    """Write what the follower gets until the program has gone. Return whether it was cut off, for it took nothing."""
    if (connection := connection_of(scope)) is not None:
        connection.expect_peer()
    stream = follower.transport

    async def write() -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *UNCACHED]
        await begin_response(send, 200, headers)
        await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
        await stream.pump(send)

    left = asyncio.ensure_future(gone(receive))
    writing = asyncio.ensure_future(write())
    try:
        await asyncio.wait((left, writing), return_when=asyncio.FIRST_COMPLETED)
        takes_nothing = writing.done() and isinstance(writing.exception(), TimeoutError)
        if takes_nothing or stream.ended == SLOW:
            size, name = stream.buffered(), follower.connection_id
            log(logger, logging.WARNING, SLOW_CLIENT, connection=name, room=room, waiting_bytes=size)
    finally:
        for task in (left, writing):
            task.cancel()
        await asyncio.gather(left, writing, return_exceptions=True)
    return takes_nothing


class _Follower:
    """
    A program that follows a room; it is a member that others do not see.

    To the hub it is a subscriber like a session: `wire` encodes what it gets, `transport` takes it. What it lacks is
    everything by which a client would be told or counted. A follower that misses something is ended, since it has no
    position from which it could recover: the program reads `history`, and follows anew.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.connection_id = f"tail-{secrets.token_hex(8)}"
        self.transport = Stream(EVENTS, EVENTS, StreamLimits())

    def insufficient(self, room: Room) -> None:
        """End it, for publications were lost on their way to this worker."""
        self.transport.close(codes.INSUFFICIENT_STATE.code, codes.INSUFFICIENT_STATE.reason)
