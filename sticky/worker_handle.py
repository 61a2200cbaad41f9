"""
The primary's view of one worker process: its state, its channel, and the connections it has not acknowledged.

Runs in the primary. `Worker` (worker.py) runs in the process itself. A handle makes no decision: the supervisor moves
its state, the dispatcher gives it connections.

    STARTING ──ready──▶ READY ──drain──▶ DRAINING ──exit──▶ GONE
        │                 └──silent──▶ HUNG ──exit──▶ GONE
        └──exit──▶ GONE                        (a worker that drains can hang as well)

    any of the first four ──condemn──▶ CONDEMNED ──exit──▶ GONE: what it said could not be read, and it is killed
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections import deque
from typing import Any, Final

from sticky.addresses import Network
from sticky.channel import Channel, ChannelClosed, Kind
from sticky.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.pending_handoff import PendingHandoff

SAYINGS_MAX: Final = 256  # what waits for a full channel

logger = logging.getLogger("sticky")


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    HUNG = "hung"
    CONDEMNED = "condemned"
    GONE = "gone"


class Event(enum.Enum):
    READY = "ready"
    DRAIN = "drain"
    SILENT = "silent"
    CONDEMN = "condemn"
    EXIT = "exit"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.STARTING, Event.READY): State.READY,
    (State.STARTING, Event.SILENT): State.HUNG,
    (State.STARTING, Event.EXIT): State.GONE,
    (State.READY, Event.DRAIN): State.DRAINING,
    (State.READY, Event.SILENT): State.HUNG,
    (State.READY, Event.EXIT): State.GONE,
    (State.DRAINING, Event.SILENT): State.HUNG,
    (State.DRAINING, Event.EXIT): State.GONE,
    (State.HUNG, Event.EXIT): State.GONE,
    **{(state, Event.CONDEMN): State.CONDEMNED for state in (State.STARTING, State.READY, State.DRAINING, State.HUNG)},
    (State.CONDEMNED, Event.EXIT): State.GONE,
}


class WorkerHandle:
    """One worker process."""

    __slots__ = (
        "adopted",
        "boot_error",
        "booting_since",
        "channel",
        "generation",
        "handed",
        "heard_at",
        "held",
        "is_held",
        "is_retired",
        "journal",
        "lifetime",
        "pid",
        "ready_at",
        "reported",
        "reports_peers",
        "sayings",
        "sent",
        "slot",
        "started_at",
        "state",
        "statistics",
        "taken",
        "unacked",
        "waiting",
        "wants_write",
        "was_killed",
        "worker_id",
    )

    def __init__(
        self,
        slot: Slot,
        pid: int,
        channel: Channel,
        *,
        worker_id: str,
        generation: int,
        now: float,
        lifetime: Lifetime,
        journal: int | None = None,
    ) -> None:
        """
        Args:
            journal: the descriptor of what is in flight in it; None where that is not known. The handle owns it.
        """
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.worker_id = worker_id
        self.generation = generation
        self.lifetime = lifetime
        self.journal = journal
        self.state = State.STARTING
        self.started_at = self.booting_since = now
        self.heard_at = now
        self.ready_at: float | None = None
        self.boot_error: str | None = None
        self.unacked: deque[PendingHandoff] = deque()  # handed over, and still ours too, in the order of their numbers
        self.sent = 0  # number of the last parcel that was handed over
        self.taken = 0  # number of the last parcel that it adopted
        self.waiting: deque[PendingHandoff] = deque()  # not handed over: the channel is full
        self.sayings: deque[tuple[Kind, tuple[Any, ...]]] = deque()
        self.wants_write = False  # something waits for room in the channel
        self.is_retired = False  # it was told to end
        self.was_killed = False  # by this process
        self.is_held = False  # it is not read from: somebody does not take what it sends
        self.held: dict[Network, int] = {}  # connections of each address that it has, as far as it has reported ends
        self.reports_peers = True  # of connections that end; else they are counted under no address
        self.handed = 0  # connections ever handed over
        self.reported = 0  # connections it had, by its last heartbeat
        self.adopted = 0  # connections it had ever adopted, by its last heartbeat
        self.statistics: dict[str, Any] = {}

    def move(self, event: Event) -> None:
        """Move to the state that follows, and log it."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise AssertionError(f"worker {self.worker_id} is {self.state.value} and cannot be told {event.value}")
        logger.info("= slot %d: worker %d %s -> %s", self.slot, self.pid, self.state.value, after.value)
        self.state = after

    @property
    def connections(self) -> int:
        """How many it has: what it reported, and what was handed over since."""
        return self.reported + max(self.handed - self.adopted, 0) + len(self.waiting)

    def beat(self, connections: int, adopted: int, statistics: dict[str, Any], now: float) -> None:
        """Take its heartbeat."""
        self.reported, self.adopted, self.statistics, self.heard_at = connections, adopted, statistics, now

    def say(self, kind: Kind, *fields: Any) -> bool:
        """Say something; return False when it waits for `flush`. What a dead worker misses is nobody's loss."""
        if self.state is State.GONE:
            return True
        if not self.sayings:
            try:
                if self.channel.send(kind, *fields):
                    return True
            except ChannelClosed:
                return True
        self.sayings.append((kind, fields))
        return False

    @property
    def is_full(self) -> bool:
        """So much waits for it that what is not vital has to be dropped."""
        return len(self.sayings) >= SAYINGS_MAX

    def flush(self) -> bool:
        """Say what waits. Return whether nothing waits any more."""
        while self.sayings:
            kind, fields = self.sayings[0]
            try:
                if not self.channel.send(kind, *fields):
                    return False
            except ChannelClosed:
                self.sayings.clear()
                return True
            self.sayings.popleft()
        return True

    def forget_journal(self) -> None:
        """Close what was in flight in it, once that is read."""
        if self.journal is not None:
            os.close(self.journal)
            self.journal = None

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process. The caller has not reaped it yet: the process id cannot be another's."""
        self.was_killed |= number is signal.SIGKILL
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            logger.debug("= process %d is gone already", self.pid)

    def describe(self, now: float) -> dict[str, Any]:
        """Return a snapshot for `realtime status`."""
        return {
            "slot": self.slot,
            "pid": self.pid,
            "worker_id": self.worker_id,
            "state": self.state.value,
            "generation": self.generation,
            "connections": self.connections,
            "adopted": self.adopted,
            "unacked": len(self.unacked),
            "waiting": len(self.waiting),
            "up_s": round(now - self.started_at, 1),
            "statistics": self.statistics,
        }


def describe_end(code: int) -> str:
    """Say how a process ended, by its exit status; negative for a signal."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
