"""
Answers "what is this worker doing?" for operators: the worker's own words, or its stacks in the log.

Runs in the primary. A worker whose event loop does not turn cannot answer. After `INSPECT_S` it gets SIGUSR2, on which
faulthandler writes the stacks of its threads to the log, and the question is answered with that sentence.

Requests for the same worker share one answer. Each request gets exactly one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Final

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.hashing import Slot
from sticky.loop.poller import Poller
from sticky.supervision.workers import Workers

INSPECT_S: Final = 2.0  # for a worker to answer; less than the five seconds that `control.send_request` waits

OnAnswer = Callable[[str], None]


class Inspections:
    """The requests that wait for an answer."""

    def __init__(self, poller: Poller, workers: Workers) -> None:
        self._poller = poller
        self._workers = workers
        self._waiting: dict[int, list[OnAnswer]] = {}  # by the pid of the worker

    def request(self, worker: WorkerHandle, on_answer: OnAnswer) -> None:
        """Have `on_answer` called once, with what a worker is doing or why that is not known."""
        waiting = self._waiting.setdefault(worker.pid, [])
        waiting.append(on_answer)
        if len(waiting) == 1:
            self._workers.send(worker, Kind.INSPECT)
            self._poller.after(INSPECT_S, lambda: self._time_out(worker, waiting))

    def request_slot(self, slot: Slot, on_answer: OnAnswer) -> bool:
        """Do the same for the live worker of a slot. Return False when no worker serves it."""
        worker = self._workers.live.get(slot)
        if worker is not None:
            self.request(worker, on_answer)
        return worker is not None

    def answer(self, worker: WorkerHandle, text: str) -> None:
        """Pass a worker's answer on to all that wait for it. Without any, it came too late, which is no error."""
        for on_answer in self._waiting.pop(worker.pid, ()):
            self._poller.guard(partial(on_answer, text))

    def _time_out(self, worker: WorkerHandle, waiting: list[OnAnswer]) -> None:
        assert waiting, "a request is answered or timed out, and never taken back"
        if self._waiting.get(worker.pid) is not waiting:
            return  # answered; what waits now is a later request with a deadline of its own
        self._workers.send_signal(worker, signal.SIGUSR2)
        self.answer(worker, f"worker {worker.pid} does not answer: the stacks of its threads are in the server's log")
