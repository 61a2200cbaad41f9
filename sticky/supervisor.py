"""
Keeps every slot filled: starts workers, listens to them, replaces those that are lost, scales, stops.

Runs in the primary. It moves the states of `worker_handle.TRANSITIONS` and owns `live`, the table of who serves which
slot now. It never touches a client's connection: when a worker is lost it tells the dispatcher. Three others
have the rules: `Restarts`, when a lost worker is followed by another; `Reload`, whose worker is replaced next; `Watch`,
who is silent, and who has lived long enough.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from sticky import messages
from sticky.channel import Kind, Received
from sticky.errors import OutOfTurn
from sticky.handoff import Dispatcher
from sticky.hashing import Slot
from sticky.hearing import Hearing
from sticky.inspections import Inspections
from sticky.launcher import Launcher
from sticky.messages import REFUSED
from sticky.poller import HANGUP, READ, WRITE, Poller
from sticky.post import Post
from sticky.reload import Reload
from sticky.restarts import Restarts
from sticky.settings import WORKERS_MAX, ClusterSettings
from sticky.watch import Watch
from sticky.worker import EXIT_BOOT
from sticky.worker_handle import Event, State, WorkerHandle, describe_end

LAST_WORDS_MAX: Final = 64  # rounds of messages that a dead worker has left; its channel holds fewer
KILL_GRACE_S: Final = 5.0  # after the drain's end
REAP_S: Final = 0.05  # from the end of a process's channel to its own; longer where a child of it has the channel
ASK_AGAIN_S: Final = 0.01  # while workers say which keys they have that belong to an added slot

READY_LINE: Final = "= slot %d: worker %d is ready (%d of %d)"
ENDED_LINE: Final = "x slot %d: worker %d ended (%s)"
CONDEMNED_LINE: Final = "! slot %d: worker %d sent a message that cannot be right, and is killed: %s"
BOOT_FAILED_LINE: Final = "! slot %d: worker %d cannot boot"

logger = logging.getLogger("sticky")

Hook = Callable[[str, dict[str, Any]], None]


class Supervisor:
    """All workers of this machine."""

    def __init__(
        self,
        poller: Poller,
        launcher: Launcher,
        *,
        settings: ClusterSettings,
        counters: dict[str, int],
        hook: Hook,
        on_first_ready: Callable[[], None],
        on_reloaded: Callable[[], None],
        on_stopped: Callable[[int], None],
        on_given_back: Callable[[socket.socket, str, int, bytes], None],
        on_ended: Callable[[WorkerHandle, int], None] = lambda worker, code: None,
        missed: Callable[[], Sequence[dict[str, Any]]] = tuple,
    ) -> None:
        """
        Args:
            on_first_ready: called once, when the first worker is ready.
            on_reloaded: called when a reload has ended, well or not.
            on_stopped: called with the exit status, when no worker is left.
            on_given_back: given a connection that a worker gave back: as `Acceptor.take_back`.
            on_ended: told of the end of a worker that served, and its exit status, before what it left goes to others.
            missed: returns whom a worker that comes now has to refuse: as `Crashes.now_refused`.
        """
        self.live: dict[Slot, WorkerHandle] = {}
        self.workers: dict[int, WorkerHandle] = {}  # every process that is not reaped, by pid
        self.dispatcher: Dispatcher | None = None  # set once by the primary, before `start`
        self._poller = poller
        self._launcher = launcher
        self._settings = settings
        self._wanted = settings.workers
        self._counters = counters
        self._hook = hook
        self._on_first_ready = on_first_ready
        self._on_stopped = on_stopped
        self._hearing = Hearing(
            poller, take=self._take, condemn=self._condemn, on_given_back=on_given_back, counters=counters
        )
        self._on_ended = on_ended
        self._missed = missed
        self.post = Post(
            poller,
            self.live,
            say=self._say,
            read_from=self._read_from,
            on_message=lambda message: hook("message", message),
            counters=counters,
        )
        self._restarts = Restarts(
            poller, boots_max=settings.boots_max, fill=self._start_if_empty, give_up=lambda: self.stop(EXIT_BOOT)
        )
        self._reload = Reload(self.live, start=self._launch, fill=self._restarts.now, on_ended=on_reloaded)
        self._watch = Watch(
            poller,
            self.workers,
            self.live,
            settings=settings,
            counters=counters,
            on_silent=self._silent,
            may_replace=lambda slot: not self._stopping and not self._reload.covers(slot),
            replace=lambda slot: self.reload([slot]),
        )
        self._told: str | None = None  # the last boot failure that was logged
        self._inspections = Inspections(poller, self.workers, say=self._say)
        self._stopping = False
        self._status = 0

    # Starting

    def start(self) -> None:
        """Start a worker in every slot, and begin to watch over them."""
        assert self.dispatcher is not None, "the primary set it"
        self.dispatcher.slots_changed(self._wanted)
        for number in range(self._wanted):
            self._start(Slot(number))
        self._watch.start()

    def _start(self, slot: Slot) -> None:
        """Start a worker in a slot, or another time where that is not possible now."""
        try:
            self._launch(slot)
        except OSError:
            self._restarts.boot_failed(slot)

    def _launch(self, slot: Slot) -> WorkerHandle | None:
        """Start a worker in a slot; None where none is wanted. Raises OSError when it cannot be started."""
        if self._stopping or slot >= self._wanted:
            return None
        worker = self._launcher.launch(slot, generation=self._reload.generation, now=self._poller.now())
        self.workers[worker.pid] = worker
        self._poller.watch(
            worker.channel.fileno(),
            READ,
            lambda events: self._heard(worker, events),
            on_failed=lambda: self._condemn(worker, "an error, see above"),
        )
        boot = self._launcher.boot_message(worker, self._wanted)
        if worker.journal is None or not worker.channel.send(Kind.BOOT, boot, fd=worker.journal):
            self._say(worker, Kind.BOOT, boot)
        self._counters["started"] += 1
        self._hook("fork", _who(worker))
        return worker

    def _start_if_empty(self, slot: Slot) -> None:
        starting = any(each.slot == slot and each.state is State.STARTING for each in self.workers.values())
        if slot not in self.live and not starting:
            self._start(slot)

    # Talking to them

    def _say(self, worker: WorkerHandle, kind: Kind, *fields: Any) -> None:
        """Say something, now or when the channel has room again."""
        if not worker.say(kind, *fields):
            self.wants_write(worker, True)

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have `_heard` told when the worker's channel has room."""
        worker.wants_write = wanted
        self._watch_channel(worker)

    def _read_from(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have what the worker says wait in its channel, or read on."""
        worker.is_held = not wanted
        self._watch_channel(worker)

    def _watch_channel(self, worker: WorkerHandle) -> None:
        if worker.state is not State.GONE:
            is_condemned = worker.state is State.CONDEMNED
            mask = HANGUP if worker.is_held or is_condemned else READ
            if worker.wants_write and not is_condemned:
                mask |= WRITE
            self._poller.change(worker.channel.fileno(), mask)

    # Listening to them

    def _heard(self, worker: WorkerHandle, events: int) -> None:
        assert self.dispatcher is not None, "the primary set it"
        if worker.state is State.CONDEMNED:
            if events & HANGUP:
                self._lost(worker)
            return
        if events & WRITE:
            self.dispatcher.flush(worker)
        if events & ~WRITE and not self._hearing.hear(worker):
            self._lost(worker)

    def _condemn(self, worker: WorkerHandle, why: str) -> None:
        """Kill a worker that is broken. Nothing that it says counts any more; it is `_lost` by itself."""
        if worker.state in (State.CONDEMNED, State.GONE):
            return
        logger.error(CONDEMNED_LINE, worker.slot, worker.pid, why)
        self._counters["condemned"] += 1
        if worker.ready_at is None:
            worker.boot_error = worker.boot_error or f"it sent a message that cannot be right: {why}"
        worker.move(Event.CONDEMN)
        if self.workers.get(worker.pid) is worker:  # not reaped: the number is still its own
            worker.send_signal(signal.SIGKILL)
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        self._watch_channel(worker)

    def _take(self, worker: WorkerHandle, received: Received) -> None:
        """
        Do what a message asks for.

        Raises:
            OutOfTurn: it makes no sense after what was said before.
        """
        assert self.dispatcher is not None, "the primary set it"
        message = received.message
        if isinstance(message, messages.Ack):
            self.dispatcher.acknowledge(worker, message.adopted, message.settled)
        elif isinstance(message, messages.Beat):
            worker.beat(message.connections, message.adopted, message.statistics, self._poller.now())
        elif isinstance(message, messages.Nack):
            self.dispatcher.take_back(worker, message.number)
        elif isinstance(message, messages.Ended):
            self.dispatcher.ended(worker, message.counts)
        elif isinstance(message, messages.KeysAway):
            self.dispatcher.away.keys_away(worker, message.keys, message.seen, message.request, message.is_all)
        elif isinstance(message, messages.KeysEnded):
            self.dispatcher.away.keys_ended(worker, message.keys, message.seen)
        elif isinstance(message, messages.Ready):
            self._said_ready(worker)
        elif isinstance(message, messages.BootFailed):
            worker.boot_error = message.text
        elif isinstance(message, messages.Retire):
            if self.live.get(worker.slot) is worker and not self._stopping:
                self.reload([worker.slot])
        elif isinstance(message, messages.Inspected):
            self._inspections.answered(worker, message.text)
        elif isinstance(message, messages.Sent):
            self.post.carry(worker, message.name, message.data)
        elif isinstance(message, messages.GiveBack):
            self._hearing.give_back(message, received)

    def _said_ready(self, worker: WorkerHandle) -> None:
        if worker.state in (State.READY, State.DRAINING):
            raise OutOfTurn("it is ready a second time")
        if worker.state is State.STARTING:  # else it hung for so long that it is being killed
            self._ready(worker)

    def _ready(self, worker: WorkerHandle) -> None:
        assert self.dispatcher is not None, "the primary set it"
        slot = worker.slot
        if (
            slot not in self.live and self.dispatcher.away.awaits_answers
        ):  # an added slot, whose keys may be live elsewhere
            self._poller.after(ASK_AGAIN_S, lambda: self._ready(worker) if worker.state is State.STARTING else None)
            return
        self.dispatcher.away.warn(worker)
        worker.move(Event.READY)
        worker.ready_at = worker.heard_at = self._poller.now()
        self._reload.ready(worker)
        self._told = None
        predecessor = self.live.get(slot)
        self.live[slot] = worker
        logger.info(READY_LINE, slot, worker.pid, len(self.live), self._wanted)
        is_first = self._restarts.ready(worker)
        if is_first:
            self._on_first_ready()
        self._hook("online", _who(worker))
        self.notify_all("online", _who(worker), but=worker)
        for each in self._missed():
            self._say(worker, Kind.EVENT, REFUSED, each)
        if predecessor is not None:
            self._retire(predecessor)
        self.dispatcher.slot_filled()
        if self._stopping or slot >= self._wanted:
            self._take_out(worker)
        if not self._stopping:
            self._reload.go_on(self.live.get(slot))

    def notify_all(self, event: str, about: dict[str, Any], *, but: WorkerHandle | None = None) -> None:
        """Tell every worker that serves of an event."""
        for worker in self.workers.values():
            if worker is not but and worker.state in (State.READY, State.DRAINING):
                self._say(worker, Kind.EVENT, event, about)

    # Losing them

    def _lost(self, worker: WorkerHandle) -> None:
        """
        The channel ended: the process is dead or dying. Its connections go on when it is reaped, which tells whether
        they did it, and very soon in any case.
        """
        if worker.state is State.GONE:
            return
        before = worker.state
        worker.move(Event.EXIT)
        self._poller.forget(worker.channel.fileno())
        worker.channel.close()
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        self._poller.after(REAP_S, lambda: self._look_after(worker))
        self._hook("disconnect", _who(worker))
        self.notify_all("exit", _who(worker), but=worker)
        if before is not State.DRAINING:  # one that has only closed its channel may stay as long as an orphan
            self._watch.kill_later(worker, self._settings.orphan_grace_s + KILL_GRACE_S)
        if before is not State.DRAINING and worker.ready_at is not None:
            self._counters["died"] += 1
            if worker.slot not in self.live and not self._reload.has_successor(worker.slot):
                self._restarts.later(worker.slot)

    def is_dying(self) -> bool:
        """Whether a worker has ended, or seems to have, and is not reaped yet."""
        return any(worker.state is State.GONE for worker in self.workers.values())

    def _look_after(self, worker: WorkerHandle) -> None:
        assert self.dispatcher is not None, "the primary set it"
        self.dispatcher.worker_lost(worker)

    def reaped(self, pid: int, status: int) -> None:
        """Learn that a child ended. A stranger's end (we may be PID 1) is nobody's concern."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return
        self._hear_last_words(worker)
        code = os.waitstatus_to_exitcode(status)
        if worker.ready_at is not None and not self._stopping:
            self._poller.guard(lambda: self._on_ended(worker, code))
        worker.forget_journal()
        self._look_after(worker)
        if worker.boot_error is None:
            level = logging.INFO if code == 0 else logging.WARNING
            logger.log(level, ENDED_LINE, worker.slot, pid, describe_end(code))
        self._hook("exit", {**_who(worker), "status": code, "expected": worker.is_retired})
        if self._stopping:
            if not self.workers:
                self._on_stopped(self._status)
        elif worker.ready_at is None:
            self._boot_failed(worker, code)

    def _hear_last_words(self, worker: WorkerHandle) -> None:
        """Take what a dead process had said; its channel may be held open by a child of its own."""
        for _ in range(LAST_WORDS_MAX):  # a child of its own may go on for ever
            if worker.state in (State.CONDEMNED, State.GONE) or not self._hearing.hear(worker):
                break
        self._lost(worker)

    def _boot_failed(self, worker: WorkerHandle, code: int) -> None:
        self._counters["boots_failed"] += 1
        was_killed = code < 0 and worker.boot_error is None and not worker.was_killed
        text = worker.boot_error or f"it ended before it was ready ({describe_end(code)})"
        if text != self._told:  # once, however many workers fail in the same way
            self._told = text
            logger.error(BOOT_FAILED_LINE + "\n%s", worker.slot, worker.pid, text.rstrip())
        if not self._reload.boot_failed(worker, text, was_killed=was_killed):
            self._restarts.boot_failed(worker.slot)

    def _silent(self, worker: WorkerHandle) -> None:
        """It gets no connection from here on; it is killed, and then `_lost`, by itself."""
        worker.move(Event.SILENT)
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        assert self.dispatcher is not None, "the primary set it"
        self.dispatcher.away.worker_gone(worker)

    # Changing them

    def reload(self, slots: Sequence[Slot] | None = None) -> None:
        """Replace the workers of these slots, or of all, one by one."""
        if self._stopping:
            return
        if slots is None:
            self._reload.replace_all(self._wanted)
        else:
            self._reload.replace(slots)

    def describe_reload(self) -> dict[str, Any]:
        """Return how the last reload is doing: how many workers are still to be replaced, and why it was given up."""
        return self._reload.describe()

    def scale(self, workers: int) -> None:
        """Have so many workers, at least one. New slots are started, the highest are retired."""
        before, self._wanted = self._wanted, min(max(workers, 1), WORKERS_MAX)
        if before != self._wanted:
            logger.info("= scaling from %d to %d workers", before, self._wanted)
        for number in range(before, self._wanted):
            self._start_if_empty(Slot(number))
        for number in range(self._wanted, before):
            worker = self.live.get(Slot(number))
            if worker is not None:
                self._take_out(worker)
        if before != self._wanted:
            assert self.dispatcher is not None, "the primary set it"
            self.dispatcher.slots_changed(self._wanted)

    def _take_out(self, worker: WorkerHandle) -> None:
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]
        self._retire(worker)

    def _retire(self, worker: WorkerHandle) -> None:
        """Have a worker bring its clients elsewhere and end. It is not live any more."""
        if worker.state is not State.READY:
            return
        assert self.dispatcher is not None, "the primary set it"
        worker.move(Event.DRAIN)
        worker.is_retired = True
        self.dispatcher.worker_retired(worker)
        self._say(worker, Kind.DRAIN, self._settings.drain_s)
        self._watch.kill_later(worker, self._settings.drain_s + KILL_GRACE_S)

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    # Stopping

    def stop(self, status: int = 0) -> None:
        """Have every worker drain and end; `on_stopped` follows. Workers that are still starting are killed."""
        if self._stopping:
            return
        self._stopping, self._status = True, status
        self._reload.stop()
        for worker in list(self.workers.values()):
            if worker.state is State.READY:
                self._take_out(worker)
            elif worker.state is State.STARTING:
                worker.send_signal(signal.SIGKILL)
        if not self.workers:
            self._on_stopped(status)

    def stop_now(self, status: int) -> None:
        """Kill every worker; `on_stopped` follows."""
        self._stopping, self._status = True, status
        for worker in self.workers.values():
            worker.send_signal(signal.SIGKILL)
        if not self.workers:
            self._on_stopped(status)

    # Looking at them

    def inspect(self, slot: Slot, tell: Callable[[str], None]) -> bool:
        """Have `tell` told what the worker of a slot is doing. Return False when none serves there."""
        worker = self.live.get(slot)
        if worker is None:
            return False
        self._inspections.ask(worker, tell)
        return True

    def describe(self) -> list[dict[str, Any]]:
        """Return a snapshot of every worker, by slot."""
        now = self._poller.now()
        workers = sorted(self.workers.values(), key=lambda worker: (worker.slot, worker.pid))
        return [worker.describe(now) for worker in workers]


def _who(worker: WorkerHandle) -> dict[str, Any]:
    return {"slot": worker.slot, "worker_id": worker.worker_id, "pid": worker.pid}
