"""
The contract between a worker and its broker.

Workers share nothing but the broker. For every room, the broker stores:

- the stream of its latest publications,
- the position at the top of that stream,
- the members that are present.

The broker also carries publications, joins and leaves to every worker that is subscribed to the room. This module holds
the contract and the plain data that crosses it. It runs in the worker, decides nothing, and knows neither clients nor
wire formats. One contract suite, tests/realtime/broker/, runs against each broker.

Every broker keeps these promises:

- **One order per room.** Offsets of one epoch start at 1 and grow by 1 with each publication. A listener gets the
  publications of a room in that order. After a lost link, the offsets show the gap.
- **An awaited publish happened.** When `publish` returns, the publication is in the stream and on its way to every
  subscribed worker. When `publish` raises `BrokerUnavailable`, the publication may or may not have happened. The broker
  then reported no success.
- **An awaited subscribe is in force.** Every publication made after `subscribe` returned reaches the listener.
- **A lost stream gets another epoch.** A client therefore cannot mistake new offsets for old ones.
- **Members belong to a worker.** A worker that crashes loses its members when it is reaped. That happens at once
  by `reap`, otherwise when its lease has expired.
- **A removed member stays removed.** A promoted replica may have lost a removal, and then shows that member for a few
  seconds. The member's worker removes it again. A lasting member is instead reported by `on_departed` as inherited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType, Protocol

import msgspec

from realtime.timing.rate import Rate

Room = NewType("Room", str)
PRIVATE: Final = "\0"  # first character of the names of the workers' own rooms; no client's room name has it
UNUSED_STREAM_S: Final = 300.0  # lifetime of a stream that never had a publication and has no subscriber
ConnectionId = NewType("ConnectionId", str)
WorkerId = NewType("WorkerId", str)  # one process; no id is ever used twice


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place in a room's stream: right after publication `offset` of the stream that `epoch` names."""

    epoch: str
    offset: int


