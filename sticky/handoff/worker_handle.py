"""
The primary's view of one worker process: its state, its channel, and the connections it has not acknowledged.

Runs in the primary. `Worker` (worker.py) runs in the process itself. A handle decides nothing: the supervisor makes its
transitions, the dispatcher gives it connections, and `Workers` watches its channel and signals it.

**States.** `TRANSITIONS` is the whole table; an event that is not in it is our own bug and raises.

    STARTING ──ready──▶ READY ──drain──▶ DRAINING ──exit──▶ GONE
        │                 └──silent──▶ HUNG ──exit──▶ GONE
        └──exit──▶ GONE                        (a worker that drains can hang as well)

    any of the first four ──condemn──▶ CONDEMNED ──exit──▶ GONE: its message was not valid, and it is killed

- STARTING: the process runs and has not sent READY. It gets no connection.
- READY: it serves. It is in `Workers.live`, unless its successor has taken the slot in this very moment.
- DRAINING: it moves its clients elsewhere and ends. It gets no connection, and its messages are still handled.
- HUNG: its event loop does not turn, so it is about to be killed. Its messages are still handled.
- CONDEMNED: it is broken, so it is about to be killed. Its channel is watched for its end only.
- GONE: its channel has ended and is closed. The process may not be reaped yet.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections import deque
from typing import Any, Final

from sticky.handoff.channel import ChannelClosed, Kind, WorkerChannel
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.keys.addresses import Network
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.loop.log_lines import WORKER_STATE, log

OUTBOX_MAX: Final = 256  # messages that wait for a full channel; above it those that are not vital are dropped


class WorkerState(enum.Enum):
    """Where a worker process is in its life: the head of this file explains each."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    HUNG = "hung"
    CONDEMNED = "condemned"
    GONE = "gone"


class WorkerEvent(enum.Enum):
    """What moves a worker from one state to the next."""

    READY = "ready"  # it has sent READY
    DRAIN = "drain"  # the supervisor has sent DRAIN: it is replaced, or not wanted any more
    SILENT = "silent"  # it sent no heartbeat for too long, or did not boot in time
    CONDEMN = "condemn"  # its message was not valid
    EXIT = "exit"  # its channel has ended


