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
    room = Room(names[0])
    follower = _Follower(encoder)
    try:
        entry = await hub.enter(
            room,
            follower,
            options.unseen(),
            info=ClientInfo("", follower.connection_id),
            watches=options.join_leave,
        )
    except BrokerUnavailable:
        await respond_text(send, 503, b"The broker is away.\n")
        return
    try:
        entry.commit()
    except Insufficient:
        hub.cancel(entry)
        await respond_text(send, 503, b"Publications were lost just now. Try again.\n")
        return
    hub.activate(entry)
    if (connection := connection_of(scope)) is not None:
        connection.expect_peer()

    async def follow() -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *UNCACHED]
        await begin_response(send, 200, headers)
        await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
        await follower.transport.pump(send)

    left = asyncio.ensure_future(gone(receive))
    pumping = asyncio.ensure_future(follow())
    try:
        await asyncio.wait((left, pumping), return_when=asyncio.FIRST_COMPLETED)
        takes_nothing = pumping.done() and isinstance(pumping.exception(), TimeoutError)
        if takes_nothing or follower.transport.ended == SLOW:
            size, name = follower.transport.buffered(), follower.connection_id
            log(logger, logging.WARNING, SLOW_CLIENT, connection=name, room=room, waiting_bytes=size)
    finally:
        for task in (left, pumping):
            task.cancel()
        await asyncio.gather(left, pumping, return_exceptions=True)
        hub.leave(room, follower, info=None)
    if takes_nothing:
        cut(scope)
    else:
        await send({"type": "http.response.body", "body": b""})


class _Follower:
    """A program that follows a room; it is a member that others do not see."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.connection_id = f"tail-{secrets.token_hex(8)}"
        self.transport = Stream(EVENTS, EVENTS, StreamLimits())

    def insufficient(self, room: Room) -> None:
        self.transport.close(codes.INSUFFICIENT_STATE.code, codes.INSUFFICIENT_STATE.reason)
