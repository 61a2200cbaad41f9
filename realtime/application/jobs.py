"""
Jobs of the application that run again and again: `@app.every(30, once="cluster")`.

Runs in the worker, as one task for each job. A job is due at the multiples of its period since 1970, on every worker at
the same moment. Which worker runs it is settled at the broker: the first that claims this moment does. No worker is
special, so a worker that dies is not missed at the next moment. A run that takes longer than the period skips moments
on its own worker; another worker may begin one meanwhile. While the broker is away, only jobs of `once="worker"` run.

A run happens at most once. It is lost where its worker dies in it, or claims it and loses the broker before the answer.
It is not claimed again, since the first run may have done half of its work.

A job that raises is logged, and runs again at the next moment. Jobs end with their worker. They ask nothing of clients.
The machine of `once="machine"` is a server, by the name that its primary gives to all of its workers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from realtime.application.handlers import Handler
from realtime.broker.base import PRIVATE, Room
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.timing.rate import Rate

Once = Literal["cluster", "machine", "worker"]
SCOPES: Final[tuple[str, ...]] = get_args(Once)

CLAIMS: Final = Room(f"{PRIVATE}jobs")
CLAIM_S: Final = 60.0
"""How long a claim is kept at least: above what the clocks of two machines may differ by."""
RUNS: Final = "= job run"
FAILED: Final = "job failed"  # its traceback follows; it runs again at the next moment
NOT_RUN: Final = "job not run"  # once, until the broker is back

logger = logging.getLogger("realtime.app")


class Claims(Protocol):
    """What all workers share, as far as jobs need it."""

    async def allow(self, room: Room, subject: str, rate: Rate) -> bool:
        """Say whether this is the first claim of that name within the rate's period."""


@dataclass(frozen=True, slots=True)
class Job:
    """One function, how often it runs in seconds, and on how many workers."""

    handler: Handler
    seconds: float
    once: Once


def next_moment(now: float, seconds: float, last: int | None) -> int:
    """
    Return the number of the next moment at which a job is due; `now` and the moments are in Unix time.

    A timer may fire a little early, so that the moment that was just served seems to lie ahead: it is not served twice.
    """
    moment = int(now // seconds) + 1
    return moment + 1 if moment == last else moment


class Jobs:
    """The jobs of one worker. The caller of `start` owes `stop`."""

    def __init__(self, jobs: list[Job], *, now: Callable[[], float] = time.time) -> None:
        self._jobs = jobs
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []
        self._unclaimed: set[str] = set()

    def start(self, claims: Claims, node: str) -> None:
        """Begin to run the jobs. `node`: the name of this machine."""
        assert not self._tasks, "two tasks for one job would claim each other's runs"
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run_forever(job, name, claims, node))
            for job, name in zip(self._jobs, names_of(self._jobs), strict=True)
        ]

    async def stop(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _run_forever(self, job: Job, name: str, claims: Claims, node: str) -> None:
        last = None
        while True:
            now = self._now()
            last = next_moment(now, job.seconds, last)
            await asyncio.sleep(last * job.seconds - now)
            try:
                if await self._claim(job, f"{name} {last}", claims, node):
                    log(logger, logging.DEBUG, RUNS, job=name, moment=last)
                    await job.handler()
            except Exception:  # noqa: BLE001 - logged with its traceback
                log(logger, logging.ERROR, FAILED, job=name, at=job.handler.where, exc_info=True)

    async def _claim(self, job: Job, run: str, claims: Claims, node: str) -> bool:
        """Say whether this worker does a run. `run`: the job's name and the moment, alike on all workers."""
        if job.once == "worker":
            return True
        name = job.handler.name
        subject = run if job.once == "cluster" else f"{run} {node}"
        try:
            is_ours = await claims.allow(CLAIMS, subject, Rate(1, max(CLAIM_S, job.seconds)))
        except BrokerUnavailable as error:
            if name not in self._unclaimed:
                log(logger, logging.WARNING, NOT_RUN, job=name, reason=error)
            self._unclaimed.add(name)
            return False
        self._unclaimed.discard(name)
        return is_ours


def names_of(jobs: Sequence[Job]) -> list[str]:
    """
    Return a name for each job by which all workers claim its runs: its function's, with the period.

    Functions may share a name, such as those that a loop declares. Those of one period are numbered then, else one of
    them would claim the runs of all. Every worker declares its jobs in the same order, so the numbers agree.
    """
    found: list[str] = []
    counts: Counter[str] = Counter()
    for job in jobs:
        name = f"{job.handler.name}/{job.seconds:g}s"
        counts[name] += 1
        found.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    assert len(set(found)) == len(found), "two jobs with one name would take each other's runs"
    return found
