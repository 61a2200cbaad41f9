"""
Emits: which way an event takes to the connections that a target names.

Runs in the worker, for `app.emit`, `app.to(…)` and `conn.to(…)`. It decides only the way; the broker and the cluster
bus carry the event, and no packet is known here.

    all of a namespace, or one room   a publication in the room of the hub, at the broker
    a declared room, alone            a publication as any other: with history, and for members of every protocol
    several rooms, or `except_`       one message to all workers, each of which picks its connections once
    volatile, or a connection's id    the same: each worker sees what its connections can take, and which it has
    local                             the same message, to this worker alone

What is asked of all connections of a target (acknowledgements, rooms, the end) is always a message to all workers.

Events of one sender arrive in the order in which they were emitted, whichever way they took, where the broker is one
server. A worker writes what waits in its rooms before it delivers a message. What goes to one connection directly
(`conn.emit`, acknowledgements) does not pass the broker, and may overtake what was emitted to a room before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from realtime.application.namespaces import DeclaredNamespaces
from realtime.broker.base import NOT_KEPT, PublishRequest, Room
from realtime.cluster.bus import ClusterBus
from realtime.cluster.messages import EmitEvent, EndGroup, Group, Message, MoveGroup
from realtime.errors import AnswerError, AnswersMissing, RoomIsDeclared, UnknownNamespace
from realtime.rooms.event_rooms import event_room, find_room, is_event_room
from realtime.rooms.hub import Hub
from realtime.rooms.options import Declarations, RoomOptions
from realtime.session import requests
from realtime.session.answers import encode
from realtime.session.events import (
    EVENT_TAG,
    check_event,
    decode_values,
    encode_event,
    has_bytes,
    one_or_several,
)
from realtime.session.session import Session
from realtime.session.target import FoundConnection, Target

CONNECTION_ID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""What the id of a connection looks like. A room may be called so, too: the event goes to both."""


class AppOfEvents(Declarations, Protocol):
    """The application that emits, as far as an emit needs it."""

    namespaces: DeclaredNamespaces

    @property
    def hub(self) -> Hub:
        """The rooms of the worker that runs the application."""

    @property
    def bus(self) -> ClusterBus:
        """Reaches the workers of all machines."""


async def emit(app: AppOfEvents, target: Target, event: str, args: Sequence[Any]) -> None:
    """
    Send an event to the connections that a target names. Raises as `Target.emit` does.
    """
    bus, group = _group(app, target)
    namespace = target.namespace
    rooms = [find_room(app, namespace, each) for each in target.rooms]
    declared = next((each for each in rooms if not is_event_room(each)), None)
    is_simple = not (target.excluded or target.is_local or target.is_volatile)
    if declared is not None:
        if len(rooms) > 1 or not is_simple:
            raise RoomIsDeclared(declared)
        await _publish(app, declared, target, event, args)
        return
    data = encode_event(event, args)
    if is_simple and len(rooms) < 2 and not (target.rooms and CONNECTION_ID.fullmatch(target.rooms[0])):
        room = rooms[0] if rooms else event_room(namespace, "")
        sender = "" if target.sender is None else target.sender.id
        await app.hub.broker.publish(PublishRequest(room, data, NOT_KEPT, exclude=sender))
        return
    await _send(bus, target, EmitEvent(group, data, target.is_volatile))


def _group(app: AppOfEvents, target: Target) -> tuple[ClusterBus, Group]:
    """
    Return what reaches all workers, and how a message names the connections of a target.

    Raises:
        RuntimeError: no worker runs the application.
        UnknownNamespace: no declaration matches the namespace.
    """
    bus = app.bus
    if app.namespaces.find(target.namespace) is None:
        raise UnknownNamespace(target.namespace, app.namespaces.patterns)
    excluded = target.excluded if target.sender is None else (*target.excluded, target.sender.id)
    return bus, Group(target.namespace, target.rooms, excluded)


async def _send(bus: ClusterBus, target: Target, message: Message) -> None:
    """Send a message to all workers, or through the broker to this one."""
    await (bus.send_here(message) if target.is_local else bus.send_all(message))


async def call(app: AppOfEvents, target: Target, event: str, args: Sequence[Any], timeout_s: float) -> dict[str, Any]:
    """Send an event to the connections of a target, and return their acknowledgements. Raises as `Target.call`."""
    bus, group = _group(app, target)
    replies, workers = await bus.call_group(group, encode_event(event, args), timeout_s, is_local=target.is_local)
    answers = {
        connection_id: one_or_several(decode_values(values))
        for reply in replies
        for connection_id, values in reply.answers.items()
    }
    silent = [connection_id for reply in replies for connection_id in reply.silent]
    if silent or workers:
        raise AnswersMissing(answers, silent, workers)
    return answers


async def move(app: AppOfEvents, target: Target, enters: Sequence[str], leaves: Sequence[str]) -> None:
    """Put the connections of a target into rooms, and out of others."""
    bus, group = _group(app, target)
    await _send(bus, target, MoveGroup(group, tuple(enters), tuple(leaves)))


async def end(app: AppOfEvents, target: Target, code: int, reason: str) -> None:
    """Close the connections of a target."""
    bus, group = _group(app, target)
    await _send(bus, target, EndGroup(group, code, reason))


async def find(app: AppOfEvents, target: Target) -> list[FoundConnection]:
    """Return the connections of a target."""
    bus, group = _group(app, target)
    return [
        FoundConnection(
            each.connection_id,
            each.user,
            each.address,
            target.namespace,
            tuple(each.rooms),
            each.transport,
            reply.slot,
            reply.worker,
            reply.node,
        )
        for reply in await bus.find_group(group, is_local=target.is_local)
        for each in reply.places
    ]


async def _publish(app: AppOfEvents, room: Room, target: Target, event: str, args: Sequence[Any]) -> None:
    """Publish an event into a declared room: as the application, or as the client that emits."""
    options = app.room_options(room)
    assert options is not None, "it was found as a declared room"
    data, tags = as_publication(room, options, event, args)
    sender = target.sender
    session = None if sender is None else app.bus.session(sender.id)
    if isinstance(session, Session):
        requests.permitted(session, room, "publish")
        publishing = await requests.publish(session, room, options, data, tags=tags, without_sender=True)
        if publishing is not None:
            await publishing
        return
    exclude = "" if sender is None else sender.id  # it has ended, or moved: then the application speaks
    await app.hub.broker.publish(PublishRequest(room, data, options.retention, tags=tags, exclude=exclude))


def as_publication(
    room: Room, options: RoomOptions, event: str, args: Sequence[Any]
) -> tuple[bytes, dict[str, str] | None]:
    """
    Return the data and the tags of an event in a declared room.

    The room's own event (`as_event`) with one argument is the publication of this argument. Any other event is
    published as an object with its name and arguments; the tag says that it is one, for clients cannot set tags.

    Raises:
        ReservedEvent: Socket.IO keeps this name for itself.
        AnswerError: the room's publications cannot be these arguments.
    """
    check_event(event)
    is_own = event == options.as_event[0] and len(args) == 1
    if options.binary:
        if is_own and isinstance(args[0], bytes):
            return args[0], None
        raise AnswerError(
            f"event {event!r} into room {room!r}", "$", "anything but one argument of bytes (binary=True)"
        )
    if has_bytes(args):
        raise AnswerError(f"event {event!r} into room {room!r}, which is declared", "$", "bytes")
    if is_own:
        return encode(args[0], lambda: f"event {event!r} into room {room!r}"), None
    data = encode({"event": event, "args": args}, lambda: f"event {event!r} into room {room!r}")
    return data, {EVENT_TAG: event}
