"""
Rooms of events: those that an application does not declare, but has connections enter. And the names of events.

Pure, in the worker. Connections of one namespace that entered a room of the same name are together in one room of the
hub. Its name begins with a zero byte, so no client can give it. All connections of a namespace are in the room with the
empty name: what is emitted to all is one publication.

    "\\0io" namespace "\\0" room

In the namespace "/", a room whose name is declared is that declared room, which other protocols and the HTTP API share.
A namespace has no zero byte (`is_namespace`), so the name above can be read in one way only.
"""

from __future__ import annotations

from typing import Final

from realtime.broker.base import PRIVATE, Room
from realtime.rooms.options import Declarations, RoomOptions

MAIN: Final = "/"
"""The namespace that is always there."""

PREFIX: Final = f"{PRIVATE}io"
EVENT_ROOM_OPTIONS: Final = RoomOptions(binary=True)
"""Of every room of events: no history, no presence. An event may have attachments, so its payload is any bytes."""

NAMESPACE_BYTES: Final = 255  # as of a room's name


def is_namespace(name: str) -> bool:
    """Say whether a text can be the name of a namespace: it begins with a slash, and has no comma and no zero byte."""
    return name.startswith("/") and "," not in name and "\0" not in name and len(name.encode()) <= NAMESPACE_BYTES


def event_room(namespace: str, name: str) -> Room:
    """Return the hub's room for a room of events. The empty name is that of all connections of the namespace."""
    assert "\0" not in namespace, "two namespaces would share a room"
    return Room(f"{PREFIX}{namespace}\0{name}")


def is_event_room(room: str) -> bool:
    """Say whether a room of the hub is a room of events."""
    return room.startswith(PREFIX)


def name_of(room: Room) -> str:
    """Return the name by which the application knows a room: of a room of events what follows the namespace."""
    return room[len(PREFIX) :].partition("\0")[2] if room.startswith(PREFIX) else room


def find_room(declarations: Declarations, namespace: str, name: str) -> Room:
    """
    Return the room of the hub that an application means by a name.

    Args:
        declarations: of the application.
        namespace: of the connection, or of the emit; "" for a protocol without namespaces, which has declared rooms
            alone.
        name: not empty.
    """
    if not namespace or (namespace == MAIN and declarations.room_options(Room(name)) is not None):
        return Room(name)
    return event_room(namespace, name)
