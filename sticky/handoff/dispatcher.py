"""
Gives each connection to a worker, and gives it again until one worker has it.

Runs in the primary. It never reads a request, and never decides whose a connection is (identity.py does). How it works:

A `PendingHandoff` is a connection whose routing is known. The dispatcher owns it from `dispatch` on. At each moment a
handoff is in exactly one of these places, and each place has a way out:

    homeless ── a slot is filled ──▶ placed again        no slot is live (a probe is answered 503 at once instead)
        └────── `patience_s` is over, or the server stops ──▶ 503
    waiting  ── the channel has room ──▶ unacknowledged  the worker's channel is full
        └────── `patience_s` is over ──▶ 503;  the worker goes ──▶ placed again
    held     ── after `HOLD_S` ──▶ placed again          its requests may crash workers (crashes.py)
    unacknowledged ── settled ──▶ our copy is closed     the worker has a copy too
        ├────── NACK ──▶ another worker
        └────── the worker dies ──▶ see below

**Numbers.** The handoffs of one primary are numbered from 1, in the order of sending. A worker acknowledges by two
cumulative numbers, `adopted` and `settled`. For each worker settled <= adopted <= sent, and both only grow. A worker
that claims anything else is broken: `OutOfTurn` ends it.

**Two copies.** The primary keeps its copy of a descriptor until the worker reports the connection as settled. The
worker reports it as adopted in the turn of its loop in which it got the descriptor. It reports it as settled soon after
its transport has read the first byte, or when the connection has ended (acknowledgements.py). Until the copy is closed,
no close by the worker reaches the client. So the copy decides what can be done when a worker dies:

- A connection that the worker had not adopted goes to another worker.
- A connection that the worker had adopted but not read goes to another worker too: the request is still in the socket.
- A request that the worker had read, but not begun to answer, gets 503. The client may send it again.
- A connection whose response had begun is closed, for only the dead worker knew how it goes on.

**Bounds.** `WAITING_MAX` handoffs wait for one worker, or for any; further ones get 503 at once. A handoff waits about
`patience_s`, and anew where it is placed again. No handoff is sent more than `ATTEMPTS_MAX` times.

**Keys.** A key goes to its home slot, unless it has live connections elsewhere (away.py). The tracker notes a handoff
away from home before the next one is placed. So two connections of a key never go to two workers. One exception: a
worker that drains beside its successor gets the new hosted requests of a key that has hosted connections there.

**Errors.** An exception over one handoff closes that connection. The others, and the loop, go on.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Protocol

from sticky.errors import OutOfTurn
from sticky.handoff import probes
from sticky.handoff.away_tracker import AwayTracker, Channels
from sticky.handoff.channel import ChannelClosed, Kind
from sticky.handoff.messages import REFUSED
from sticky.handoff.pending_handoff import PendingHandoff, bytes_sent
from sticky.handoff.refusals import TOO_MANY
from sticky.handoff.worker_handle import WorkerHandle
from sticky.heads.first_bytes import Refusal
from sticky.keys.addresses import Addresses
from sticky.keys.balance import Balance
from sticky.keys.hashing import Hashing, Slot
from sticky.loop.poller import Poller

WAITING_MAX: Final = 1024  # handoffs that wait for one worker, or for any; about as many as a listener's backlog
ATTEMPTS_MAX: Final = 4  # a connection that was at three deaths of workers is not given to a fifth worker
RETRY_S: Final = 0.02  # a channel full of descriptors in flight (ETOOMANYREFS) gets no event from epoll
HOLD_S: Final = 0.05  # for how long a suspect is held back: by then the primary knows whether its worker has crashed
HELD_MAX: Final = 1_024  # handoffs held back at once; further suspects go on at once

WORKER_LOST_LINE: Final = 'handoffs placed again slot=%d pid=%d count=%d reason="their worker is gone"'

logger = logging.getLogger("sticky")


class Refuses(Protocol):
    """Answers connections that no worker serves: `Refusals`."""

    def refuse(self, sock: socket.socket, status: int, reason: str, count: str) -> None: ...

    def log_too_many(self, peer_address: str, connections: int) -> None: ...

    def answer(self, sock: socket.socket, response: bytes, count: str) -> None: ...


class HoldBack(enum.Enum):
    """The decision to place a handoff a little later."""

    HOLD = "hold"


class Suspicion(Protocol):
    """Knows which clients' requests crash workers: `Crashes`."""

    is_active: bool
    """Whether any key is suspected or refused. False most of the time; then `check` is not called."""

    def check(self, handoff: PendingHandoff) -> Refusal | HoldBack | None:
        """Decide on a handoff: refuse it, hold it back, or let it go on (None)."""


