"""
Keeps every slot filled: starts workers, replaces those that are lost, scales, stops.

Runs in the primary. It alone makes transitions of `worker_handle.TRANSITIONS` and changes the table `Workers`. It never
touches a client's connection: the dispatcher does, and learns here which workers come and go.

**Theory of operation.** Every change begins with one of five inputs, and each has one method:

| input                               | method                                       | from                     |
|-------------------------------------|----------------------------------------------|--------------------------|
| a channel is readable, or has room  | `_on_channel`                                | the poller               |
| a process was reaped                | `reaped`                                     | the primary, on SIGCHLD  |
| a worker hangs, or is old           | `worker_hung`, `replace`                     | the watchdog             |
| a back-off is over                  | `fill`                                       | a timer armed here       |
| an operator reloads, scales, stops  | `reload`, `scale`, `stop`, `stop_now`        | signals, control socket  |

The parts have the rules, and this class acts on them: `Restarts`, when a lost worker is followed by another; `Reload`,
which worker is replaced next; `Watchdog`, which worker is silent or old; `WorkerMessages`, which message is legal.

**The end of a worker has two halves**, in either order. Its channel ends (`_lost`): it gets no connection any more, and
its slot gets another worker. Its process is reaped (`reaped`): how it ended is known. Between the two, or `REAP_S`
after the first, the dispatcher places the connections that it left behind. A process that has only closed its channel
is killed when its orphan grace is over.

**A slot changes its worker** in `worker_ready`, in one step that no other input can interrupt: the successor enters
`live`, and its predecessor is retired. So a slot that was served stays served, and no connection finds both.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from sticky.errors import OutOfTurn
from sticky.handoff.channel import Kind
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle, WorkerState, describe_end
from sticky.keys.hashing import Slot
from sticky.loop import log_lines
from sticky.loop.log_lines import log
from sticky.loop.poller import HANGUP, WRITE, Poller
from sticky.settings import WORKERS_MAX, ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.announcements import Announcements
from sticky.supervision.crashes import Crashes
from sticky.supervision.deposit import GENERATION, WANTED, Deposit, Kept, WorkerDeposit
from sticky.supervision.environment import Environment
from sticky.supervision.failed_boots import FailedBoots
from sticky.supervision.hooks import ClusterHooks
from sticky.supervision.inspections import Inspections
from sticky.supervision.introductions import Introductions
from sticky.supervision.launcher import Launcher
from sticky.supervision.message_relay import MessageRelay
from sticky.supervision.readiness import NodeReadiness
from sticky.supervision.reload import Reload
from sticky.supervision.restarts import STEADY_S, Restarts
from sticky.supervision.takeover import Takeover
from sticky.supervision.watchdog import Watchdog
from sticky.supervision.worker_messages import ERROR_REASON, TakesBack, WorkerMessages
from sticky.supervision.workers import Workers

LAST_WORDS_MAX: Final = 64  # rounds of messages that a dead worker has left; its channel holds fewer
KILL_GRACE_S: Final = 5.0  # after the drain's end
REAP_S: Final = 0.05  # from the end of a channel to that of its process; longer where a child of it has the channel
ASK_AGAIN_S: Final = 0.01  # while workers report which keys they have that belong to an added slot


class Supervisor:
    """Starts and ends all workers of this machine."""

    def __init__(
        self,
        poller: Poller,
        environment: Environment,
        processes: AdoptedProcesses,
        workers: Workers,
        launcher: Launcher,
        dispatcher: Dispatcher,
        crashes: Crashes,
        readiness: NodeReadiness,
        *,
        deposit: Deposit,
        settings: ClusterSettings,
        counters: dict[str, int],
        hooks: ClusterHooks,
        acceptor: TakesBack,
        on_first_ready: Callable[[], None],
        on_reloaded: Callable[[], None],
        on_stopped: Callable[[int], None],
    ) -> None:
        """
        Args:
            processes: those that an earlier primary has started.
            workers: the table, empty; the supervisor alone changes it.
            deposit: where workers and what was changed by operators are kept for the next primary.
            hooks: are called at each event of a worker: see `Cluster`.
            acceptor: gets the connections that workers give back.
            on_first_ready: called once, when the first worker is ready.
            on_reloaded: called when a reload has ended, well or not.
            on_stopped: called with the exit status, when no worker is left.
        """
        self.relay = MessageRelay(poller, workers, hooks, counters=counters)
        self._poller = poller
        self._workers = workers
        self._launcher = launcher
        self._dispatcher = dispatcher
        self._crashes = crashes
        self._readiness = readiness
        self._settings = settings
        self._counters = counters
        self._announcements = Announcements(workers, hooks, crashes, readiness)
        self._on_first_ready = on_first_ready
        self._on_reloaded = on_reloaded
        self._on_stopped = on_stopped
        self.inspections = Inspections(poller, workers)
        self._introductions = Introductions(poller, workers, settings)
        self._restarts = Restarts(boots_max=settings.boots_max)
        self._reload = Reload(workers, self, launcher)
        self._failed_boots = FailedBoots(self._restarts, self._reload, self, counters=counters)
        self._watchdog = Watchdog(poller, workers, self, settings=settings, counters=counters)
        self._wanted = settings.workers
        self._facts = deposit
        self._deposit = WorkerDeposit(deposit, environment)
        self._takeover = Takeover(
            poller, environment, processes, workers, dispatcher, self._deposit, self, settings=settings
        )
        self._messages = WorkerMessages(
            poller,
            self,
            dispatcher,
            self.relay,
            self.inspections,
            self._takeover,
            acceptor=acceptor,
            counters=counters,
        )
        self._stopping = False
        self._status = 0

    # Starting

    def start(self, kept: Kept) -> None:
        """
        Take the workers of an earlier primary over, and start one in every other slot. Called once.

        Args:
            kept: what the earlier primary has left. What belongs to workers is taken out.
        """
        assert not self._workers.by_pid, "a supervisor starts once"
        self._wanted = kept.number(WANTED, self._wanted)
        self._reload.generation = kept.number(GENERATION, self._reload.generation)
        self._dispatcher.slots_changed(self._wanted)
        self._takeover.adopt(kept)
        for number in range(self._wanted):
            self.fill(Slot(number))
        self._watchdog.start()

    def _start(self, slot: Slot) -> None:
        """Start a worker in a slot, or another time where that is not possible now."""
        try:
            self.start_successor(slot)
        except OSError:
            self._failed_boots.retry(slot)

    def start_successor(self, slot: Slot) -> WorkerHandle | None:
        """Start a worker in a slot; None where none is wanted. Raises OSError when it cannot be started."""
        if self._stopping or slot >= self._wanted:
            return None
        worker = self._launcher.launch(slot, generation=self._reload.generation, now=self._poller.now())
        self.watch(worker)
        boot = self._launcher.boot_message(worker, self._wanted)
        if worker.journal is None or not worker.channel.send(Kind.BOOT, boot, fd=worker.journal):
            self._workers.send(worker, Kind.BOOT, boot)
        self._deposit.started(worker)
        self._counters["started"] += 1
        log(logging.DEBUG, log_lines.WORKER_STARTED, slot=slot, pid=worker.pid, generation=worker.generation)
        self._announcements.started(worker)
        return worker

    def watch(self, worker: WorkerHandle) -> None:
        """Enter a worker into the table, and receive from its channel."""
        self._workers.add(
            worker,
            on_events=lambda events: self._on_channel(worker, events),
            on_failed=lambda: self.condemn(worker, ERROR_REASON),
        )

    def fill(self, slot: Slot) -> None:
        """Start a worker in a slot that has none, and will get none otherwise."""
        covered = slot in self._workers.live or self._workers.is_starting(slot) or self._takeover.covers(slot)
        if not covered:
            self._start(slot)

    def fill_now(self, slot: Slot) -> None:
        """Start a worker in an empty slot at once, and forget how often the slot has failed."""
        self._restarts.clear(slot)
        self.fill(slot)

    def restart(self, slot: Slot) -> None:
        """Start another worker in a slot, the later the more often it has failed."""
        delay_s = self._restarts.next_delay_s(slot)
        if delay_s:
            log(logging.WARNING, log_lines.WORKER_RESTART_DELAYED, slot=slot, delay_s=delay_s)
        self._poller.after(delay_s, lambda: self.fill(slot))

    # Their channels

    def _on_channel(self, worker: WorkerHandle, events: int) -> None:
        if worker.state is WorkerState.CONDEMNED:
            if events & HANGUP:
                self._lost(worker)
            return
        if events & WRITE:
            self._dispatcher.flush(worker)
        if events & ~WRITE and not self._messages.receive(worker):
            self._lost(worker)

    def condemn(self, worker: WorkerHandle, reason: str) -> None:
        """Kill a worker that is broken. None of its messages counts any more. `_lost` follows when its channel ends."""
        if worker.state in (WorkerState.CONDEMNED, WorkerState.GONE):
            return
        log(logging.ERROR, log_lines.WORKER_CONDEMNED, slot=worker.slot, pid=worker.pid, reason=reason)
        self._counters["condemned"] += 1
        if worker.ready_at is None:
            worker.boot_error = worker.boot_error or f"it sent a message that cannot be right: {reason}"
        worker.transition(WorkerEvent.CONDEMN)
        self._workers.send_signal(worker, signal.SIGKILL)
        self._workers.leave_service(worker)
        self._workers.watch_channel(worker)

    def retire_requested(self, worker: WorkerHandle) -> None:
        """Replace a worker that got TERM from outside. One that is not live, or whose server stops, ends already."""
        if self._workers.is_live(worker) and not self._readiness.is_stopping:
            self.replace(worker.slot)

    def worker_ready(self, worker: WorkerHandle) -> None:
        """
        Put a worker that has booted into service, and retire its predecessor.

        Raises:
            OutOfTurn: it is ready already.
        """
        if worker.state in (WorkerState.READY, WorkerState.DRAINING):
            raise OutOfTurn("it is ready a second time")
        if worker.state is WorkerState.STARTING:  # else it hung for so long that it is being killed
            self.enter_service(worker)

    def enter_service(self, worker: WorkerHandle) -> None:
        """Give a worker its slot, and retire the one that has it."""
        slot = worker.slot
        if slot not in self._workers.live and self._dispatcher.away.awaits_answers:
            # An added slot, whose keys may have connections elsewhere: their workers report them first.
            self._poller.after(
                ASK_AGAIN_S, lambda: self.enter_service(worker) if worker.state is WorkerState.STARTING else None
            )
            return
        self._dispatcher.away.warn(worker)
        is_new = worker.state is WorkerState.STARTING  # else it was ready under an earlier primary
        if is_new:
            worker.transition(WorkerEvent.READY)
            worker.ready_at = worker.last_beat_at = self._poller.now()
            self._deposit.changed(worker)
        self._reload.successor_ready(worker)
        self._failed_boots.booted()
        predecessor = self._workers.enter_service(worker)
        assert predecessor is not worker, "a worker enters service once: only STARTING leads to READY"
        ready = f"{len(self._workers.live)}/{self._wanted}"
        log(logging.INFO, log_lines.WORKER_READY, slot=slot, pid=worker.pid, ready=ready)
        self._poller.after(STEADY_S, lambda: self._on_steady(worker))
        if self._restarts.record_ready():
            self._takeover.when_over(self._on_first_ready)
        self._announcements.ready(worker)
        for draining in self._workers.draining(slot):  # whose successor has ended before it had all of them
            self._introductions.succeeded(draining, worker, self._wanted)
        if predecessor is not None:
            self._introductions.succeeded(predecessor, worker, self._wanted)
            self.retire(predecessor)
        elif slot < self._wanted and is_new:
            self._introductions.filled(worker, self._wanted)
        self._dispatcher.slot_filled()
        if self._stopping or slot >= self._wanted:
            self.retire(worker)
        if not self._stopping:
            self._reload.proceed(self._workers.live.get(slot))

    def _on_steady(self, worker: WorkerHandle) -> None:
        if worker.state is WorkerState.READY:
            self._restarts.clear(worker.slot)

    # Losing them

    def _lost(self, worker: WorkerHandle) -> None:
        """
        Note that a channel has ended: the process is dead or dying. Its connections are placed again when it is reaped,
        because only then it is known whether one of them caused it; and `REAP_S` later in any case.
        """
        if worker.state is WorkerState.GONE:
            return
        was_draining = worker.state is WorkerState.DRAINING
        worker.transition(WorkerEvent.EXIT)
        self._deposit.gone(worker)
        self._workers.close_channel(worker)
        self._workers.leave_service(worker)
        self._takeover.gone(worker)
        self._poller.after(REAP_S, lambda: self._dispatcher.worker_lost(worker))
        self._announcements.lost(worker)
        if was_draining:
            return  # it is killed after its drain
        # A process that has only closed its channel may serve on as long as an orphan.
        grace_s = self._settings.orphan_grace_s + KILL_GRACE_S
        self._watchdog.kill_later(worker, grace_s, "it has closed its channel and not ended")
        if worker.ready_at is not None:
            self._counters["died"] += 1
            if worker.slot not in self._workers.live and not self._reload.has_successor(worker.slot):
                self.restart(worker.slot)

    def reaped(self, pid: int, status: int | None) -> None:
        """Learn that a process ended. One that is no worker (as PID 1 we get strangers) needs nothing."""
        worker = self._workers.remove(pid)
        if worker is None:
            return
        self._receive_last_messages(worker)
        assert worker.state is WorkerState.GONE, "its descriptor would be watched for ever"
        assert not self._workers.is_live(worker), "a process that was reaped gets no connection"
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if worker.ready_at is not None and code is not None and not self._stopping:
            self._poller.guard(lambda: self._crashes.ended(worker, code))
        worker.close_journal()
        self._dispatcher.worker_lost(worker)
        if worker.boot_error is None:
            level = logging.INFO if code == 0 else logging.WARNING
            log(level, log_lines.WORKER_EXITED, slot=worker.slot, pid=pid, reason=describe_end(code))
        self._announcements.ended(worker, code)
        if self._stopping:
            if not self._workers.by_pid:
                self._on_stopped(self._status)
        elif worker.ready_at is None:
            self._failed_boots.failed(worker, code)

    def _receive_last_messages(self, worker: WorkerHandle) -> None:
        """Handle what a dead process had sent, then close its channel, which a child of it may still hold open."""
        for _ in range(LAST_WORDS_MAX):  # that child may send for ever
            if worker.state in (WorkerState.CONDEMNED, WorkerState.GONE) or not self._messages.receive(worker):
                break
        self._lost(worker)

    def worker_hung(self, worker: WorkerHandle) -> None:
        """Give a worker no connection any more. The watchdog kills it; `_lost` follows when its channel ends."""
        worker.transition(WorkerEvent.SILENT)
        self._workers.leave_service(worker)
        self._dispatcher.away.worker_gone(worker)

    # Taking them over from an earlier primary

    def replace_older(self) -> None:
        """Go on with the reload of an earlier primary: replace the workers of an older generation."""
        older = [slot for slot, worker in self._workers.live.items() if worker.generation < self._reload.generation]
        if older and not self._stopping:
            self._reload.replace(older)

    # Changing them

    def reload(self) -> None:
        """Replace every worker by one of a new generation, one by one."""
        if not self._stopping:
            self._reload.replace_all(self._wanted)
            self._facts.set(GENERATION, str(self._reload.generation))

    def replace(self, slot: Slot) -> None:
        """Replace the worker of one slot by one of the same generation; the old one drains."""
        if not self._stopping:
            self._reload.replace([slot])

    def may_replace(self, slot: Slot) -> bool:
        """Return False where a slot's worker is being replaced already, or the server ends."""
        return not self._stopping and not self._reload.covers(slot)

    def reload_ended(self) -> None:
        """Pass on that a reload has ended, well or not."""
        self._on_reloaded()

    def scale(self, workers: int) -> None:
        """Have so many workers, from 1 to `WORKERS_MAX`. New slots are started, the highest are retired."""
        before, self._wanted = self._wanted, min(max(workers, 1), WORKERS_MAX)
        if before == self._wanted:
            return
        log(logging.INFO, log_lines.WORKERS_SCALED, before=before, workers=self._wanted)
        self._facts.set(WANTED, str(self._wanted))
        for number in range(before, self._wanted):
            self.fill(Slot(number))
        for number in range(self._wanted, before):
            worker = self._workers.live.get(Slot(number))
            if worker is not None:
                self._introductions.removed(worker, self._wanted)
                self.retire(worker)
        self._dispatcher.slots_changed(self._wanted)

    def retire(self, worker: WorkerHandle) -> None:
        """Have a worker move its clients elsewhere and end. It gets no connection any more."""
        self._workers.leave_service(worker)
        if worker.state is not WorkerState.READY:
            return
        worker.transition(WorkerEvent.DRAIN)
        assert not self._workers.is_live(worker), "the dispatcher would hand it connections that it does not serve"
        worker.is_retired = True
        self._deposit.changed(worker)
        log(logging.INFO, log_lines.WORKER_DRAINING, slot=worker.slot, pid=worker.pid, drain_s=self._settings.drain_s)
        self._dispatcher.worker_retired(worker)
        self._workers.send(worker, Kind.DRAIN, self._settings.drain_s)
        self._watchdog.kill_later(worker, self._settings.drain_s + KILL_GRACE_S, "it has not ended after its drain")

    # Stopping

    def stop(self, status: int = 0) -> None:
        """Have every worker drain and end; `on_stopped` follows. Workers that are still starting are killed."""
        if self._stopping:
            return
        self._stopping, self._status = True, status
        self._reload.stop()
        for worker in list(self._workers.by_pid.values()):
            if worker.state is WorkerState.READY:
                self.retire(worker)
            elif worker.state is WorkerState.STARTING:
                self._workers.send_signal(worker, signal.SIGKILL)
        if not self._workers.by_pid:
            self._on_stopped(status)

    def stop_now(self, status: int) -> None:
        """Kill every worker; `on_stopped` follows."""
        self._stopping, self._status = True, status
        for worker in self._workers.by_pid.values():
            self._workers.send_signal(worker, signal.SIGKILL)
        if not self._workers.by_pid:
            self._on_stopped(status)

    # For operators

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    def describe_reload(self) -> dict[str, Any]:
        """Return a snapshot of the last reload: how many workers are still to be replaced, and why it was given up."""
        return self._reload.describe()
