"""
Jobs of the application that run again and again: `@app.every(30, once="cluster")`.

Runs in the worker, as one task for each job. A job is due at the multiples of its period since 1970, on every worker at
the same moment. Which worker runs it is settled at the broker: the first that claims this moment does. So no moment is
missed when a worker dies, and no worker is special. A run that takes longer than the period skips moments on its own
worker; another worker may begin one meanwhile. While the broker is away, only jobs of `once="worker"` run.

A job that raises is logged, and runs again at the next moment. Jobs end with their worker. They ask nothing of clients.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from realtime.application.handlers import Handler
from realtime.broker.base import PRIVATE, Room
from realtime.errors import BrokerUnavailable
from realtime.timing.rate import Rate

Once = Literal["cluster", "machine", "worker"]
SCOPES: Final[tuple[str, ...]] = get_args(Once)

CLAIMS: Final = Room(f"{PRIVATE}jobs")
CLAIM_S: Final = 60.0
"""How long a claim is kept at least: above what the clocks of two machines may differ by."""

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
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run_forever(job, claims, node)) for job in self._jobs]

    async def stop(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _run_forever(self, job: Job, claims: Claims, node: str) -> None:
        last = None
        while True:
            now = self._now()
            last = next_moment(now, job.seconds, last)
            await asyncio.sleep(last * job.seconds - now)
            try:
                if await self._claim(job, last, claims, node):
                    await job.handler()
            except Exception:
                logger.exception("! job %s failed, and runs again: %s", job.handler.name, job.handler.where)

    async def _claim(self, job: Job, moment: int, claims: Claims, node: str) -> bool:
        """Say whether this worker runs a job at this moment."""
        if job.once == "worker":
            return True
        name = job.handler.name
        who = f"{name} {moment}" if job.once == "cluster" else f"{name} {moment} {node}"
        try:
            is_ours = await claims.allow(CLAIMS, who, Rate(1, max(CLAIM_S, job.seconds)))
        except BrokerUnavailable as error:
            if name not in self._unclaimed:
                logger.warning("! job %s does not run until the broker is back: %s", name, error)
            self._unclaimed.add(name)
            return False
        self._unclaimed.discard(name)
        return is_ours
