"""
What a primary leaves with its keeper about its workers and sidecar processes, and how the next primary reads it.

Runs in the primary. The keeper knows names, descriptors and texts, and no meaning; this module has the meaning:

| name                     | descriptor or text                                                              |
|--------------------------|---------------------------------------------------------------------------------|
| channel:WORKER_ID        | the primary's end of a worker's channel                                         |
| process:WORKER_ID        | a pidfd of the worker                                                           |
| journal:WORKER_ID        | the record of its requests in flight                                            |
| worker:WORKER_ID         | text: slot, pid, generation and state of the worker                             |
| alive:NAME               | the primary's end of a sidecar's liveness socket; spaces in a name are `+`      |
| sidecar:NAME             | text: the sidecar's pid                                                         |

A worker is kept when it has been sent its first message, and its text comes last: a primary that dies in between leaves
an incomplete entry. The next one drops that, so the worker sees the end of its channel and ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.hashing import Slot
from sticky.supervision.environment import Environment

WANTED: Final = "wanted"  # how many workers an operator has asked for
GENERATION: Final = "generation"  # of the last reload


class Deposit(Protocol):
    """Where names are kept: the keeper, through `KeeperLink`."""

    @property
    def is_used(self) -> bool:
        """Whether there is, or was, a keeper at all."""

    def put(self, name: str, fd: int) -> None:
        """Keep a copy of a descriptor. The caller must `drop` the name before it closes its own."""

    def set(self, name: str, text: str) -> None:
        """Keep a text, which has no line end."""

    def drop(self, name: str) -> None:
        """Keep nothing more under a name."""


@dataclass(slots=True)
class Kept:
    """What a primary found at its keeper. It owns each descriptor that it takes out with `take`."""

    fds: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def take(self, name: str) -> int | None:
        """Take a descriptor out; None where there is none of this name."""
        return self.fds.pop(name, None)

    def number(self, name: str, default: int) -> int:
        """Return a text that is a number; `default` where there is none of this name."""
        text = self.texts.get(name, "")
        return int(text) if text.isdecimal() else default

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`."""
        return [name for name in [*self.fds, *self.texts] if name.startswith(prefix)]


@dataclass(frozen=True, slots=True)
class KeptWorker:
    """A worker of an earlier primary. The caller owns the descriptors."""

    worker_id: str
    slot: Slot
    pid: int
    generation: int
    state: WorkerState
    """STARTING, READY or DRAINING, as the earlier primary had noted it last."""
    channel: int
    pidfd: int
    journal: int | None


def take_workers(kept: Kept) -> Iterator[KeptWorker]:
    """Give each worker that is kept completely, and take its descriptors out."""
    for name in kept.names("worker:"):
        worker_id = name.removeprefix("worker:")
        channel, pidfd = kept.take(f"channel:{worker_id}"), kept.take(f"process:{worker_id}")
        journal = kept.take(f"journal:{worker_id}")
        with contextlib.suppress(ValueError):  # a later version may write another text
            slot, pid, generation, state = kept.texts[name].split()
            if channel is not None and pidfd is not None:
                yield KeptWorker(
                    worker_id, Slot(int(slot)), int(pid), int(generation), WorkerState(state), channel, pidfd, journal
                )
                continue
        for fd in (channel, pidfd, journal):
            if fd is not None:
                os.close(fd)


class WorkerDeposit:
    """Keeps the workers of this primary in a deposit. It owns their pidfds."""

    def __init__(self, deposit: Deposit, environment: Environment) -> None:
        self._deposit = deposit
        self._environment = environment
        self._pidfds: dict[str, int] = {}  # by worker id

    def started(self, worker: WorkerHandle, pidfd: int | None = None) -> None:
        """
        Keep a worker that was sent its first message. You must call `gone` before its channel is closed.

        Args:
            pidfd: of a worker that an earlier primary has started. It is owned here from now on.
        """
        if not self._deposit.is_used:
            return
        if pidfd is None:
            pidfd = self._environment.open_pidfd(worker.pid)
        if pidfd is None:
            return  # it has ended already
        self._pidfds[worker.worker_id] = pidfd
        self._deposit.put(f"channel:{worker.worker_id}", worker.channel.fileno())
        self._deposit.put(f"process:{worker.worker_id}", pidfd)
        if worker.journal is not None:
            self._deposit.put(f"journal:{worker.worker_id}", worker.journal)
        self.changed(worker)

    def changed(self, worker: WorkerHandle) -> None:
        """Keep the state of a worker, which has changed."""
        if worker.worker_id in self._pidfds:
            text = f"{worker.slot} {worker.pid} {worker.generation} {worker.state.value}"
            self._deposit.set(f"worker:{worker.worker_id}", text)

    def gone(self, worker: WorkerHandle) -> None:
        """Keep a worker no longer: its channel is about to be closed."""
        pidfd = self._pidfds.pop(worker.worker_id, None)
        if pidfd is not None:
            for name in ("worker", "channel", "process", "journal"):
                self._deposit.drop(f"{name}:{worker.worker_id}")
            os.close(pidfd)
