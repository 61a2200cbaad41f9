"""
`PendingSubscription`: one subscriber between the request to enter a room and its first publication.

Runs in the worker; pure, without a broker and without `await`. While the stream and the presence are read for it, the
room's machine (room.py) notes here what arrives. `commit` joins both, and proves that nothing is missing in between. It
never writes to the subscriber: the hub does, after `activate`.

    PENDING ──activate──▶ ACTIVE        a member
       │  └───lost──────▶ LOST          publications are missing; `commit` raises
       └──────cancel────▶ CANCELLED     also from LOST
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from msgspec import Struct

from realtime.broker.base import ClientInfo, Position, RawPublication, Room
from realtime.rooms.fanout import Accepts, Change, Encoder, Subscriber
from realtime.rooms.recovery import Gap, Replay, merge


class Joined(Struct, frozen=True):
    """What the answer to the client says. `publications` are those that it missed, where `recovered`."""

    position: Position | None
    recovered: bool = False
    publications: Sequence[RawPublication] = ()


class Insufficient(Exception):
    """Between the read of the stream and `commit` something was lost; the client has to subscribe again."""


class PendingState(enum.Enum):
    """How far a subscriber has come."""

    PENDING = "pending"
    LOST = "lost"
    ACTIVE = "active"
    CANCELLED = "cancelled"


class PendingSubscription:
    """
    One subscriber on its way into a room. Becomes a member by `Hub.activate`, or ends by `Hub.cancel`.

    Attributes:
        info: what others see of it, while it is registered at the broker; None before and without presence.
        top: the stream's position when it was read; after `commit` the position that the client has.
        missed: what the client missed before `top`.
        arrived: publications that the room accepted meanwhile, in order.
        changes: joins and leaves that arrived meanwhile.
    """

    __slots__ = (
        "accepts",
        "arrived",
        "changes",
        "encoder",
        "info",
        "missed",
        "room",
        "since",
        "state",
        "subscriber",
        "top",
        "watches",
    )

    def __init__(
        self,
        room: Room,
        subscriber: Subscriber,
        *,
        since: Position | None = None,
        watches: bool = False,
        encoder: Encoder | None = None,
        accepts: Accepts | None = None,
    ) -> None:
        """
        Args:
            room: its name.
            subscriber: not yet a member.
            since: the position after which the client wants everything again.
            watches: the subscriber gets joins and leaves.
            encoder: what publications are written in; the subscriber's own unless given.
            accepts: which publications the subscriber gets; all unless given.
        """
        self.room = room
        self.subscriber = subscriber
        self.since = since
        self.watches = watches
        self.encoder = encoder
        self.accepts = accepts
        self.state = PendingState.PENDING
        self.info: ClientInfo | None = None
        self.top: Position | None = None
        self.missed = Replay(recovered=False)
        self.arrived: list[RawPublication] = []
        self.changes: list[Change] = []

    @property
    def is_undecided(self) -> bool:
        """Whether `activate` or `cancel` is still to come."""
        return self.state is PendingState.PENDING or self.state is PendingState.LOST

    def commit(self) -> Joined:
        """
        Return what the answer to the client says. The caller must call `Hub.activate` before its next `await`, or
        `Hub.cancel`.

        Raises:
            Insufficient: no true position can be given to the client.
        """
        assert self.is_undecided, f"commit of a subscription that is {self.state.value}"
        if self.state is PendingState.LOST:
            raise Insufficient(self.room)
        if self.top is None:
            return Joined(position=None)
        try:
            merged = merge(self.top, self.missed.publications, self.arrived)
        except Gap as gap:
            raise Insufficient(self.room) from gap
        self.top = merged.position
        if not self.missed.recovered:
            return Joined(merged.position)
        wanted = merged.publications
        if self.accepts is not None:
            wanted = [each for each in wanted if self.accepts(each)]
        return Joined(merged.position, recovered=True, publications=wanted)
