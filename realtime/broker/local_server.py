"""
The local broker: the state of memory_state.py, served to all workers of one machine over a Unix socket.

Runs in the local broker's process (local_process.py), which starts and ends it. It stores everything in memory.

Theory of operation
===================

**One process, one loop.** Each command runs to its end without waiting. Commands of all workers are therefore atomic
and have one order. Events go to each subscribed worker in that order, on the same link as the answers.

**States of a worker, as this process sees it:**

- *linked*: its link is in `peers`, and it has said hello. It is a possible heir.
- *left*: it said goodbye. Its members were removed at once; lasting ones went to an heir.
- *disconnected*: its link ended without a goodbye. Its members stay for `LEASE_S`, because it may reconnect.
- *dead*: `LEASE_S` has passed without a new link, or another worker sent `reap`. The primary notices a death at once,
  so `reap` usually comes first. Its members are reaped.
- *orphaned*: it is dead or has left, and no heir existed for its lasting members. It is in `orphans`. The next worker
  that says hello inherits them.

Invariant: a link is in `_subscribers[room]` exactly if `room` is in its `rooms`. No empty set stays there.

**One broker for each path.** The process holds a lock beside its socket (local_process.py). A second one on the same
path waits a little, and ends: two brokers would split each room without a sign.

**Slow workers.** A worker that does not read fast enough for `OUTBOUND_MAX` bytes loses its link. It then reconnects
and recovers from the streams, like after any lost link.

**Memory.** A refused command is answered with REFUSED. The first refusal is logged and sent to all workers as a state.
It ends when the usage falls below `MEMORY_FREE` of the limit.

**When a process dies:**

- A worker: see *disconnected*. A command that was received whole takes effect; its answer is dropped.
- This process, replaced in an upgrade: everything moves to its successor, links included (local_handover.py).
- This process, in any other way: everything stored is gone. The primary starts a new one, whose streams have new
  epochs; by these the workers see the loss. Workers subscribe and register their members again, before any of their
  other commands.
- The primary: nothing changes, for its keeper starts another, which goes on with this process.
- The primary and its keeper, or a primary without one: the liveness socket (`--ready-fd`) ends. This process serves
  until the last worker has left, so that workers can drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from realtime.broker import formats
from realtime.broker.base import (
    ClientInfo,
    ConnectionId,
    Departed,
    Position,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.framing import Framed, frame
from realtime.broker.memory_state import MemoryState, StoredMember
from realtime.broker.streams import Full
from realtime.log_lines import log
from realtime.timing.rate import Rate

HANDOVER_VERSION: Final = 1  # of the messages in local_handover.py
LEASE_S: Final = 6.0  # as with Redis (members.py): longer than a worker needs to reconnect
OUTBOUND_MAX: Final = 64 * 1024 * 1024  # unsent bytes for one worker; above it the link is closed

# First element of each message to a worker.
REPLY: Final = 0
FAILED: Final = 1
PUBLICATION: Final = 2
JOIN: Final = 3
LEAVE: Final = 4
DEPARTED: Final = 5
REFUSED: Final = 6  # an answer: there is no memory for what was to be stored
STATE: Final = 7  # the statistics

STATE_S: Final = 5.0  # between two STATE messages to each worker
MEMORY_FREE: Final = 0.95  # of the limit; the broker stays in the state *full* until it uses less

FULL: Final = "local broker full"  # it refuses more than --broker-memory
NOT_FULL: Final = "= local broker has memory again"

logger = logging.getLogger("realtime.broker.local")


class WorkerLink(Framed):
    """
    The link of one worker.

    Its worker is known only after `hello`. Before that, it gets no statistics and cannot be an heir.
    """

    def __init__(self, server: LocalBrokerServer) -> None:
        super().__init__()
        self.server = server
        self.worker = WorkerId("")
        self.rooms: set[Room] = set()
        self.said_goodbye = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the link. Its worker is known with its `hello`."""
        super().connection_made(transport)
        self.server.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.link_lost(self)

    def received(self, message: list[msgspec.Raw]) -> None:
        """
        Run a command, and send exactly one answer.

        The worker matches answers by their order. A failed command must therefore be answered too, and must not end
        the link, which would fail the commands of all other callers.
        """
        operation = msgspec.msgpack.decode(message[0], type=str)
        try:
            answer = OPERATIONS[operation](self.server, self, message[1:])
        except Full:
            self.send([REFUSED, self.server.state.budget.limit])
            self.server.note_refusal()
        except Exception:  # noqa: BLE001 - logged with its traceback
            log(logger, logging.ERROR, "broker command failed", command=operation, worker=self.worker, exc_info=True)
            self.send([FAILED, operation])
        else:
            self.send([REPLY, answer])

    def notify(self, event: bytes) -> None:
        """Send an event's frame, or close the link if more than `OUTBOUND_MAX` bytes are unsent."""
        # Without a transport it is a link of an earlier process, which is connected next.
        if self.transport is not None and self.transport.get_write_buffer_size() > OUTBOUND_MAX:
            log(logger, logging.ERROR, "x broker link closed", worker=self.worker, reason="it reads too slowly")
            self.transport.abort()
            return
        self.send_frame(event)


