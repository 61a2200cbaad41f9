"""
One room on one worker: how it is kept, who is on the way in, and where its stream was last seen.

Runs in the worker. `LocalRoom` is the state that `hub.Hub` moves; `PendingSubscription` is one subscriber between
asking and being written to. Nothing here awaits, and nothing here talks to the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from realtime.broker.base import ClientInfo, Position, Publication, Retention, Room
from realtime.rooms.fanout import Accepts, Change, Difference, Fanout, Subscriber, Wire
from realtime.rooms.presence_view import PresenceView
from realtime.rooms.recovery import Hole, Replay, merge
from realtime.timing.rate import Rate

FOR_OTHERS: Final = frozenset(("publish", "presence", "history"))


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """
    How a room is kept. `recover`: clients get positions, and what they missed when they return. `publish`: clients may.
    `delta`: who asks for it gets differences. `filters`: clients may choose by tags. `binary`: payloads are any bytes.
    `echo`: who publishes gets it as well. `rate`, `user_rate`, `room_rate`: how often clients may publish: each
    connection, each user, all together. `conflate`: the tag by which a slow member gets only the latest; "" for none.
    `grace_s`: for how long who lost the connection is not said to have left. `for_others`: what clients may do that are
    not in the room, of `FOR_OTHERS`. `has_leave_hooks`: the application wants to hear, also after a crash, of those who
    leave; `hears_empty`: and of rooms that nobody is in.
    """

    retention: Retention = field(default_factory=Retention)
    presence: bool = False
    join_leave: bool = False
    recover: bool = False
    publish: bool = False
    delta: bool = False
    filters: bool = False
    binary: bool = False
    echo: bool = True
    rate: Rate | None = None
    user_rate: Rate | None = None
    room_rate: Rate | None = None
    conflate: str | None = None
    grace_s: float = 0.0
    for_others: frozenset[str] = frozenset()
    has_leave_hooks: bool = False
    hears_empty: bool = False

    def __post_init__(self) -> None:
        assert not self.recover or self.retention.size > 0, "a room without history cannot recover anybody"
        assert self.for_others <= FOR_OTHERS, "the declaration was checked"

    @property
    def is_metered(self) -> bool:
        """Whether publications of clients are counted against a rate."""
        return not (self.rate is self.user_rate is self.room_rate is None)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a client is told of its entry. `publications` are those it missed, where `recovered`."""

    position: Position | None
    recovered: bool = False
    publications: Sequence[Publication] = ()


class Insufficient(Exception):
    """Between reading the stream and going live something was lost; the client has to come again."""


class LocalRoom:
    """One room on this worker."""

    __slots__ = (
        "changes",
        "entries",
        "epoch",
        "fanout",
        "held",
        "in_sync",
        "lock",
        "name",
        "offset",
        "opened",
        "options",
        "pending",
        "presence_view",
    )

    def __init__(self, name: Room, options: RoomOptions, difference: Difference | None = None) -> None:
        self.name = name
        self.options = options
        self.fanout = Fanout(name, difference, options.conflate)
        self.entries: set[PendingSubscription] = set()
        self.lock = asyncio.Lock()  # held while the subscription at the broker changes
        self.opened = False  # subscribed at the broker, and its position known where it has one
        self.epoch = ""  # with `offset`, the position up to which this worker delivered or is about to
        self.offset = 0
        self.in_sync = not options.recover
        self.pending: list[Publication] = []  # taken, to be delivered at the end of this turn
        self.changes: list[Change] = []  # joins and leaves, likewise; never both lists have something
        self.held: list[Publication] = []  # arrived while out_of_sync
        self.presence_view: PresenceView | None = None  # whom its watchers know to be there; None before the first

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    @property
    def is_empty(self) -> bool:
        return not self.fanout.size and not self.entries


class PendingSubscription:
    """One subscriber on its way into a room. Becomes a member by `Hub.activate`, or ends by `Hub.cancel`."""

    __slots__ = (
        "accepts",
        "arrived",
        "events",
        "info",
        "local",
        "read",
        "since",
        "spoiled",
        "subscriber",
        "top",
        "watches",
        "wire",
    )

    def __init__(
        self,
        local: LocalRoom,
        subscriber: Subscriber,
        *,
        since: Position | None,
        watches: bool,
        wire: Wire | None = None,
        accepts: Accepts | None = None,
    ) -> None:
        self.local = local
        self.subscriber = subscriber
        self.since = since
        self.watches = watches
        self.wire = wire
        self.accepts = accepts
        self.info: ClientInfo | None = None  # set while registered as a member
        self.top: Position | None = None
        self.read = Replay(recovered=False)
        self.arrived: list[Publication] = []
        self.events: list[tuple[bool, ClientInfo]] = []  # joins (True) and leaves that arrived meanwhile
        self.spoiled = False

    def commit(self) -> Joined:
        """
        Return what to tell the client. The caller owes `Hub.activate` before its next await, or `Hub.cancel`.

        Raises:
            Insufficient: the client cannot be told a position that is true.
        """
        if self.spoiled:
            raise Insufficient(self.local.name)
        if self.top is None:
            return Joined(position=None)
        try:
            merged = merge(self.top, self.read.publications, self.arrived)
        except Hole as hole:
            raise Insufficient(self.local.name) from hole
        self.top = merged.position
        if not self.read.recovered:
            return Joined(merged.position)
        wanted = merged.publications
        if self.accepts is not None:
            wanted = [each for each in wanted if self.accepts(each)]
        return Joined(merged.position, recovered=True, publications=wanted)
