"""
Gives each connection to a worker, and gives it again until one has it.

Runs in the primary. A `Parcel` is a connection whose way is known: its socket, and the header that travels with it. The
dispatcher chooses the slot, sends the parcel, and keeps its own copy of the descriptor until the worker acknowledges.
A parcel whose worker died, or said no, goes to another; one that finds no worker waits, bounded in number and time, and
is then answered 503. No connection is ever in nobody's hands.

**When a worker dies**, the copies say what can still be done for its clients. It acknowledges twice (worker.py says
when): that it has adopted a connection, and some turns later that the connection is settled; only then is the copy
closed. So of what it leaves behind,

- what it had not adopted goes to another worker;
- what it had adopted and not read goes to another worker as well;
- what it had read and not answered is told 503;
- what it had begun to answer is closed: nobody else knows how the answer goes on.

**A key that has live connections away from its home slot** goes to them (away.py). The primary notes it here, when it
sends one of its connections away, before the next one is placed.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from sticky.addresses import Addresses, Network
from sticky.away import ANSWER_S, AwayKeys, home_of
from sticky.channel import ChannelClosed, Kind
from sticky.errors import OutOfTurn, SettingsError
from sticky.hashing import Hashing, Key, Slot, StickyId
from sticky.messages import REFUSED
from sticky.poller import Poller
from sticky.refusals import TOO_MANY
from sticky.worker_handle import WorkerHandle

WAITING_MAX: Final = 1024  # parcels that wait for one worker, or for any
ATTEMPTS_MAX: Final = 4  # a connection that three workers died of is not given to a fourth
RETRY_S: Final = 0.02  # a channel can be full of descriptors in flight (ETOOMANYREFS), which epoll does not tell

TCP_INFO_NOTSENT: Final = 144  # where struct tcp_info of linux/tcp.h has tcpi_notsent_bytes, 32 bits,
TCP_INFO_SENT: Final = 200  # and tcpi_bytes_sent, 64 bits (Linux 4.19)

TABLE_FULL_LINE: Final = "! %d keys are away from their home slot, and no more are noted: others go home at once"

logger = logging.getLogger("sticky")


class PendingHandoff:
    """One connection on its way. The primary owns `sock` until it calls `release`."""

    __slots__ = (
        "address",
        "attempts",
        "away",
        "expires_at",
        "holds",
        "key",
        "kind",
        "method",
        "network",
        "new_sticky_id",
        "number",
        "path",
        "peer_address",
        "port",
        "reason",
        "received",
        "scheme",
        "sent",
        "sock",
        "sticky_id",
        "upgrade",
        "wants_sticky_id",
    )

    def __init__(self, sock: socket.socket, peer_address: str, address: str, port: int) -> None:
        self.sock = sock
        self.peer_address = peer_address
        self.received = b""  # bytes of the request that were read already; they travel with the descriptor
        self.sent: int | None = 0  # bytes that had been sent to the client before: answers to earlier requests
        self.address = address
        self.port = port
        self.scheme = "http"
        self.kind = "http"
        self.method = ""
        self.path = ""
        self.upgrade = False
        self.sticky_id: StickyId | None = None
        self.wants_sticky_id = False  # it has none that leads anywhere, and should be given one
        self.new_sticky_id: StickyId | None = None
        self.key: Key | None = None  # what is hashed; None: any worker will do
        self.away = False  # its key's home is another slot than that to which it goes
        self.reason = ""
        self.number = 0
        self.attempts = 0
        self.expires_at = 0.0
        self.network: Network | None = None  # what it is counted under
        self.holds = 0  # how often it was held back: see `Crashes`

    def header(self) -> tuple[object, ...]:
        """Return what travels with the descriptor: its number, then the order of `Adopted`, then whether it is away."""
        return (
            self.number,
            self.address,
            self.port,
            self.scheme,
            self.kind,
            self.method,
            self.path,
            self.upgrade,
            self.sticky_id,
            self.new_sticky_id,
            self.reason,
            self.peer_address,
            self.away,
        )

    def is_untouched(self) -> bool:
        """Whether the request can still be read from its first byte: from the socket, or from what travels with it."""
        if self.kind == "raw" or self.received:
            return True
        try:
            begin = self.sock.recv(32, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return begin.startswith(self.method.encode()) if self.kind == "http" else begin[:1] == b"\x16"

    def is_unanswered(self) -> bool:
        """Whether it is certain that its worker sent nothing. Unix sockets do not tell."""
        return self.sent is not None and bytes_sent(self.sock) == self.sent


def bytes_sent(sock: socket.socket) -> int | None:
    """Return how many bytes were written to a connection, ever (sent again counts again), or None where unknown."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SENT + 8)
    except OSError:
        return None
    if len(info) < TCP_INFO_SENT + 8:
        return None
    not_yet, sent = (
        struct.unpack_from("@I", info, TCP_INFO_NOTSENT)[0],
        struct.unpack_from("@Q", info, TCP_INFO_SENT)[0],
    )
    return int(not_yet + sent)


