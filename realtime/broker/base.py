"""
What a worker asks of a broker, and what a broker tells a worker.

A broker is all that workers share. It keeps for every room the stream of its latest publications, the position at the
top of that stream, and the members that are present; and it carries publications, joins and leaves to every worker
that subscribed to the room. This file holds the contract and the plain data that crosses it. It runs in the worker,
decides nothing, and knows neither clients nor wire formats.

One contract suite, tests/realtime/broker/, runs against each broker.

Promises that every broker keeps:

- **One order per room.** Offsets of one epoch start at 1 and grow by 1 with each publication. Publications of a room
  are delivered to a listener in that order, except where a link was lost; then offsets show the hole.
- **An awaited publish happened.** When `publish` returns, the publication is in the stream and on its way to every
  subscribed worker. When it raises `BrokerUnavailable`, it may or may not have happened, and no success was reported.
- **An awaited subscribe is in force.** Every publication made after `subscribe` returned reaches the listener.
- **A stream that was lost gets another epoch**, so that nobody takes new offsets for old ones.
- **Members belong to a worker.** A worker that ends without saying so loses its members when it is reaped: at once by
  `reap`, and without anybody's word when its lease has run out.
- **Who was removed does not come back.** A server that has lost a removal (a replica that was promoted) shows that
  member for a few seconds; its worker removes it again, or is told of it by `on_departed` as inherited where it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NewType, Protocol

import msgspec

from realtime.timing.rate import Rate

Room = NewType("Room", str)
PRIVATE: Final = "\0"  # what the names of rooms begin with that workers keep among themselves; no client's does
UNBORN_S: Final = 300.0  # how long a position at which nothing was ever published is kept without anybody there
ConnectionId = NewType("ConnectionId", str)
WorkerId = NewType("WorkerId", str)  # one process: no other process ever had or will have it


class Position(msgspec.Struct, frozen=True, array_like=True):
    """A place in a room's stream: after the publication `offset` of the stream's life `epoch`."""

    epoch: str
    offset: int


class ClientInfo(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Who published, joined or left. `conn_info` and `chan_info` are JSON texts, or None."""

    user: str
    connection_id: str
    conn_info: bytes | None = None
    chan_info: bytes | None = None


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """
    One message in a room. `data` is a JSON text, kept as it came. `offset` is 0 and `epoch` empty in a room without
    history. `time_ms` is Unix time. `exclude`: the client that does not get it.
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
    How much of a room's stream is kept.

    `size` publications at most, forgotten when `ttl_s` seconds passed without another; 0 keeps none: such a room has no
    positions. The position itself outlives the publications by far (`meta_ttl_s`, from the last publication or look
    on): an empty stream still proves that nothing was missed. Of a room in which nothing was ever published it is kept
    for `UNBORN_S` only, and while a worker asks for it.
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

    def publication(self, time_ms: int) -> Publication:
        """Return what is stored and delivered, without the position that it gets."""
        return Publication(
            self.data,
            info=self.info,
            tags=dict(self.tags) if self.tags else None,
            time_ms=time_ms,
            exclude=self.exclude,
        )


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication. `duplicate`: its idempotency key had been seen, and nothing was published now."""

    position: Position
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """A page of a stream, and the position at the stream's top when it was read."""

    publications: Sequence[Publication]
    top: Position


@dataclass(frozen=True, slots=True)
class MemberCounts:
    """How many connections are present in a room, and of how many users."""

    clients: int
    users: int


@dataclass(frozen=True, slots=True)
class MembersPage:
    """Some of those present. `cursor` is where the next page begins; empty after the last."""

    members: Mapping[ConnectionId, ClientInfo]
    cursor: str


@dataclass(frozen=True, slots=True)
class Departed:
    """
    A member whose worker is gone: removed, or `inherited` by the worker that is told of it. `announce`: as when it was
    added.
    """

    room: Room
    info: ClientInfo
    announce: bool = False
    inherited: bool = False


class BrokerListener(Protocol):
    """
    What a broker tells the worker that holds it (the hub). Called from the event loop, never concurrently; a listener
    returns at once and never raises.
    """

    def on_publication(self, room: Room, publication: Publication) -> None: ...

    def on_join(self, room: Room, info: ClientInfo) -> None: ...

    def on_leave(self, room: Room, info: ClientInfo) -> None: ...

    def on_departed(self, departed: Sequence[Departed]) -> None:
        """
        Say that this worker reaped these members, or removed them before and found them there again. Leaves of those
        who were removed reach everybody by `on_leave` as well; those who were inherited are this worker's from now on,
        as if it had added them.
        """

    def on_link_lost(self) -> None:
        """Say that what is published from now on may be missed."""

    def on_link_restored(self) -> None:
        """
        Say that every subscription is in force again. What was published meanwhile was missed: every room is
        out_of_sync until its position was compared. Members of this worker were registered again by the broker itself,
        with a join wherever nobody was there by that id any more.
        """

    def on_gap(self, rooms: Sequence[Room]) -> None:
        """
        Say the same of some rooms alone: what was published in them a moment ago may have been missed, and their
        subscriptions are in force again. A broker of several servers lost one of them, or moved rooms to another.
        """


