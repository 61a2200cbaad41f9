"""
The primary's view of one worker process: its state, its channel, and the connections it has not acknowledged.

Runs in the primary. `Worker` (worker.py) runs in the process itself. A handle makes no decision: the supervisor moves
its state, the dispatcher gives it connections.

    STARTING ──ready──▶ READY ──drain──▶ DRAINING ──exit──▶ GONE
        │                 └──silent──▶ HUNG ──exit──▶ GONE
        └──exit──▶ GONE                        (a worker that drains can hang as well)
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sticky.channel import Channel, ChannelClosed, Kind
from sticky.hashing import Slot

if TYPE_CHECKING:
    from sticky.handoff import Parcel

SAYINGS_MAX: Final = 1024  # messages that wait for a full channel; above it they are dropped, and counted

logger = logging.getLogger("sticky")


class State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    HUNG = "hung"
    GONE = "gone"


class Event(enum.Enum):
    READY = "ready"
    DRAIN = "drain"
    SILENT = "silent"
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
}


class WorkerHandle:
    """One worker process."""

    __slots__ = (
        "adopted",
        "boot_error",
        "channel",
        "dropped",
        "generation",
        "handed",
        "heard_at",
        "pid",
        "ready_at",
        "reported",
        "sayings",
        "slot",
        "started_at",
        "state",
        "statistics",
        "unacked",
        "waiting",
        "worker_id",
    )

    def __init__(self, slot: Slot, pid: int, channel: Channel, *, worker_id: str, generation: int, now: float) -> None:
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.worker_id = worker_id
        self.generation = generation
        self.state = State.STARTING
        self.started_at = now
        self.heard_at = now
        self.ready_at: float | None = None
        self.boot_error: str | None = None
        self.unacked: deque[Parcel] = deque()  # handed over, and still ours too, in the order of their numbers
        self.waiting: deque[Parcel] = deque()  # not handed over: the channel is full
        self.sayings: deque[tuple[Kind, tuple[Any, ...]]] = deque()
        self.dropped = 0
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

    def say(self, kind: Kind, *fields: Any) -> None:
        """Say something, now or when the channel has room again. What a dead worker misses is nobody's loss."""
        if self.state is State.GONE:
            return
        if not self.sayings:
            try:
                if self.channel.send(kind, *fields):
                    return
            except ChannelClosed:
                return
        if len(self.sayings) >= SAYINGS_MAX:
            self.dropped += 1
            return
        self.sayings.append((kind, fields))

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
