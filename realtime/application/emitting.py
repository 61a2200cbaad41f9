"""
Emits: which way an event takes to the connections that a target names.

Runs in the worker, for `app.emit`, `app.to(…)` and `conn.to(…)`. It decides only the way; the broker and the cluster
bus carry the event, and no packet is known here.

    all of a namespace, or one room   a publication in the room of the hub, at the broker
    a declared room, alone            a publication as any other: with history, and for members of every protocol
    several rooms, or `except_`       one message to all workers, each of which picks its connections once
    volatile, or a connection's id    the same: each worker sees what its connections can take, and which it has
    local                             the same message, to this worker alone

Events of one sender arrive in the order in which they were emitted, whichever way they took, where the broker is one
server. A worker writes what waits in its rooms before it delivers a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from realtime.application.namespaces import DeclaredNamespaces
from realtime.broker.base import NOT_KEPT, PublishRequest, Room
from realtime.cluster.bus import ClusterBus
from realtime.cluster.messages import EmitEvent
from realtime.errors import AnswerError, RoomIsDeclared, UnknownNamespace
from realtime.rooms.event_rooms import event_room, find_room, is_event_room
from realtime.rooms.hub import Hub
from realtime.rooms.options import Declarations, RoomOptions
from realtime.session import requests
from realtime.session.answers import encode
from realtime.session.events import EVENT_TAG, check_event, encode_event, has_bytes
from realtime.session.session import Session
from realtime.session.target import Target

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
    bus = app.bus  # raises, where no worker runs the application
    namespace = target.namespace
    if app.namespaces.find(namespace) is None:
        raise UnknownNamespace(namespace, app.namespaces.patterns)
    rooms = [find_room(app, namespace, each) for each in target.rooms]
    declared = next((each for each in rooms if not is_event_room(each)), None)
    is_simple = not (target.excluded or target.is_local or target.is_volatile)
    if declared is not None:
        if len(rooms) > 1 or not is_simple:
            raise RoomIsDeclared(declared)
        await _publish(app, declared, target, event, args)
        return
    data = encode_event(event, args)
    sender = "" if target.sender is None else target.sender.id
    if is_simple and len(rooms) < 2 and not (target.rooms and CONNECTION_ID.fullmatch(target.rooms[0])):
        room = rooms[0] if rooms else event_room(namespace, "")
        await app.hub.broker.publish(PublishRequest(room, data, NOT_KEPT, exclude=sender))
        return
    excluded = (*target.excluded, sender) if sender else target.excluded
    message = EmitEvent(namespace, data, target.rooms, excluded, target.is_volatile)
    await (bus.send_here(message) if target.is_local else bus.send_all(message))


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