class ClientInfo(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The client that published, joined or left. `conn_info` and `chan_info` are JSON texts, or None."""

    user: str
    connection_id: str
    conn_info: bytes | None = None
    chan_info: bytes | None = None

    @property
    def info(self) -> Any:
        """What the connection shows beside its user (`conn.info`), decoded; None where it shows nothing."""
        return None if self.conn_info is None else msgspec.json.decode(self.conn_info)

    @property
    def room_info(self) -> Any:
        """What it shows in this room alone, from its subscription's token, decoded; None where it shows nothing."""
        return None if self.chan_info is None else msgspec.json.decode(self.chan_info)


class RawPublication(msgspec.Struct, frozen=True, array_like=True):
    """
    One message in a room, as broker and hub have it: its payload is bytes, and is never decoded on the way. What an
    application reads is `application.values.Publication`.

    `data` is a JSON text, unchanged. In a room without history, `offset` is 0 and `epoch` is empty. `time_ms` is Unix
    time. `exclude` is the connection id that does not receive the publication.
    """

    data: bytes
    offset: int = 0
    epoch: str = ""
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    time_ms: int = 0
    exclude: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """
    How much of a room's stream the broker stores.

    The broker stores at most `size` publications. It drops them when `ttl_s` seconds passed without another one. With
    `size` 0 it stores none, and the room has no positions.

    The position lives much longer than the publications: `meta_ttl_s` after its last use. An empty stream with a
    position still proves that a client missed nothing. A stream that never had a publication lives for
    `UNUSED_STREAM_S`, or for as long as workers request its position.
    """

    size: int = 0
    ttl_s: float = 300.0
    meta_ttl_s: float = 30 * 86400.0


NOT_KEPT: Final = Retention()


class PublishRequest(msgspec.Struct, frozen=True):
    """
    One publication on its way to the broker. Every part of this server below the application's own calls passes it on
    as it is.

    Attributes:
        room: where.
        data: a JSON text, or any bytes in a `binary` room; kept as it is.
        retention: how much of the room's stream is kept. `NOT_KEPT` gives the publication no offset, and a client that
            is away does not get it later.
        info: what others see of the client that publishes.
        tags: short texts beside the data.
        idempotency_key: a second publication with the same key within `idempotency_ttl_s` is not made.
        idempotency_ttl_s: seconds for which the key is remembered.
        exclude: the connection id of the one client that does not get it.
    """

    room: Room
    data: bytes
    retention: Retention
    info: ClientInfo | None = None
    tags: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    idempotency_ttl_s: float = 300.0
    exclude: str = ""

    def publication(self, time_ms: int) -> RawPublication:
        """Return what is stored and delivered, without the position that it gets."""
        return RawPublication(
            self.data,
            info=self.info,
            tags=dict(self.tags) if self.tags else None,
            time_ms=time_ms,
            exclude=self.exclude,
        )


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publish. `duplicate`: the idempotency key was used before, so nothing was published now."""

    position: Position
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """A page of a stream, and the position at the stream's top when it was read."""

    publications: Sequence[RawPublication]
    top: Position


@dataclass(frozen=True, slots=True)
class MemberCounts:
    """How many connections are present in a room, and of how many users."""

    clients: int
    users: int


@dataclass(frozen=True, slots=True)
class MembersPage:
    """A part of a room's members. `cursor` is where the next page begins; it is empty after the last page."""

    members: Mapping[ConnectionId, ClientInfo]
    cursor: str


@dataclass(frozen=True, slots=True)
class Departed:
    """
    A member whose worker is gone.

    The broker removed it, or, when `inherited`, gave it to the worker that receives this. `announce` is as in
    `Broker.add_member`.
    """

    room: Room
    info: ClientInfo
    announce: bool = False
    inherited: bool = False


class BrokerListener(Protocol):
    """
    What a broker calls in its worker (the hub implements it).

    The broker calls these methods on the event loop, never concurrently. A listener returns at once and never raises.
    """

    def on_publication(self, room: Room, publication: RawPublication) -> None: ...

    def on_join(self, room: Room, info: ClientInfo) -> None: ...

    def on_leave(self, room: Room, info: ClientInfo) -> None: ...

    def on_departed(self, departed: Sequence[Departed]) -> None:
        """
        Handle the members that this worker reaped, or found again after it had removed them.

        Leaves of removed members also reach every subscribed worker by `on_leave`. Inherited members belong to this
        worker from now on, as if it had added them.
        """

    def on_link_lost(self) -> None:
        """Note that this worker may miss every publication from now on."""

    def on_link_restored(self) -> None:
        """
        Note that every subscription is in force again.

        This worker missed what was published meanwhile. Every room is therefore out of sync until its position was
        compared. The broker itself has registered this worker's members again. It announced a join for each member
        that was no longer present.
        """

    def on_gap(self, rooms: Sequence[Room]) -> None:
        """
        Note a gap in some rooms: recent publications may be missed, and the subscriptions are in force again.

        The cause is a lost node of a cluster, or a hash slot that moved to another node.
        """


class IgnoredEvents:
    """The listener of a broker before `start` and after `close`: it ignores every event."""

    def on_publication(self, room: Room, publication: RawPublication) -> None:
        """Ignore it."""

    def on_join(self, room: Room, info: ClientInfo) -> None:
        """Ignore it."""

    def on_leave(self, room: Room, info: ClientInfo) -> None:
        """Ignore it."""

    def on_departed(self, departed: Sequence[Departed]) -> None:
        """Ignore it."""

    def on_link_lost(self) -> None:
        """Ignore it."""

    def on_link_restored(self) -> None:
        """Ignore it."""

    def on_gap(self, rooms: Sequence[Room]) -> None:
        """Ignore it."""


class Broker(Protocol):
    """
    The contract.

    All coroutines raise `realtime.errors.BrokerUnavailable` while the broker is unreachable. They raise it at once and
    do not wait. `publish`, `add_member` and `allow` also raise it when the broker has no memory for what they would
    store; reading and removing still work then. Cancelling one caller harms no other caller.
    """

    @property
    def in_order(self) -> bool:
        """Whether publications happen in the order of the calls, even when the caller awaits none of them."""

    async def start(self, listener: BrokerListener) -> None:
        """
        Connect and take the worker's lease. The caller must call `close` later.

        Raises:
            BrokerUnavailable: the server does not answer; the text names the address and what to do.
        """

    async def close(self) -> None:
        """
        Remove this worker's members, end the lease, and disconnect.

        Leaves are announced for members that were announced. Another worker inherits the lasting members, as after a
        crash of this worker.
        """

    async def subscribe(self, room: Room) -> None:
        """Deliver this room's publications, joins and leaves to the listener. It is in force when it returns."""

    async def unsubscribe(self, room: Room) -> None:
        """End `subscribe`. It is harmless for a room that is not subscribed."""

    async def publish(self, request: PublishRequest) -> Published:
        """Add one publication to the room and send it to every subscribed worker, in one atomic step."""

    async def position(self, room: Room, *, retention: Retention) -> Position:
        """
        Return the top of the room's stream. Create the stream (offset 0) where there is none.

        Use this for a position that a client will later resume from.
        """

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        """
        Return the tops of several streams in one round trip.

        A room without a stream is absent from the result. A stream without any publication yet lives for another
        `UNUSED_STREAM_S`.
        """

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        create: bool = False,
    ) -> History:
        """
        Read a page of the stream, and its top.

        The page has at most `limit` publications after `since` (exclusive), oldest first. With `reverse` it has those
        before `since`, newest first. Without `since`, it starts at the oldest one stored, or at the newest with
        `reverse`. With `limit` 0 it is empty.

        The caller must compare `since.epoch` with `top.epoch`; this method does not. Reading creates no stream: where
        there is none, the top is `Position("", 0)`. With `create` it creates one, as `position` does.
        """

    async def forget_history(self, room: Room) -> None:
        """Remove the room's publications. The position stays, and offsets go on from it."""

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """
        Register `info.connection_id` as present and owned by this worker. A previous owner loses it.

        Args:
            room: the room.
            info: the member.
            announce: send a join to every subscribed worker now, and a leave when the member is reaped.
            quietly: send the join only where the member was not yet present.
            lasting: when this worker is gone, the worker that reaps it inherits the member instead of removing it.
        """

    def release(self, room: Room, connection_id: ConnectionId) -> None:
        """
        Mark this worker's member as in grace: another worker may take it over without notifying this one.

        After a fault, the broker registers such a member again only where no other worker owns it. `add_member` ends
        the mark.
        """

    async def remove_member(
        self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        """
        Undo `add_member`; with `mine`, only where this worker still owns the member.

        Return how many members the room still has, or None where this call removed nothing. Of several concurrent
        calls, exactly one removes the member. Removing an absent member is harmless and announces nothing.
        """

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        """Return all members of the room, of all workers."""

    async def member_counts(self, room: Room) -> MemberCounts:
        """Count all members of the room, of all workers."""

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        """
        Return about `limit` members, and the cursor of the next page.

        A member that is present from the first page to the last is in at least one page.
        """

    async def reap(self, worker: WorkerId) -> None:
        """
        Remove every member of `worker`, a process that is known to be dead, and announce their leaves.

        Several workers may call this at the same time. One of them removes each member, and its listener gets
        `on_departed`. That worker inherits the lasting members.
        """

    async def allow(self, room: Room, subject: str, rate: Rate) -> bool:
        """Count one action of `subject` in a room. Return whether it is within the rate, over all workers together."""

    async def workers(self) -> Sequence[WorkerId]:
        """Return every process that holds a lease now, this one included."""

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        """Return a snapshot for operators: the link's state, counters, sizes."""