class Dispatcher:
    """Brings handoffs to workers. The head of this file has the theory of operation."""

    def __init__(
        self,
        poller: Poller,
        hashing: Hashing,
        live: Mapping[Slot, WorkerHandle],
        *,
        balance: Balance,
        patience_s: float,
        refusals: Refuses,
        channels: Channels,
        addresses: Addresses,
        counters: dict[str, int],
        suspicion: Suspicion | None = None,
        probe_paths: Collection[str] = (),
        own_paths: Collection[str] = (),
    ) -> None:
        """
        Args:
            live: the supervisor's table of the worker that serves each slot now.
            patience_s: how long a handoff may wait for a worker.
            channels: watches the workers' channels.
            addresses: counts connections; shared with the acceptor.
            probe_paths: requests for them are answered here at once while no slot is live.
            own_paths: as for `AwayTracker`.
        """
        self._probe_paths = probe_paths
        self._suspicion = suspicion
        self._poller = poller
        self._hashing = hashing
        self._live = live
        self._balance = balance
        self._patience_s = patience_s
        self._refusals = refusals
        self._channels = channels
        self._addresses = addresses
        self._counters = counters
        self._homeless: deque[PendingHandoff] = deque()  # no slot is live
        self.away = AwayTracker(poller, hashing, live, channels=channels, counters=counters, own_paths=own_paths)
        self.held_back = 0
        self._is_closed = False
        self._number = 0

    def dispatch(self, handoff: PendingHandoff) -> None:
        """Bring a handoff to its worker, whatever it takes. The dispatcher owns it from here on."""
        assert not handoff.number, "a handoff is dispatched once; after that it is placed again"
        handoff.expires_at = self._poller.now() + self._patience_s
        try:  # as `_guard`, in place: this is the way of each connection
            self._place(handoff)
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(partial(self._close, handoff))

    def _guard(self, action: Callable[[PendingHandoff], None], handoff: PendingHandoff) -> None:
        """Do something with one handoff of several. An exception closes that one, and the others go on."""
        try:
            action(handoff)
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(partial(self._close, handoff))

    # Placing

    def _place(self, handoff: PendingHandoff) -> None:
        if self._suspicion is not None and self._suspicion.is_active and self._is_stopped_as_suspect(handoff):
            return
        if not self._live:
            if self._is_closed:
                self._refuse_closed(handoff)
            elif handoff.path in self._probe_paths and not handoff.upgrade:
                self._answer_probe(handoff)
            else:
                self._wait(self._homeless, handoff)
            return
        if (stays := self.away.staying_worker(handoff)) is not None and self._send(stays, handoff):
            return
        slot = self._slot_for(handoff)
        worker = self._live[slot]
        if not self._addresses.has_share(handoff.network, worker.held):
            self._refusals.log_too_many(handoff.peer_address, self._addresses.count(handoff.network))
            self._refuse(handoff, 503, TOO_MANY, "refused_address")
            return
        if not worker.waiting and self._send(worker, handoff):
            return
        if handoff.key is None and self._send_to_other(worker, handoff):
            return
        self._wait(worker.waiting, handoff, worker)
        self._channels.wants_write(worker, True)

    def _slot_for(self, handoff: PendingHandoff) -> Slot:
        handoff.away = False
        if handoff.key is not None:
            slot, handoff.away = self.away.slot_for(handoff.key)
            return slot
        assert handoff.sticky_id is None, "each sticky id has a key"
        slot = self._balance(self._live)
        self._give_sticky_id(handoff, slot)
        return slot

    def _give_sticky_id(self, handoff: PendingHandoff, slot: Slot) -> None:
        if handoff.wants_sticky_id:
            handoff.new_sticky_id = self._hashing.new_sticky_id(slot)

    def _send(self, worker: WorkerHandle, handoff: PendingHandoff) -> bool:
        """Send a handoff to a worker. Return False when its channel is full or closed; then nothing has changed."""
        self._number += 1
        handoff.number = self._number
        if handoff.received:
            handoff.sent_before = bytes_sent(handoff.sock)
        fd = handoff.sock.fileno()
        try:
            sent = worker.channel.send(Kind.HANDOFF, *handoff.header(), fd=fd, carried=handoff.received)
        except ChannelClosed:
            sent = False  # its end is reported in this round or the next, and all its handoffs are placed again
        if not sent:
            return False
        assert handoff.number > worker.sent, "a worker's numbers only grow, for it acknowledges cumulatively"
        handoff.attempts += 1
        worker.handed += 1
        worker.sent = handoff.number
        worker.unacked.append(handoff)
        if worker.reports_peers:
            self._addresses.handed_over(handoff.network, worker.held)
        else:
            self._addresses.ended(handoff.network)
        self._counters["handed_over"] += 1
        if handoff.away:
            self.away.sent(handoff, worker)
        return True

    def _send_to_other(self, full: WorkerHandle, handoff: PendingHandoff) -> bool:
        """Send a handoff to any other worker with room. Return False when there is none."""
        handoff.away = False  # its key, if any, stays where its other connections are
        for slot, worker in self._live.items():
            if worker is not full and not worker.waiting:
                self._give_sticky_id(handoff, slot)
                if self._send(worker, handoff):
                    return True
        return False

    # Suspects

    def _is_stopped_as_suspect(self, handoff: PendingHandoff) -> bool:
        """Refuse or hold back a handoff whose requests may crash workers. Return False where it goes on."""
        assert self._suspicion is not None, "`_place` asks only where one may be suspected"
        decision = self._suspicion.check(handoff)
        if isinstance(decision, Refusal):
            self._refuse(handoff, decision.status, decision.reason, "refused_crasher")
            return True
        if decision is None or self.held_back >= HELD_MAX:
            return False
        handoff.times_held += 1
        self.held_back += 1
        self._poller.after(HOLD_S, lambda: self._release(handoff))
        return True

    def _release(self, handoff: PendingHandoff) -> None:
        self.held_back -= 1
        assert self.held_back >= 0, "each handoff is released once"
        self._guard(self._place, handoff)

    # Waiting

    def _wait(self, queue: deque[PendingHandoff], handoff: PendingHandoff, worker: WorkerHandle | None = None) -> None:
        if len(queue) >= WAITING_MAX:
            self._refuse(handoff, 503, "no worker has room", "refused_busy")
            return
        assert handoff.expires_at, "only what was dispatched waits, and it has its deadline"
        queue.append(handoff)
        if worker is not None:
            self.away.wait(handoff, worker)
        self._poller.after(max(handoff.expires_at - self._poller.now(), 0) + 0.001, lambda: self._expire(queue, worker))

    def _expire(self, queue: deque[PendingHandoff], worker: WorkerHandle | None) -> None:
        now = self._poller.now()
        while queue and queue[0].expires_at <= now:
            handoff = queue.popleft()
            if worker is not None:
                self.away.unwait(handoff, worker)
            self._guard(self._refuse_late, handoff)

    def flush(self, worker: WorkerHandle) -> None:
        """Send what waits for a worker whose channel has room again."""
        self._channels.wants_write(worker, False)
        has_room = worker.flush()
        while has_room and worker.waiting:
            handoff = worker.waiting.popleft()
            try:
                has_room = self._send(worker, handoff)
            except Exception:  # noqa: BLE001 - `failed` logs it
                self.away.unwait(handoff, worker)
                self._poller.failed(partial(self._close, handoff))
                continue
            if has_room:
                self.away.unwait(handoff, worker)
            else:
                worker.waiting.appendleft(handoff)
        if not has_room:  # watched again soon: see RETRY_S
            self._poller.after(RETRY_S, lambda: self._channels.wants_write(worker, True))

    # What workers report

    def acknowledge(self, worker: WorkerHandle, adopted: int, settled: int) -> None:
        """
        Note what a worker has adopted, and close our copies of what is settled. Both are numbers of handoffs.

        Raises:
            OutOfTurn: the worker was not given that many, or goes back behind an earlier report.
        """
        if not worker.taken <= adopted <= worker.sent:
            raise OutOfTurn(f"it acknowledges handoff {adopted} after {worker.taken}, and was given {worker.sent}")
        worker.taken = adopted
        unacked = worker.unacked
        while unacked and unacked[0].number <= settled:
            unacked.popleft().sock.close()

    def take_back(self, worker: WorkerHandle, number: int) -> None:
        """
        Give to another worker what this one could not adopt.

        Raises:
            OutOfTurn: the worker has no such handoff.
        """
        for handoff in worker.unacked:
            if handoff.number == number:
                worker.unacked.remove(handoff)
                self._addresses.taken_back(handoff.network, worker.held)
                self._guard(lambda handoff: self._place_elsewhere(handoff, avoid=worker), handoff)
                return
        if worker.is_identified:
            raise OutOfTurn(f"it cannot adopt handoff {number}, which it was not given")
        self._counters["lost_with_primary"] += 1  # an earlier primary had the only copy

    def ended(self, worker: WorkerHandle, counts: Mapping[str, int], arrived: Mapping[str, int]) -> None:
        """Note how many connections of a worker have ended, and how many came from another, by their peer addresses."""
        for peer_address, count in arrived.items():
            self._addresses.moved_to_worker(self._addresses.of(peer_address), count, worker.held)
        if "" in counts:  # it does not report addresses
            worker.reports_peers = False
            self._addresses.worker_lost(worker.held)
        for peer_address, count in counts.items():
            self._addresses.ended_in_worker(self._addresses.of(peer_address), count, worker.held)

    # Workers that come and go

    def resume_numbers(self, seen: int) -> None:
        """Number the next handoffs from above what a worker has seen of an earlier primary."""
        self._number = max(self._number, seen)

    def slot_filled(self) -> None:
        """Place everything that found no live slot. The supervisor calls this when a slot has a worker."""
        waiting, self._homeless = self._homeless, deque()
        for handoff in waiting:
            self._guard(self._place, handoff)

    def slots_changed(self, slots: int) -> None:
        """Set the number of slots. What waits for a worker is placed again, for its key's home may have moved."""
        self.away.slots_changed(slots)
        for worker in list(self._live.values()):
            self._place_waiting(worker)

    def worker_retired(self, worker: WorkerHandle) -> None:
        """Place again what waits for a worker that is about to drain. It reads no handoff after the DRAIN message."""
        self._place_waiting(worker)

    def _place_waiting(self, worker: WorkerHandle) -> None:
        waiting = list(worker.waiting)
        worker.waiting.clear()
        for handoff in waiting:
            self.away.unwait(handoff, worker)
        for handoff in waiting:
            self._guard(self._place, handoff)

    def worker_lost(self, worker: WorkerHandle) -> None:
        """Do what can be done for every handoff of a dead worker. You must have taken it out of `live` before."""
        assert self._live.get(worker.slot) is not worker, "a dead worker gets nothing any more"
        left, waiting = list(worker.unacked), list(worker.waiting)
        worker.unacked.clear()
        worker.waiting.clear()
        self.away.worker_gone(worker)
        if left or waiting:
            logger.warning(WORKER_LOST_LINE, worker.slot, worker.pid, len(left) + len(waiting))
        self._addresses.worker_lost(worker.held)
        for handoff in left:
            self._addresses.accepted(handoff.network)
            self._guard(self._place_elsewhere if handoff.number > worker.taken else self._after_adoption, handoff)
        for handoff in waiting:
            self._guard(self._place_elsewhere, handoff)

    def _after_adoption(self, handoff: PendingHandoff) -> None:
        """Do what can be done for a connection that a dead worker had adopted: the theory has the four cases."""
        if handoff.kind != "raw" and not handoff.received and handoff.is_untouched():
            self._place_elsewhere(handoff)
        elif handoff.kind == "http" and handoff.is_unanswered():
            self._refuse(handoff, 503, "the worker that read the request has died", "refused_read")
        else:
            self._counters["closed_with_worker"] += 1
            self._close(handoff)

    def _place_elsewhere(self, handoff: PendingHandoff, avoid: WorkerHandle | None = None) -> None:
        self._counters["handed_over_again"] += 1
        if handoff.attempts >= ATTEMPTS_MAX:
            self._refuse(handoff, 503, "no worker could take the connection", "refused_attempts")
        elif not handoff.is_untouched():
            self._counters["lost_after_reading"] += 1
            self._close(handoff)
        else:
            if handoff.reason != REFUSED:
                handoff.reason = "again"
            is_live = avoid is not None and self._live.get(avoid.slot) is avoid  # else no slot leads to it
            if avoid is not None and is_live and len(self._live) > 1 and self._send_to_other(avoid, handoff):
                return
            self._place(handoff)

    # Ending

    def close(self) -> None:
        """Answer every handoff that waits for a slot, and each later one: no worker will take them now."""
        self._is_closed = True
        while self._homeless:
            self._guard(self._refuse_closed, self._homeless.popleft())

    def _refuse_closed(self, handoff: PendingHandoff) -> None:
        self._refuse(handoff, 503, "shutting down", "refused_stopping")

    def _refuse_late(self, handoff: PendingHandoff) -> None:
        self._refuse(handoff, 503, "no worker took the connection in time", "refused_busy")

    def _refuse(self, handoff: PendingHandoff, status: int, reason: str, count: str) -> None:
        """Answer a connection that no worker has. The dispatcher does not own it any more."""
        self._addresses.ended(handoff.network)
        self._refusals.refuse(handoff.sock, status, reason, count)

    def _answer_probe(self, handoff: PendingHandoff) -> None:
        """Answer a load balancer's probe in place of a worker: there is none."""
        self._addresses.ended(handoff.network)
        answer = probes.unready([probes.NO_WORKER], is_head=handoff.method == "HEAD")
        self._refusals.answer(handoff.sock, answer, "probes_answered")

    def _close(self, handoff: PendingHandoff) -> None:
        """Close a connection that no worker has."""
        self._addresses.ended(handoff.network)
        handoff.sock.close()

    @property
    def homeless(self) -> int:
        """How many handoffs wait because no slot is live."""
        return len(self._homeless)