class Broker(Protocol):
    """
    The contract. All coroutines raise `realtime.errors.BrokerUnavailable` while the broker cannot be reached, and do
    so at once rather than wait; a caller that is cancelled harms no other caller. `publish`, `add_member` and `allow`
    raise it as well where the broker has no memory for what they would have it keep; reading and leaving go on.
    """

    @property
    def in_order(self) -> bool:
        """Whether publications are made in the order of the calls, also where none waits for the one before."""

    async def start(self, listener: BrokerListener) -> None:
        """
        Connect and take the worker's lease. The caller owes `close`.

        Raises:
            BrokerUnavailable: nobody answers; the text names the address and what to do.
        """

    async def close(self) -> None:
        """
        Remove this worker's members (announcing those who were announced), give up the lease, and disconnect. Lasting
        members are left to another worker, as if this one had died.
        """

    async def subscribe(self, room: Room) -> None:
        """Have this room's publications, joins and leaves told to the listener. In force when it returns."""

    async def unsubscribe(self, room: Room) -> None:
        """End `subscribe`. Harmless for a room that is not subscribed."""

    async def publish(self, request: PublishRequest) -> Published:
        """Add one publication to the room and send it to every worker that subscribed, in one indivisible step."""

    async def position(self, room: Room, *, retention: Retention) -> Position:
        """
        Return the top of the room's stream, beginning the stream (offset 0) where there is none: whoever is to be told
        a position that is kept asks by this.
        """

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        """
        Return the tops of several streams in one round trip; a room without a stream is absent from the answer. Streams
        in which nothing was published yet are kept for another `UNBORN_S`.
        """

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        begin: bool = False,
    ) -> History:
        """
        Return up to `limit` publications after `since` (exclusive), oldest first; or before it, newest first, when
        `reverse`. Without `since`: from the oldest kept, or from the newest when `reverse`. `limit` 0 returns none,
        only the top. `since.epoch` is not compared: the caller compares it with `top.epoch`. Where there is no stream,
        none begins by being looked at, and the top is `Position("", 0)`, unless `begin`: then it is as by `position`.
        """

    async def forget_history(self, room: Room) -> None:
        """Remove the room's publications; its position goes on counting."""

    async def add_member(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """
        Register `info.connection_id` as present, owned by this worker; whoever owned it before does no longer.

        Args:
            room: where.
            info: who.
            announce: tell every subscribed worker, now and when the member is reaped.
            quietly: now only where nobody was there by that id.
            lasting: when this worker is gone the member is not removed; whoever reaps has it from then on.
        """

    def release(self, room: Room, client: ConnectionId) -> None:
        """
        Note that another worker may take this worker's member over without a word to this one. After a fault it is
        registered again only where nobody else has it. `add_member` ends that.
        """

    async def remove_member(
        self, room: Room, client: ConnectionId, *, announce: bool, mine: bool = False
    ) -> int | None:
        """
        Undo `add_member`; with `mine`, only where this worker still owns the member. Return how many are left in the
        room, or None where this call did not remove it: of several, one does. Harmless, and announced to nobody, when
        that member is not there.
        """

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        """Return everybody present, of all workers."""

    async def member_counts(self, room: Room) -> MemberCounts:
        """Count everybody present, of all workers."""

    async def members_page(self, room: Room, *, cursor: str = "", limit: int = 1000) -> MembersPage:
        """
        Return about `limit` of those present, and where the next page begins. Who is present from the first page to
        the last is in at least one of them.
        """

    async def reap(self, worker: WorkerId) -> None:
        """
        Remove every member that belonged to `worker`, a process that is known to be dead, and announce their leaves.
        Any number of workers may ask it at the same time: one of them removes, and its listener is told by
        `on_departed`. Lasting members are not removed but inherited by that one.
        """

    async def allow(self, room: Room, who: str, rate: Rate) -> bool:
        """Say whether something that `who` does in a room is within a rate, on all workers together, and count it."""

    async def workers(self) -> Sequence[WorkerId]:
        """Return every process that holds a lease now, this one included."""

    def statistics(self) -> Mapping[str, int | float | str | bool]:
        """Return a snapshot for people: the link's state, counters, sizes."""
