"""
What workers are doing, in words: asked for from outside, told by the worker, or by its stacks in the log.

Runs in the primary. One whose event loop does not turn cannot say; the stacks of its threads then go to the log.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from sticky.channel import Kind
from sticky.message_relay import Say
from sticky.poller import Poller
from sticky.worker_handle import WorkerHandle

INSPECT_S: Final = 2.0  # for a worker to say what it is doing

Tell = Callable[[str], None]


class Inspections:
    """Who waits for an answer. `workers` is the supervisor's: by pid until they are reaped."""

    def __init__(self, poller: Poller, workers: Mapping[int, WorkerHandle], *, say: Say) -> None:
        self._poller = poller
        self._workers = workers
        self._say = say
        self._waiting: dict[int, list[Tell]] = {}  # by the pid of who is asked

    def ask(self, worker: WorkerHandle, tell: Tell) -> None:
        """Have `tell` told what a worker is doing, some time."""
        waiting = self._waiting.setdefault(worker.pid, [])
        waiting.append(tell)
        if len(waiting) == 1:  # one answer for all who ask meanwhile
            self._say(worker, Kind.INSPECT)
            self._poller.after(INSPECT_S, lambda: self._asked_in_vain(worker, waiting))

    def answered(self, worker: WorkerHandle, text: str) -> None:
        """Give the answer to all who wait for it, perhaps nobody any more."""
        for tell in self._waiting.pop(worker.pid, ()):
            self._poller.guard(partial(tell, text))

    def _asked_in_vain(self, worker: WorkerHandle, waiting: list[Tell]) -> None:
        if self._waiting.get(worker.pid) is not waiting:
            return  # it has answered
        if self._workers.get(worker.pid) is worker:
            worker.send_signal(signal.SIGUSR2)
        self.answered(worker, f"worker {worker.pid} does not answer: the stacks of its threads are in the server's log")