class LocalBrokerServer:
    """The shared state of all workers, their links, and the subscriptions."""

    def __init__(
        self,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_hand_over: Callable[[WorkerLink], object] = lambda link: None,
    ) -> None:
        """
        Args:
            limit: bytes that may be used.
            on_hand_over: called with the link of a successor that asks for everything (local_handover.py).
        """
        self.state = MemoryState(limit)
        self.peers: set[WorkerLink] = set()  # all links, those without a hello included
        self._subscribers: dict[Room, set[WorkerLink]] = {}
        self.orphans: set[WorkerId] = set()  # dead workers that still own lasting members
        self._clock = clock
        self._on_hand_over = on_hand_over
        self._is_full = False

    # Links

    def link_lost(self, peer: WorkerLink) -> None:
        """Note that a link ended. Without a goodbye, its worker keeps its members for `LEASE_S`."""
        self.peers.discard(peer)
        for room in list(peer.rooms):
            self._unsubscribe(peer, room)
        assert not peer.rooms, "_unsubscribe removes the room on both sides"
        if peer.worker and not peer.said_goodbye:
            asyncio.get_running_loop().call_later(LEASE_S, self._end_lease, peer.worker)

    def _end_lease(self, worker: WorkerId) -> None:
        """Reap a worker that lost its link `LEASE_S` ago, unless it has a new one."""
        if any(peer.worker == worker for peer in self.peers):
            return
        heir = self._heir()
        departed = self._reap(worker, heir)
        if departed and heir is not None:
            heir.notify(frame([DEPARTED, departed]))

    def adopt(self, link: WorkerLink, rooms: Iterable[Room]) -> None:
        """Take the link of an earlier process over, which gets a transport next."""
        for room in rooms:
            link.rooms.add(room)
            self._subscribers.setdefault(room, set()).add(link)

    def resume_leases(self) -> None:
        """Begin the leases anew of workers that own members and have no link, after an earlier process."""
        linked = {peer.worker for peer in self.peers}
        for worker in self.state.owners():
            if worker not in linked and worker not in self.orphans:
                asyncio.get_running_loop().call_later(LEASE_S, self._end_lease, worker)

    def _heir(self) -> WorkerLink | None:
        """Return a worker that can inherit. Any will do, because a lasting member needs an owner and no connection."""
        return next((each for each in self.peers if each.worker and not each.said_goodbye), None)

    # Operations. Each gets the undecoded arguments, and returns the answer.

    def hello(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> bytes:
        """
        Learn which worker this is, send it the statistics, and let it inherit the members of orphaned workers.

        The answer announces what this process speaks (formats.py). The worker decides whether it understands that.
        """
        assert not peer.worker, "local.py sends hello once, as the first command of a link"
        peer.worker = WorkerId(_text(raw[0]))
        peer.notify(frame([STATE, self.statistics()]))
        orphans, self.orphans = self.orphans - {peer.worker}, set()
        inherited = [departed for worker in sorted(orphans) for departed in self._reap(worker, peer)]
        if inherited:
            peer.notify(frame([DEPARTED, inherited]))
        return formats.pack(formats.LOCAL)

    def hand_over(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        """Have everything moved to a successor, whose version of that is known here."""
        assert not peer.worker, "a worker is no successor"
        version = msgspec.msgpack.decode(raw[0], type=int)
        if version != HANDOVER_VERSION:
            raise ValueError(f"handover version {version} is unknown")
        self._on_hand_over(peer)

    def goodbye(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        """Remove the members of a worker that ends. Only inherited ones are reported: its leaves are announced."""
        assert peer.worker, "a worker says hello first: without a name it has no members to remove"
        peer.said_goodbye = True
        heir = self._heir()
        inherited = [each for each in self._reap(peer.worker, heir) if each.inherited]
        if heir is not None and inherited:
            heir.notify(frame([DEPARTED, inherited]))

    def subscribe(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        """Subscribe a link to a room. Events that follow are behind the answer on the same link."""
        room = Room(_text(raw[0]))
        peer.rooms.add(room)
        self._subscribers.setdefault(room, set()).add(peer)
        assert peer in self.peers, "a link that is lost sends no command, and would stay a subscriber for ever"

    def unsubscribe(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        self._unsubscribe(peer, Room(_text(raw[0])))

    def _unsubscribe(self, peer: WorkerLink, room: Room) -> None:
        """
        Remove a subscription on both sides. With the last one, a stream that was never used ends: else each name that a
        client makes up would stay in memory.
        """
        peer.rooms.discard(room)
        subscribers = self._subscribers.get(room)
        if subscribers is not None:
            assert subscribers, "no empty set stays"
            subscribers.discard(peer)
            if not subscribers:
                del self._subscribers[room]
                self.state.streams.unwatched(room)

    def publish(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        """Store a publication and send it to the subscribers: also to the publisher, before its answer."""
        room = Room(_text(raw[0]))
        publication = msgspec.msgpack.decode(raw[1], type=RawPublication)
        retention = msgspec.msgpack.decode(raw[2], type=Retention)
        key = msgspec.msgpack.decode(raw[3], type=str | None)
        ttl_s = msgspec.msgpack.decode(raw[4], type=float)
        published, sent = self.state.publish(self._clock(), room, publication, retention, key, ttl_s)
        if sent is not None:
            self._notify(room, [PUBLICATION, room, sent])
        return published

    def position(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        return self.state.position(self._clock(), Room(_text(raw[0])), msgspec.msgpack.decode(raw[1], type=Retention))

    def positions(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        rooms = [Room(room) for room in msgspec.msgpack.decode(raw[0], type=list[str])]
        return self.state.positions(self._clock(), rooms)

    def history(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        retention = msgspec.msgpack.decode(raw[1], type=Retention)
        since = msgspec.msgpack.decode(raw[2], type=Position | None)
        limit = msgspec.msgpack.decode(raw[3], type=int)
        reverse, create = [msgspec.msgpack.decode(each, type=bool) for each in raw[4:6]]
        return self.state.history(self._clock(), Room(_text(raw[0])), retention, since, limit, reverse, create)

    def forget_history(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        self.state.forget_history(Room(_text(raw[0])))

    def add_member(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> None:
        """
        Add a member.

        `announce`, `quietly` and `lasting` are as in the contract. `in_grace`: do nothing where another worker owns it.
        """
        room, info = Room(_text(raw[0])), msgspec.msgpack.decode(raw[1], type=ClientInfo)
        announce, quietly, lasting, in_grace = [msgspec.msgpack.decode(each, type=bool) for each in raw[2:6]]
        owner = self.state.owner(room, ConnectionId(info.connection_id))
        # Only a reconnecting worker sends `in_grace`. Another worker may have taken the member over meanwhile.
        if in_grace and owner not in (None, peer.worker):
            return
        if not quietly:  # a quiet member was admitted before, and refusing it now would lose it
            self.state.admit_member(self._clock(), room, info)
        self.state.add_member(room, StoredMember(peer.worker, info, announce, lasting))
        if announce and (owner is None or not quietly):
            self._notify(room, [JOIN, room, info])

    def remove_member(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> int | None:
        """Remove a member, and return how many are left: of members that leave at once, one call gets 0."""
        room = Room(_text(raw[0]))
        announce, mine = [msgspec.msgpack.decode(each, type=bool) for each in raw[2:4]]
        info = self.state.remove_member(room, ConnectionId(_text(raw[1])), peer.worker if mine else None)
        if info is not None and announce:
            self._notify(room, [LEAVE, room, info])
        return None if info is None else self.state.count(room)

    def members(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        return self.state.members(Room(_text(raw[0])))

    def member_counts(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        return self.state.member_counts(Room(_text(raw[0])))

    def reap(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        return self._reap(WorkerId(_text(raw[0])), peer)

    def members_page(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        return self.state.members_page(Room(_text(raw[0])), _text(raw[1]), msgspec.msgpack.decode(raw[2], type=int))

    def allow(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        rate = msgspec.msgpack.decode(raw[2], type=Rate)
        return self.state.allow(self._clock(), Room(_text(raw[0])), _text(raw[1]), rate)

    def workers(self, peer: WorkerLink, raw: list[msgspec.Raw]) -> Any:
        """Return the workers with a link. A worker may have two for a moment, while it reconnects."""
        return sorted({each.worker for each in self.peers if each.worker})

    def _reap(self, worker: WorkerId, heir: WorkerLink | None) -> list[Departed]:
        """Reap a worker's members and announce their leaves. Lasting members without an heir wait as orphans."""
        reaped = self.state.reap(worker, None if heir is None or heir.worker == worker else heir.worker)
        for departed in reaped:
            if departed.announce and not departed.inherited:
                self._notify(departed.room, [LEAVE, departed.room, departed.info])
        if self.state.has_members(worker):
            self.orphans.add(worker)
        return reaped

    def _notify(self, room: Room, event: Any) -> None:
        """Send an event to every subscribed worker. It is encoded once, whatever the number of workers."""
        peers = self._subscribers.get(room)
        if peers:
            framed = frame(event)
            for peer in tuple(peers):
                peer.notify(framed)

    # Memory

    def note_refusal(self) -> None:
        """Note that a command was refused. The first time, log it and notify all workers."""
        if not self._is_full:
            self._is_full = True
            log(logger, logging.ERROR, FULL, limit_bytes=self.state.budget.limit)
            self._send_state()

    def _send_state(self) -> None:
        """Send the statistics to all workers. End the state *full* when enough memory is free again."""
        budget = self.state.budget
        if self._is_full and budget.limit is not None and budget.used <= MEMORY_FREE * budget.limit:
            self._is_full = False
            assert budget.used <= budget.limit, "a limit of which less than all is used has room"
            log(logger, logging.WARNING, NOT_FULL, used_bytes=budget.used, limit_bytes=budget.limit)
        framed = frame([STATE, self.statistics()])
        for peer in tuple(self.peers):
            if peer.worker:  # before its hello, a link expects no events
                peer.notify(framed)

    async def sweep_forever(self) -> None:
        """Remove everything that has expired, and send the statistics to the workers, until cancelled."""
        sweep_at = self._clock()
        while True:
            if (now := self._clock()) >= sweep_at:
                sweep_at = now + self.state.sweep_in_time(now)
            self._send_state()
            await asyncio.sleep(STATE_S)

    def statistics(self) -> dict[str, int]:
        return {
            "workers": len(self.peers),
            "subscribed": len(self._subscribers),
            "is_full": int(self._is_full),
            **self.state.statistics(),
        }


def _text(raw: msgspec.Raw) -> str:
    return msgspec.msgpack.decode(raw, type=str)


OPERATIONS: Final[dict[str, Callable[[LocalBrokerServer, WorkerLink, list[msgspec.Raw]], Any]]] = {
    "hello": LocalBrokerServer.hello,
    "hand_over": LocalBrokerServer.hand_over,
    "goodbye": LocalBrokerServer.goodbye,
    "subscribe": LocalBrokerServer.subscribe,
    "unsubscribe": LocalBrokerServer.unsubscribe,
    "publish": LocalBrokerServer.publish,
    "position": LocalBrokerServer.position,
    "positions": LocalBrokerServer.positions,
    "history": LocalBrokerServer.history,
    "forget_history": LocalBrokerServer.forget_history,
    "add_member": LocalBrokerServer.add_member,
    "remove_member": LocalBrokerServer.remove_member,
    "members": LocalBrokerServer.members,
    "member_counts": LocalBrokerServer.member_counts,
    "members_page": LocalBrokerServer.members_page,
    "reap": LocalBrokerServer.reap,
    "allow": LocalBrokerServer.allow,
    "workers": LocalBrokerServer.workers,
}