class Refuse(Protocol):
    """Answers a connection that nobody takes."""

    def __call__(self, sock: socket.socket, status: int, reason: str, count: str) -> None: ...


class Suspicion(Protocol):
    """Knows whose requests crash workers."""

    is_active: bool
    """False most of the time: nobody is suspected, and `stops` need not be asked."""

    def stops(self, handoff: PendingHandoff) -> bool:
        """Whether it has taken over the parcel, to refuse it, or to have it placed a little later."""


class Balance(Protocol):
    """Chooses a slot for a connection without a key."""

    def __call__(self, live: Mapping[Slot, WorkerHandle]) -> Slot: ...


def least(live: Mapping[Slot, WorkerHandle]) -> Slot:
    """Choose the worker with the fewest connections."""
    return min(live, key=lambda slot: (live[slot].connections, slot))


class RoundRobin:
    """Choose each slot in turn."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, live: Mapping[Slot, WorkerHandle]) -> Slot:
        slots = sorted(live)
        self._last = next((slot for slot in slots if slot > self._last), slots[0])
        return Slot(self._last)


def balance_named(name: str) -> Balance:
    """
    Return the way of balancing that a setting names.

    Raises:
        SettingsError: there is no such way.
    """
    if name == "least":
        return least
    if name == "round-robin":
        return RoundRobin()
    raise SettingsError("balance", f"{name!r} is neither 'least' nor 'round-robin'")


class Dispatcher:
    """Brings parcels to workers. `live` is the supervisor's: which worker serves which slot now."""

    def __init__(
        self,
        poller: Poller,
        hashing: Hashing,
        live: Mapping[Slot, WorkerHandle],
        *,
        balance: Balance,
        patience_s: float,
        refuse: Refuse,
        wants_write: Callable[[WorkerHandle, bool], None],
        addresses: Addresses,
        on_too_many: Callable[[str, Network | None], None],
        counters: dict[str, int],
        suspicion: Suspicion | None = None,
    ) -> None:
        """
        Args:
            addresses: counts connections; shared with the door.
            on_too_many: called with a peer that is refused for what a worker holds of its address.
        """
        self._suspicion = suspicion
        self._poller = poller
        self._hashing = hashing
        self._live = live
        self._balance = balance
        self._patience_s = patience_s
        self._refuse = refuse
        self._wants_write = wants_write
        self._addresses = addresses
        self._on_too_many = on_too_many
        self._counters = counters
        self._homeless: deque[PendingHandoff] = deque()  # no slot is live
        self.away = AwayKeys()
        self._slots = 0  # that there are when each has a worker
        self._warned: dict[str, WorkerHandle] = {}  # by id: those that know that keys of theirs may be elsewhere
        self._is_closed = False
        self._number = 0

    def dispatch(self, handoff: PendingHandoff) -> None:
        """Bring a parcel to its worker, whatever it takes. The dispatcher owns it from here on."""
        handoff.expires_at = self._poller.now() + self._patience_s
        self.place(handoff)

    def place(self, handoff: PendingHandoff) -> None:
        """Bring a parcel to its worker that was held back on its way."""
        self._try(self._place, handoff)

    def refuse(self, handoff: PendingHandoff, status: int, reason: str, count: str) -> None:
        """Answer a parcel that was stopped on its way."""
        self._give_up(handoff, status, reason, count)

    def _try(self, deed: Callable[[PendingHandoff], None], handoff: PendingHandoff) -> None:
        """Do something with one parcel of several. An error costs that one."""
        try:
            deed(handoff)
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(partial(self._close, handoff))

    def _place(self, handoff: PendingHandoff) -> None:
        if self._suspicion is not None and self._suspicion.is_active and self._suspicion.stops(handoff):
            return
        if not self._live:
            if self._is_closed:
                self._refuse_closed(handoff)
            else:
                self._wait(self._homeless, handoff)
            return
        slot = self._slot_for(handoff)
        worker = self._live[slot]
        if not self._addresses.has_share(handoff.network, worker.held):
            self._on_too_many(handoff.peer_address, handoff.network)
            self._give_up(handoff, 503, TOO_MANY, "refused_address")
            return
        if not worker.waiting and self._hand_over(worker, handoff):
            return
        if handoff.key is None and handoff.sticky_id is None and self._any_other(worker, handoff):
            return
        self._wait(worker.waiting, handoff, worker)
        self._wants_write(worker, True)

    def _slot_for(self, handoff: PendingHandoff) -> Slot:
        handoff.away = False
        if handoff.key is not None:
            return self._slot_for_key(handoff, handoff.key)
        slot = self._balance(self._live)
        if handoff.wants_sticky_id:
            handoff.new_sticky_id = self._hashing.new_sticky_id(slot)
        return slot

    def _slot_for_key(self, handoff: PendingHandoff, key: Key) -> Slot:
        if self.away:
            slot = self.away.slot_of(key)
            if slot is not None and slot in self._live:
                handoff.away = True
                return slot
        home = home_of(self._hashing, key, self._slots)
        if home in self._live:
            return home
        handoff.away = True
        return self._hashing.choose(key, self._live)

    def _hand_over(self, worker: WorkerHandle, handoff: PendingHandoff) -> bool:
        self._number += 1
        handoff.number = self._number
        handoff.attempts += 1
        if handoff.received:
            handoff.sent = bytes_sent(handoff.sock)
        try:
            sent = worker.channel.send(
                Kind.HANDOFF, *handoff.header(), fd=handoff.sock.fileno(), carried=handoff.received
            )
        except ChannelClosed:
            sent = False  # its death will be heard of in this round or the next; then all its parcels are placed again
        if not sent:
            handoff.attempts -= 1
            return False
        worker.handed += 1
        worker.sent = handoff.number
        worker.unacked.append(handoff)
        if worker.reports_peers:
            self._addresses.handed_over(handoff.network, worker.held)
        else:
            self._addresses.ended(handoff.network)
        self._counters["handed_over"] += 1
        if handoff.away and handoff.key is not None:
            self.away.sent(handoff.key, worker.slot, worker.worker_id, handoff.number)
            self._look_at_table()
        return True

    def _any_other(self, full: WorkerHandle, handoff: PendingHandoff) -> bool:
        handoff.away = False  # its key, if any, stays where its other connections are
        for slot, worker in self._live.items():
            if worker is not full and not worker.waiting:
                if handoff.wants_sticky_id:
                    handoff.new_sticky_id = self._hashing.new_sticky_id(slot)
                if self._hand_over(worker, handoff):
                    return True
        return False

    def _wait(self, queue: deque[PendingHandoff], handoff: PendingHandoff, worker: WorkerHandle | None = None) -> None:
        if len(queue) >= WAITING_MAX:
            self._give_up(handoff, 503, "no worker has room", "refused_busy")
            return
        queue.append(handoff)
        if worker is not None and handoff.away and handoff.key is not None:
            self.away.wait(handoff.key, worker.slot, worker.worker_id)
            self._look_at_table()
        self._poller.after(max(handoff.expires_at - self._poller.now(), 0) + 0.001, lambda: self._expire(queue, worker))

    def _expire(self, queue: deque[PendingHandoff], worker: WorkerHandle | None) -> None:
        now = self._poller.now()
        while queue and queue[0].expires_at <= now:
            handoff = queue.popleft()
            self._waits_no_longer(worker, handoff)
            self._try(self._refuse_late, handoff)

    def _refuse_late(self, handoff: PendingHandoff) -> None:
        self._give_up(handoff, 503, "no worker took the connection in time", "refused_busy")

    def _waits_no_longer(self, worker: WorkerHandle | None, handoff: PendingHandoff) -> None:
        if worker is not None and handoff.away and handoff.key is not None:
            self.away.unwait(handoff.key, worker.worker_id)

    # What becomes of a worker's parcels

    def flush(self, worker: WorkerHandle) -> None:
        """Hand over what waits for a worker whose channel has room again."""
        self._wants_write(worker, False)
        has_room = worker.flush()
        while has_room and worker.waiting:
            handoff = worker.waiting.popleft()
            try:
                has_room = self._hand_over(worker, handoff)
            except Exception:  # noqa: BLE001 - `failed` logs it
                self._waits_no_longer(worker, handoff)
                self._poller.failed(partial(self._close, handoff))
                continue
            if has_room:
                self._waits_no_longer(worker, handoff)
            else:
                worker.waiting.appendleft(handoff)
        if not has_room:  # asked again soon: see RETRY_S
            self._poller.after(RETRY_S, lambda: self._wants_write(worker, True))

    def acknowledge(self, worker: WorkerHandle, taken: int, settled: int) -> None:
        """
        Note what the worker has adopted, and give up our copies of what is settled. Both are numbers of parcels.

        Raises:
            OutOfTurn: it was not given that many, or takes back what it said.
        """
        if not worker.taken <= taken <= worker.sent:
            raise OutOfTurn(f"it acknowledges {taken} after {worker.taken}, and has been given {worker.sent}")
        worker.taken = taken
        unacked = worker.unacked
        while unacked and unacked[0].number <= settled:
            unacked.popleft().sock.close()

    def take_back(self, worker: WorkerHandle, number: int) -> None:
        """
        Give to another worker what this one could not adopt.

        Raises:
            OutOfTurn: it has no such parcel.
        """
        for handoff in worker.unacked:
            if handoff.number == number:
                worker.unacked.remove(handoff)
                self._addresses.taken_back(handoff.network, worker.held)
                self._try(lambda handoff: self._again(handoff, avoid=worker), handoff)
                return
        raise OutOfTurn(f"it cannot adopt connection {number}, which it was not given")

    def ended(self, worker: WorkerHandle, counts: Mapping[str, int]) -> None:
        """Note how many connections have ended that this worker had, by their peers."""
        if "" in counts:  # it does not say whose
            worker.reports_peers = False
            self._addresses.worker_lost(worker.held)
        for peer_address, count in counts.items():
            self._addresses.ended_in_worker(self._addresses.of(peer_address), count, worker.held)

    def worker_retired(self, worker: WorkerHandle) -> None:
        """Give to others what still waits for a worker that is about to end: being told so is the last it reads."""
        self._place_again(worker)

    def _place_again(self, worker: WorkerHandle) -> None:
        waiting = list(worker.waiting)
        worker.waiting.clear()
        for handoff in waiting:
            self._waits_no_longer(worker, handoff)
        for handoff in waiting:
            self._try(self._place, handoff)

    def worker_lost(self, worker: WorkerHandle) -> None:
        """Do what can be done for everything that a dead worker leaves behind. It is not live any more."""
        left, waiting = list(worker.unacked), list(worker.waiting)
        worker.unacked.clear()
        worker.waiting.clear()
        self.keys_lost(worker)
        if left or waiting:
            count = len(left) + len(waiting)
            logger.warning("= slot %d: %d connections were on their way, and are looked after", worker.slot, count)
        self._addresses.worker_lost(worker.held)
        for handoff in left:
            self._addresses.accepted(handoff.network)
            self._try(self._again if handoff.number > worker.taken else self._after_adoption, handoff)
        for handoff in waiting:
            self._try(self._again, handoff)

    def _after_adoption(self, handoff: PendingHandoff) -> None:
        if handoff.kind != "raw" and not handoff.received and handoff.is_untouched():
            self._again(handoff)
        elif handoff.kind == "http" and handoff.is_unanswered():
            self._give_up(handoff, 503, "the worker that read the request has died", "refused_read")
        else:
            self._counters["closed_with_worker"] += 1
            self._close(handoff)

    def _again(self, handoff: PendingHandoff, avoid: WorkerHandle | None = None) -> None:
        self._counters["handed_over_again"] += 1
        if handoff.attempts >= ATTEMPTS_MAX:
            self._give_up(handoff, 503, "no worker could take the connection", "refused_attempts")
        elif not handoff.is_untouched():
            self._counters["lost_after_reading"] += 1
            self._close(handoff)
        else:
            if handoff.reason != REFUSED:
                handoff.reason = "again"
            if avoid is not None and len(self._live) > 1 and self._any_other(avoid, handoff):
                return
            self._place(handoff)

    # Keys that are away from home

    def slots_changed(self, slots: int) -> None:
        """Learn how many slots there are. Workers that serve are asked which keys they have whose home is elsewhere."""
        self._slots = slots
        workers = list(self._live.values())
        number = self.away.request(worker.worker_id for worker in workers)
        for worker in workers:
            self._say_slots(worker, number)
            self._place_again(worker)
        if workers:
            self._poller.after(ANSWER_S, lambda: self.away.give_up(number))

    def warn(self, worker: WorkerHandle) -> None:
        """Tell a worker that is about to serve, if so, that keys of its slot may be away."""
        if self.away:
            self._warned[worker.worker_id] = worker
            self._say_slots(worker, 0)

    def _say_slots(self, worker: WorkerHandle, number: int) -> None:
        if not worker.say(Kind.SLOTS, self._slots, number, worker.worker_id in self._warned):
            self._wants_write(worker, True)

    def keys_away(self, worker: WorkerHandle, keys: list[bytes], seen: int, number: int, is_all: bool) -> None:
        """
        Take an answer, or a part of it, to the question which keys are away.

        Raises:
            OutOfTurn: it has seen a connection that it was not given.
        """
        self._check_seen(worker, seen)
        self.away.reported(keys, worker.slot, worker.worker_id, seen)
        if is_all:
            self.away.answered(worker.worker_id, number)
        self._look_at_table()

    def keys_ended(self, worker: WorkerHandle, keys: list[bytes], seen: int) -> None:
        """
        Learn that keys that were away have no live connection at a worker any more.

        Raises:
            OutOfTurn: it has seen a connection that it was not given.
        """
        self._check_seen(worker, seen)
        self.away.ended(keys, worker.worker_id, seen)
        self._look_at_table()

    @staticmethod
    def _check_seen(worker: WorkerHandle, seen: int) -> None:
        if seen > worker.sent:
            raise OutOfTurn(f"it has seen connection {seen}, and has been given {worker.sent}")

    def keys_lost(self, worker: WorkerHandle) -> None:
        """Learn that the live connections of a worker are gone, or will be."""
        self.away.gone(worker.worker_id)
        self._warned.pop(worker.worker_id, None)
        self._look_at_table()

    def _look_at_table(self) -> None:
        if refused := self.away.refused:
            if not self._counters["away_not_noted"]:
                logger.warning(TABLE_FULL_LINE, len(self.away))
            self._counters["away_not_noted"] = refused
        if self._warned and not self.away:
            warned, self._warned = self._warned, {}
            for worker in warned.values():
                self._say_slots(worker, 0)

    def slot_filled(self) -> None:
        """Place everything that found no live slot."""
        waiting, self._homeless = self._homeless, deque()
        for handoff in waiting:
            self._try(self._place, handoff)

    def close(self) -> None:
        """Answer everything that waits: nobody will take it now, nor what is left over later."""
        self._is_closed = True
        while self._homeless:
            self._try(self._refuse_closed, self._homeless.popleft())

    def _refuse_closed(self, handoff: PendingHandoff) -> None:
        self._give_up(handoff, 503, "shutting down", "refused_stopping")

    def _give_up(self, handoff: PendingHandoff, status: int, reason: str, count: str) -> None:
        """Answer a connection that no worker has, and let go of it."""
        self._addresses.ended(handoff.network)
        self._refuse(handoff.sock, status, reason, count)

    def _close(self, handoff: PendingHandoff) -> None:
        """Close a connection that no worker has."""
        self._addresses.ended(handoff.network)
        handoff.sock.close()

    @property
    def homeless(self) -> int:
        """How many connections wait for any worker."""
        return len(self._homeless)
