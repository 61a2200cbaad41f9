"""
How a session begins: with a handshake, or with the state of one that was served elsewhere.

Runs in the worker. Both ways end in the same session; nothing of it is kept here.
"""

from __future__ import annotations

import functools
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Final

from realtime import codes
from realtime.broker.base import ClientInfo, ConnectionId
from realtime.session.base import Dialect, Services
from realtime.session.connection import EMPTY, take_up
from realtime.session.entry import Entry
from realtime.session.session import Session
from realtime.session.state import NOTHING, Identity, Phase, SessionState, WireState, begun
from realtime.transport.base import Handshake, Transport
from sticky.handoff.journal import Mark

FEW: Final = 4  # rooms that are entered one after the other: a task for each costs more than it saves


@functools.cache
def _two_way(encoding: str, ping_frame: bytes | None) -> WireState:
    """Return what is the same for all two-way connections of one kind, so that they share it."""
    return WireState(encoding, ping_frame=ping_frame)


def _with_stream(dialect: Dialect, handshake: Handshake) -> WireState:
    """Return the wire state of a client that sends by requests of their own, or never. It has a stream id."""
    return WireState(
        dialect.name,
        is_one_way=handshake.is_one_way,
        is_emulated=handshake.is_emulated,
        stream_id=str(uuid.uuid4()),
        ping_frame=handshake.ping_frame,
    )


def begin(services: Services, dialect: Dialect, transport: Transport, handshake: Handshake) -> Session:
    """Return the session of a connection whose handshake is done. It is closed as stale without a command in time."""
    home = services.home
    has_stream = handshake.is_emulated or handshake.is_one_way
    state = SessionState(
        Identity(
            ConnectionId(str(uuid.uuid4())),
            address=handshake.address,
            scheme=handshake.scheme,
            path=sys.intern(handshake.path),  # one of the few that lead here
            query=dict(handshake.query),
            sticky_id=handshake.sticky_id,
            transport=handshake.transport,
            slot=home.slot,
            worker=home.worker,
            node=home.node,
            protocol=dialect.protocol,
            namespace=dialect.namespace,
        ),
        _with_stream(dialect, handshake) if has_stream else _two_way(dialect.name, handshake.ping_frame),
        liveness=begun(services.wheel.now, services.limits),
    )
    session = Session(services, dialect, transport, state, handshake.mark, handshake.headers)
    services.registry.add(session)
    session.arm_liveness()  # the one deadline of a client that has neither a token nor a room
    return session


async def restore(
    services: Services, dialect: Dialect, transport: Transport, state: SessionState, mark: Mark
) -> Session:
    """
    Return the session of a client that was served elsewhere. The client gets what it missed, and nothing else.

    The session may have ended by then, with a code to reconnect: publications were lost in a room that the server gave,
    or the token was revoked on the way.

    Args:
        services: of this worker.
        dialect: of `state.wire.encoding`.
        transport: to the client; nothing is written to it before all rooms are entered.
        state: what `Session.export` gave, decoded. It belongs to the session from now on.
        mark: of what is in flight on its connection.

    Raises:
        ClientError: a room is not declared here, or the application refuses the connection. Nothing is left behind,
            and the client has to reconnect.
        BrokerUnavailable: its rooms cannot be entered now. As above.
        Exception: `on_migrate` of the application failed. As above.
    """
    assert state.phase is not Phase.CLOSED, "a session that has ended goes nowhere"
    headers: Mapping[str, str] = state.headers or EMPTY
    session = Session(services, dialect, transport, state, mark, headers)
    session.connection.emulated_headers = state.emulated_headers or EMPTY
    take_up(session.connection, state.info, state.state)
    state.headers = state.emulated_headers = NOTHING
    state.info, state.state = None, b""
    state.identity.slot = services.home.slot
    state.identity.worker, state.identity.node = services.home.worker, services.home.node
    if session.is_admitted:  # as the other worker asked before the move: the application knows no other connection
        await services.application.migrate(session.connection, "after")
    entries = await _enter_again(session)
    if session.is_admitted and services.hub.departures.ends.are_handled:
        connection = session.connection
        about = ClientInfo(connection.user, connection.id, connection.snapshot())
        try:
            await services.hub.departures.ends.admit(about)
        except BaseException:
            session.cancel(entries)
            raise
    # From here on without `await`: everything begins in one turn.
    services.registry.add(session)
    if state.wire.is_emulated and state.phase is Phase.CONNECTED:
        services.registry.add_stream(session)
    transport.limit_unsent(state.holds_little)
    session.continue_in(entries)
    claims = state.identity.claims
    if claims is not None and services.tokens.revoked.covers(claims, time.time()):
        session.finish(codes.CONNECTION_EXPIRED)  # neither worker had the session when the others were ended
    if session.is_open:
        session.arm()
    return session


async def _enter_again(session: Session) -> list[Entry]:
    """Enter all rooms of a session. Where one fails, cancel the others and raise what it raised."""
    entries: list[Entry] = []
    subscriptions = list(session.state.subscriptions.values())
    try:
        if len(subscriptions) <= FEW:
            for each in subscriptions:
                entries.append(await session.reenter(each))
            return entries
        return await session.enter_together([session.reenter(each) for each in subscriptions])
    except BaseException:
        session.cancel(entries)
        raise
    return entries
