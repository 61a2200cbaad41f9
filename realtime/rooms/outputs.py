"""
The vocabulary of a room's machine (room.py): its states, what moves it, and the outputs that the hub performs.

Runs in the worker. Plain data and one table; nothing here decides or does anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from realtime.broker.base import Position, RawPublication
from realtime.rooms.fanout import Change


class RoomState(enum.Enum):
    """What the machine knows about the room's stream."""

    CLOSED = "closed"
    IN_SYNC = "in sync"
    OUT_OF_SYNC = "out of sync"
    READING = "reading"


class RoomEvent(enum.Enum):
    """What moves the machine from state to state. A publication that follows the position does not."""

    OPENED = "opened"  # subscribed at the broker, with the stream's top
    CLOSED = "closed"  # unsubscribed
    GAP = "gap"  # a publication does not follow the position, or the broker's top is another
    DISTRUST = "distrust"  # the link was lost, or a gap was reported: something may be missing
    CONFIRMED = "confirmed"  # the broker's top is the position
    FILLED = "filled"  # the stream was read, and accepted
    LOST = "lost"  # the stream was read, and does not have what is missing
    UNREADABLE = "unreadable"  # the stream could not be read now
    RESTARTED = "restarted"  # a subscription that enters has read a top of another epoch


TRANSITIONS: Final[Mapping[tuple[RoomState, RoomEvent], RoomState]] = {
    (RoomState.CLOSED, RoomEvent.OPENED): RoomState.IN_SYNC,
    (RoomState.CLOSED, RoomEvent.DISTRUST): RoomState.CLOSED,  # the first subscription reads the position
    (RoomState.CLOSED, RoomEvent.CLOSED): RoomState.CLOSED,
    (RoomState.IN_SYNC, RoomEvent.GAP): RoomState.READING,
    (RoomState.IN_SYNC, RoomEvent.DISTRUST): RoomState.OUT_OF_SYNC,
    (RoomState.IN_SYNC, RoomEvent.CLOSED): RoomState.CLOSED,
    (RoomState.OUT_OF_SYNC, RoomEvent.CONFIRMED): RoomState.IN_SYNC,
    (RoomState.OUT_OF_SYNC, RoomEvent.GAP): RoomState.READING,
    (RoomState.OUT_OF_SYNC, RoomEvent.DISTRUST): RoomState.OUT_OF_SYNC,
    (RoomState.OUT_OF_SYNC, RoomEvent.CLOSED): RoomState.CLOSED,
    (RoomState.READING, RoomEvent.FILLED): RoomState.IN_SYNC,
    (RoomState.READING, RoomEvent.LOST): RoomState.IN_SYNC,
    (RoomState.READING, RoomEvent.UNREADABLE): RoomState.OUT_OF_SYNC,
    (RoomState.READING, RoomEvent.DISTRUST): RoomState.OUT_OF_SYNC,  # what is being read may be older than the fault
    (RoomState.READING, RoomEvent.CLOSED): RoomState.CLOSED,
    (RoomState.IN_SYNC, RoomEvent.RESTARTED): RoomState.IN_SYNC,
    (
        RoomState.OUT_OF_SYNC,
        RoomEvent.RESTARTED,
    ): RoomState.OUT_OF_SYNC,  # a comparison follows
    (RoomState.READING, RoomEvent.RESTARTED): RoomState.IN_SYNC,  # what is being read is of the epoch before
}


# What members get in one go: publications, then joins and leaves. A plain tuple, for one is made in every turn.
Batch: TypeAlias = tuple[Sequence[RawPublication], Sequence[Change]]


# Outputs


class Signal(enum.Enum):
    """An output that needs nothing but its name."""

    DELIVER = "deliver"  # the outbox has something: call `flush` when the turn of the event loop ends
    BUFFER = "buffer"  # the publication waits until the room is in sync: nothing has to be done
    UNSUBSCRIBE = "unsubscribe"  # the room is empty: unsubscribe at the broker, if that is still so then


@dataclass(frozen=True, slots=True)
class ReportGap:
    """Publication `found` arrived after the position `after`: some are missing. For the log and the counter."""

    after: int
    found: int


@dataclass(frozen=True, slots=True, eq=False)
class RequestStream:
    """
    Read the stream after `since`, then call `stream_read` with this request, or `stream_unreadable`.

    Compared by identity: an answer to a request that is not the latest is ignored. `buffered` publications had
    arrived when it was made.
    """

    since: Position
    buffered: int


@dataclass(frozen=True, slots=True)
class Lost:
    """
    Publications after `after` are lost. Write `before`, then remove every member, and notify it. The machine counts
    no member any more.
    """

    after: int
    members: int
    before: Sequence[Batch] = ()


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call `wake` with this time, when it has come."""

    due_s: float


Output: TypeAlias = Signal | ReportGap | RequestStream | Lost | WakeAt

DELIVER: Final = Signal.DELIVER
BUFFER: Final = Signal.BUFFER
UNSUBSCRIBE: Final = Signal.UNSUBSCRIBE

IN_SYNC: Final = RoomState.IN_SYNC  # for the hot path, which looks up one name

# Made once: the hot path allocates no output, and the hub compares by identity.
NOTHING: Final[tuple[Output, ...]] = ()
ONLY_DELIVER: Final[tuple[Output, ...]] = (DELIVER,)
ONLY_BUFFER: Final[tuple[Output, ...]] = (BUFFER,)
ONLY_UNSUBSCRIBE: Final[tuple[Output, ...]] = (UNSUBSCRIBE,)


class Activation(NamedTuple):
    """
    How a pending subscription becomes a member. Write `before` to the members there are, add the subscriber as one
    that has `seen` all up to that offset, then write `changes` to it.
    """

    before: Sequence[Batch]
    seen: int
    changes: Sequence[Change]
