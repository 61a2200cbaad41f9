"""
The commands of the protocol: from each to a call of the session, and from what that returns to the answer.

Runs in the worker, inside the task of one session, one command at a time (Centrifuge client protocol, sections 4 to
10). `TABLE` says which function takes which command. What a command means is in session/: nothing here decides about
rooms, tokens or rates, and nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from msgspec import UNSET, Raw

from realtime import codes
from realtime.broker.base import Position
from realtime.errors import BrokerUnavailable, ClientError, Disconnect, TokenUnverified
from realtime.log_lines import log
from realtime.protocol.centrifuge.call import Call, payload, ttl
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.messages import (
    Command,
    ConnectCommand,
    ConnectResult,
    EmptyResult,
    HistoryCommand,
    PresenceCommand,
    PresenceStatsCommand,
    PublishCommand,
    RefreshCommand,
    RefreshResult,
    RPCCommand,
    RPCResult,
    SendCommand,
    SubRefreshCommand,
    SubRefreshResult,
    SubscribeCommand,
    SubscribeResult,
    UnsubscribeCommand,
)
from realtime.protocol.shapes import HistoryResult, PresenceStatsResult
from realtime.rooms.pending import Insufficient
from realtime.session import metering, requests
from realtime.session.base import Subscribed
from realtime.session.requests import Connected
from realtime.session.session import Session
from realtime.session.state import CONNECTED, Phase

REPLY_UNRECOVERABLE: Final = 2  # bit of SubscribeCommand.flag: error 112 instead of a subscription that lost something
EMPTY: Final = EmptyResult()

logger = logging.getLogger("realtime.session")


class Wording(Protocol):
    """How answers are encoded and framed: of a dialect, as commands need it."""

    codec: Codec
    frame: Callable[[bytes], bytes]


async def execute(wording: Wording, session: Session, command: Command) -> None:
    """
    Run one command, and answer it, also where it failed. It is a method of the dialect, written here.

    Raises:
        Disconnect: the connection has to end.
    """
    method, request = method_of(command)
    if method is None or (command.id <= 0 and method != "send"):
        raise codes.PROTOCOL.error()
    if session.state.phase is not (Phase.NEW if method == "connect" else CONNECTED):
        raise (session.state.refusal or codes.PROTOCOL).error()
    call = Call(session, wording.codec, wording.frame, command.id, method)
    try:
        if session.services.commands is not None and method != "connect":
            metering.count_command(session.services, session.state, has_answer=method != "send")
        await TABLE[method](call, request)
    except ClientError as error:
        call.fail(error)
    except BrokerUnavailable as error:
        call.log_unavailable(error)
        call.fail(codes.UNAVAILABLE)
    except TokenUnverified as error:
        log(logger, logging.INFO, "token not verified", connection=session.connection_id, command=method, reason=error)
        call.fail(codes.UNAVAILABLE)
    except Insufficient:
        raise codes.INSUFFICIENT_STATE.error() from None
    except Disconnect:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        call.log_failed("it waited for something that was cancelled")
        call.fail(codes.INTERNAL)
    except Exception:  # noqa: BLE001 - logged with its traceback
        call.log_failed()
        call.fail(codes.INTERNAL)


# The connection


async def connect(call: Call, request: ConnectCommand) -> None:
    """Admit the client."""
    await requests.connect(
        call.session,
        lambda connected: _answer_connect(call, connected),
        token=request.token,
        data=payload(request.data),
        headers=request.headers,
        positions={name: Position(each.epoch, each.offset) for name, each in request.subs.items() if each.recover},
    )


def _answer_connect(call: Call, connected: Connected) -> None:
    """Write the answer to `connect`. Its parts are those of section 5.1."""
    session = call.session
    home, stream_id = session.services.home, session.stream_id
    expires, seconds = ttl(connected.expire_at_s)
    ping, pong = session.pings_announced
    result = ConnectResult(
        client=session.connection.id,
        version=home.version,
        expires=expires,
        ttl=seconds,
        data=call.raw(connected.data),
        subs={each.room: _subscribe_result(call, each) for each in connected.subscribed},
        ping=ping,
        pong=pong,
        time=int(time.time() * 1000),
    )
    if stream_id:
        result.session, result.node = stream_id, home.worker
    call.answer(result)


async def refresh(call: Call, request: RefreshCommand) -> None:
    """Let the connection live longer."""
    expires, seconds = ttl(await requests.refresh(call.session, request.token))
    call.answer(RefreshResult(call.session.connection.id, call.session.services.home.version, expires, seconds))


# Subscriptions


async def subscribe(call: Call, request: SubscribeCommand) -> None:
    """Bring the client into a room, with what it missed where it asks for that."""
    room = call.session.room_named(request.channel)
    if request.type:  # rooms of keys, and shared polls, which are not here
        raise codes.NOT_AVAILABLE.error()
    if request.delta not in ("", "fossil"):
        raise codes.PROTOCOL.error()
    await call.session.subscribe(
        room,
        lambda subscribed: call.answer(_subscribe_result(call, subscribed)),
        token=request.token,
        data=payload(request.data),
        since=Position(request.epoch, request.offset) if request.recover else None,
        must_recover=bool(request.flag & REPLY_UNRECOVERABLE),
        delta=request.delta == "fossil",
        filter=request.tf,
    )


def _subscribe_result(call: Call, subscribed: Subscribed) -> SubscribeResult:
    """Return what a client gets to know of its subscription (protocol, section 6.1)."""
    is_recoverable, delta = subscribed.recoverable, subscribed.delta
    result = SubscribeResult(recoverable=is_recoverable, positioned=is_recoverable, delta=delta)
    result.data = call.raw(subscribed.data)
    result.expires, result.ttl = ttl(subscribed.expire_at_s)
    if subscribed.position is not None:
        result.epoch, result.offset = subscribed.position.epoch, subscribed.position.offset
        result.was_recovering, result.recovered = subscribed.was_recovering, subscribed.recovered
        result.publications = [call.codec.pub_of(each, delta=delta) for each in subscribed.publications]
    return result


async def sub_refresh(call: Call, request: SubRefreshCommand) -> None:
    """Let a subscription live longer."""
    session = call.session
    subscription = await session.prolong(session.room_named(request.channel), request.token)
    call.answer(SubRefreshResult(*ttl(subscription.expire_at_s)))


async def unsubscribe(call: Call, request: UnsubscribeCommand) -> None:
    """Take the client out of a room; one in which it is not is no error."""
    call.session.leave(call.session.room_named(request.channel))
    call.answer(EMPTY)


# In a room


async def publish(call: Call, request: PublishCommand) -> None:
    """Publish into a room. Where the broker keeps the order of calls, the next command need not wait for this one."""
    session = call.session
    room, options = requests.permitted(session, request.channel, "publish")
    if request.type:
        raise codes.NOT_AVAILABLE.error()
    publishing = await requests.publish(session, room, options, payload(request.data))
    if publishing is None:
        call.answer(EMPTY)
    elif session.may_publish_concurrently:
        session.publish_concurrently(_answer_publish(call, publishing))
    else:
        await publishing
        call.answer(EMPTY)


async def _answer_publish(call: Call, publishing: Coroutine[Any, Any, object]) -> None:
    """
    Await a publication that is in flight, and answer it. It runs as a task of its own, so it raises nothing: what fails
    becomes the answer.
    """
    try:
        await publishing
        call.answer(EMPTY)
    except BrokerUnavailable as error:
        call.log_unavailable(error)
        call.fail(codes.UNAVAILABLE)
    except Exception:  # noqa: BLE001 - logged with its traceback
        call.log_failed()
        call.fail(codes.INTERNAL)


async def presence(call: Call, request: PresenceCommand) -> None:
    """Return the members of a room. The answer is made once for all clients, in each encoding."""
    census, more = await requests.presence(call.session, request.channel)
    codec = call.codec
    entries = census.encoded.get(codec.NAME)
    if entries is None:
        entries = census.encoded[codec.NAME] = codec.presence_entries(census.members)
    parts = [entries, codec.presence_entries(more)] if more else [entries]
    call.charge(call.write(codec.presence_reply(call.id, parts)))


async def presence_stats(call: Call, request: PresenceStatsCommand) -> None:
    """Count the members of a room."""
    counts = await requests.presence_stats(call.session, request.channel)
    call.answer(PresenceStatsResult(counts.clients, counts.users))


async def history(call: Call, request: HistoryCommand) -> None:
    """Return what was published in a room (protocol, section 7.3)."""
    since = None if request.since is None else Position(request.since.epoch, request.since.offset)
    page = await requests.history(
        call.session, request.channel, since=since, limit=request.limit, reverse=request.reverse
    )
    publications = [call.codec.pub_of(each) for each in page.publications]
    call.charge(call.answer(HistoryResult(publications, page.top.epoch, page.top.offset)))


# Apart from rooms


async def rpc(call: Call, request: RPCCommand) -> None:
    """Call a method of the application."""
    data = request.data
    answer = await requests.rpc(call.session, request.method, None if data is UNSET or not data else bytes(data))
    call.answer(RPCResult(UNSET if answer is None else Raw(call.codec.payload(answer))))


async def send(call: Call, request: SendCommand) -> None:
    """Hand a message to the application. It has no answer, so an error of it ends the connection or is lost."""
    await requests.send(call.session, payload(request.data))


Method = Callable[[Call, Any], Awaitable[None]]

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

assert {"id", *TABLE} == set(Command.__struct_fields__), "each command that a client may send has its function"


def method_of(command: Command) -> tuple[str | None, Any]:
    """Return the name and the request of a command; no name where it has none that we know."""
    for name in TABLE:
        request = getattr(command, name)
        if request is not None:
            return name, request
    return None, None