TRANSITIONS: Final[dict[tuple[WorkerState, WorkerEvent], WorkerState]] = {
    (WorkerState.STARTING, WorkerEvent.READY): WorkerState.READY,
    (WorkerState.STARTING, WorkerEvent.SILENT): WorkerState.HUNG,
    (WorkerState.STARTING, WorkerEvent.EXIT): WorkerState.GONE,
    (WorkerState.READY, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.READY, WorkerEvent.SILENT): WorkerState.HUNG,
    (WorkerState.READY, WorkerEvent.EXIT): WorkerState.GONE,
    (WorkerState.DRAINING, WorkerEvent.SILENT): WorkerState.HUNG,
    (WorkerState.DRAINING, WorkerEvent.EXIT): WorkerState.GONE,
    (WorkerState.HUNG, WorkerEvent.EXIT): WorkerState.GONE,
    (WorkerState.STARTING, WorkerEvent.CONDEMN): WorkerState.CONDEMNED,
    (WorkerState.READY, WorkerEvent.CONDEMN): WorkerState.CONDEMNED,
    (WorkerState.DRAINING, WorkerEvent.CONDEMN): WorkerState.CONDEMNED,
    (WorkerState.HUNG, WorkerEvent.CONDEMN): WorkerState.CONDEMNED,
    (WorkerState.CONDEMNED, WorkerEvent.EXIT): WorkerState.GONE,
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
        "held",
        "is_identified",
        "is_paused",
        "is_retired",
        "journal",
        "last_beat_at",
        "lifetime",
        "outbox",
        "pid",
        "ready_at",
        "receives_until",
        "reported",
        "reports_peers",
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
        channel: WorkerChannel,
        *,
        worker_id: str,
        generation: int,
        now: float,
        lifetime: Lifetime,
        journal: int | None = None,
    ) -> None:
        """
        Args:
            journal: the descriptor of its record of requests in flight (journal.py); None where there is none. The
                handle owns it.
        """
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.worker_id = worker_id
        self.generation = generation
        self.lifetime = lifetime
        self.journal = journal
        self.state = WorkerState.STARTING
        self.started_at = self.booting_since = now
        self.last_beat_at = now
        self.ready_at: float | None = None
        self.receives_until = 0.0  # connections of another worker may be on their way to it: until then
        self.boot_error: str | None = None
        self.unacked: deque[PendingHandoff] = deque()  # handed over, and still ours too, in the order of their numbers
        self.sent = 0  # number of the last handoff that was handed over
        self.taken = 0  # number of the last handoff that it adopted
        self.waiting: deque[PendingHandoff] = deque()  # not handed over: the channel is full
        self.outbox: deque[tuple[Kind, tuple[Any, ...], int | None]] = deque()
        self.wants_write = False  # something waits for room in the channel
        self.is_retired = False  # DRAIN was sent: its end is expected
        self.was_killed = False  # SIGKILL came from this process
        self.is_identified = True  # False: an earlier primary has sent it handoffs whose numbers are not known yet
        self.is_paused = False  # nothing is received from it: a worker that it sends to has a full channel
        self.held: dict[Network, int] = {}  # connections of each address that it has, as far as it has reported ends
        self.reports_peers = True  # of connections that end; else they are counted under no address
        self.handed = 0  # connections ever handed over
        self.reported = 0  # connections it had, by its last heartbeat
        self.adopted = 0  # connections it had ever adopted, by its last heartbeat
        self.statistics: dict[str, Any] = {}

    def transition(self, event: WorkerEvent) -> None:
        """
        Go to the state that follows from an event. The supervisor alone calls this.

        Raises:
            AssertionError: the event is illegal in this state, which is a bug of the caller.
        """
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise AssertionError(f"worker {self.worker_id}: event {event.name} is illegal in state {self.state.name}")
        before = self.state.value
        log(logging.DEBUG, WORKER_STATE, slot=self.slot, pid=self.pid, before=before, after=after.value)
        self.state = after

    @property
    def connections(self) -> int:
        """How many connections it has: those that it reported, those handed over since, and those that wait for it."""
        return self.reported + max(self.handed - self.adopted, 0) + len(self.waiting)

    def record_heartbeat(self, connections: int, adopted: int, statistics: dict[str, Any], now: float) -> None:
        """Note what a heartbeat reports, and that the event loop turned."""
        self.reported, self.adopted, self.statistics, self.last_beat_at = connections, adopted, statistics, now

    def send(self, kind: Kind, *fields: Any) -> bool:
        """
        Send a message, behind those that wait already. To a worker that is gone nothing is sent.

        Returns:
            False when it waits in the outbox: the caller must call `flush` when the channel has room.
        """
        if self.state is WorkerState.GONE:
            return True
        if not self.outbox:
            try:
                if self.channel.send(kind, *fields):
                    return True
            except ChannelClosed:
                return True
        self.outbox.append((kind, fields, None))
        return False

    def send_fd(self, kind: Kind, *fields: Any, fd: int) -> bool:
        """As `send`, with a descriptor, which is owned from here on."""
        if self.state is WorkerState.GONE:
            os.close(fd)
            return True
        self.outbox.append((kind, fields, fd))
        return self.flush()

    @property
    def is_full(self) -> bool:
        """Whether so many messages wait that those which are not vital must be dropped."""
        return len(self.outbox) >= OUTBOX_MAX

    def flush(self) -> bool:
        """Send the messages that wait. Return whether none waits any more."""
        while self.outbox:
            kind, fields, fd = self.outbox[0]
            try:
                if not self.channel.send(kind, *fields, fd=fd):
                    return False
            except ChannelClosed:
                self.clear_outbox()
                return True
            self.outbox.popleft()
            if fd is not None:
                os.close(fd)
        return True

    def clear_outbox(self) -> None:
        """Drop the messages that wait: the process is gone."""
        while self.outbox:
            fd = self.outbox.popleft()[2]
            if fd is not None:
                os.close(fd)

    def close_journal(self) -> None:
        """Close the record of requests in flight, after the supervisor has read it."""
        if self.journal is not None:
            os.close(self.journal)
            self.journal = None

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


def describe_end(code: int | None) -> str:
    """Return how a process ended in words, from its exit status; negative for a signal, None where it is unknown."""
    if code is None:
        return "unknown, for its parent is another process"
    if code >= 0:
        return f"status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
