"""
Goes on with the workers of an earlier primary, which has died: the same processes, channels, slots and clients.

Runs in a primary that the keeper has started. The supervisor calls it at the start, and for each answer of a worker.
It changes nothing in a worker, and closes no connection.

**Theory of operation.** The keeper has brought each worker's channel, pidfd and journal, and what the earlier primary
had noted about it (deposit.py). Only the worker knows the rest, so each one is sent IDENTIFY. Its answer stands in the
channel behind all that it had sent to the earlier primary. Until it comes, that primary's numbers of handoffs are
unknown: acknowledgements are taken as they are, and the worker gets no connection.

| noted before | until the answer               | with the answer                                      |
|--------------|--------------------------------|------------------------------------------------------|
| STARTING     | a booting worker, as any other | nothing new; it is ready, where its READY was lost   |
| READY        | READY, in no slot              | it serves its slot; or it drains, where it got DRAIN |
| DRAINING     | DRAINING; it is sent DRAIN     | nothing new                                          |

Two of them may be READY in one slot, where their primary died before it had retired the older one. The one of the
newer generation gets the slot.

**The takeover is over** when each worker that was READY has answered, and has reported which of its keys are away from
home; or after `TAKEOVER_S` in any case. Only then connections are accepted: they wait in the backlog meanwhile.

**What is lost** with a primary: the connections that no worker had. A handoff that a worker rejects after that has no
copy any more, so its connection is closed and counted as lost. Ages of workers begin anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final, Protocol

from sticky.handoff.channel import Kind
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.messages import NUMBER_MAX, WorkerIdentity
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle, WorkerState
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import SERVER_TAKEN_OVER, WORKER_ADOPTED, log
from sticky.loop.poller import Poller
from sticky.settings import ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.deposit import Kept, KeptWorker, WorkerDeposit, take_workers
from sticky.supervision.environment import Environment
from sticky.supervision.workers import Workers

TAKEOVER_S: Final = 1.0  # for the workers' answers; a worker whose loop turns answers within milliseconds
ANSWERS_S: Final = 0.01  # between two looks whether all have reported the keys that are away


class TakeoverActions(Protocol):
    """What a takeover has done for it. The supervisor does it."""

    @property
    def wanted(self) -> int:
        """How many slots there are."""

    def watch(self, worker: WorkerHandle) -> None:
        """Enter a worker into the table, and receive from its channel."""

    def enter_service(self, worker: WorkerHandle) -> None:
        """Give a worker its slot, and retire the one that has it."""

    def retire(self, worker: WorkerHandle) -> None:
        """Have a worker that is READY drain and end. It gets no connection any more."""

    def fill(self, slot: Slot) -> None:
        """Start a worker in a slot that has none."""

    def replace_older(self) -> None:
        """Replace the workers of an older generation: the earlier primary's reload is not over."""


class Takeover:
    """The adopted workers, until the last of them has answered."""

    def __init__(
        self,
        poller: Poller,
        environment: Environment,
        processes: AdoptedProcesses,
        workers: Workers,
        dispatcher: Dispatcher,
        deposit: WorkerDeposit,
        actions: TakeoverActions,
        *,
        settings: ClusterSettings,
    ) -> None:
        """
        Args:
            deposit: where the workers are kept for the next primary.
        """
        self._poller = poller
        self._environment = environment
        self._workers = workers
        self._dispatcher = dispatcher
        self._deposit = deposit
        self._actions = actions
        self._settings = settings
        self._processes = processes
        self._adopted = 0
        self._unanswered: set[WorkerHandle] = set()  # those that were READY, and have not answered
        self._is_over = True
        self._then: list[Callable[[], object]] = []  # called when it is over

    def adopt(self, kept: Kept) -> None:
        """Take over every worker that is kept. Without any, the takeover is over at once."""
        for each in take_workers(kept):
            self._adopt(each)
        if self._unanswered:
            self._is_over = False
            self._poller.after(TAKEOVER_S, self._finish)

    def _adopt(self, kept: KeptWorker) -> None:
        now = self._poller.now()
        worker = WorkerHandle(
            kept.slot,
            kept.pid,
            self._environment.adopt_channel(kept.channel),
            worker_id=kept.worker_id,
            generation=kept.generation,
            now=now,
            lifetime=self._settings.lifetime.draw(),
            journal=kept.journal,
        )
        self._processes.adopt(kept.pid, os.dup(kept.pidfd))
        if kept.state is not WorkerState.STARTING:
            worker.is_identified = False
            worker.sent = NUMBER_MAX  # any acknowledgement is right, until it is known what was sent
            worker.ready_at = now
            worker.transition(WorkerEvent.READY)
        self._adopted += 1
        self._actions.watch(worker)
        self._deposit.started(worker, kept.pidfd)
        self._workers.send(worker, Kind.IDENTIFY)
        if kept.state is WorkerState.DRAINING:
            self._actions.retire(worker)
        elif kept.state is WorkerState.READY:
            self._unanswered.add(worker)
        log(logging.INFO, WORKER_ADOPTED, slot=worker.slot, pid=worker.pid, state=kept.state.value)

    def covers(self, slot: Slot) -> bool:
        """Return whether an adopted worker is about to serve a slot, so that no other must be started."""
        return any(worker.slot == slot for worker in self._unanswered)

    # What workers answer

    def identified(self, worker: WorkerHandle, identity: WorkerIdentity) -> None:
        """Take in a worker's answer: see the table at the head of this file."""
        if not worker.is_identified:
            worker.is_identified = True
            worker.sent = worker.taken = identity.seen
            worker.handed = identity.adopted
            worker.record_heartbeat(identity.connections, identity.adopted, worker.statistics, self._poller.now())
        self._dispatcher.resume_numbers(identity.seen)
        if worker.state is WorkerState.READY and not self._workers.is_live(worker):
            live = self._workers.live.get(worker.slot)
            if identity.is_draining or (live is not None and live.generation > worker.generation):
                self._actions.retire(worker)
                self._actions.fill(worker.slot)
            else:
                self._serve(worker)
        elif worker.state is WorkerState.STARTING and not identity.is_draining:
            self._serve(worker)
        self.gone(worker)

    def _serve(self, worker: WorkerHandle) -> None:
        self._actions.enter_service(worker)
        if self._is_over:
            self._dispatcher.slots_changed(self._actions.wanted)  # it has not reported which of its keys are away

    def gone(self, worker: WorkerHandle) -> None:
        """Wait no longer for a worker: it has answered, or its channel has ended."""
        self._unanswered.discard(worker)
        if not self._unanswered and not self._is_over:
            self._finish()

    # The end

    def when_over(self, callback: Callable[[], object]) -> None:
        """Have something called when the takeover is over: now, where it is."""
        if self._is_over:
            callback()
        else:
            self._then.append(callback)

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._dispatcher.slots_changed(self._actions.wanted)
        self._wait_for_keys(self._poller.now() + TAKEOVER_S)

    def _wait_for_keys(self, until: float) -> None:
        if self._dispatcher.away.awaits_answers and self._poller.now() < until:
            self._poller.after(ANSWERS_S, lambda: self._wait_for_keys(until))
            return
        lost = self._poller.counters["lost_with_primary"]  # of all primaries until now
        log(logging.WARNING, SERVER_TAKEN_OVER, workers=self._adopted, unanswered=len(self._unanswered), lost=lost)
        then, self._then = self._then, []
        for callback in then:
            self._poller.guard(callback)
        self._actions.replace_older()
