"""
The other workers at this Redis: whether their releases understand this one, at the start and from then on.

Runs in the worker. formats.py has the rule. This module reads and writes the announcements, and never reads anything
else that a worker stored. It ends no worker that runs: it logs what it sees.

Theory of operation
===================

**What is stored.** One hash under the prefix (`RedisKeys.formats`), whose own form never changes:

- worker -> announcement, for each worker of a release that announces itself;
- `stored` -> announcement of the newest format that was ever in use here. It outlives all workers, as their data does;
- `announced` -> how often a worker has announced itself. A change of it makes the others look.

**At the start** the worker looks first, before it writes anything. If it is not understood, it raises
`IncompatibleFormat` and leaves nothing behind. Then it announces itself, takes its lease, and looks again: of two that
start at the same moment, the one that looks last thus sees the other.

**From then on** each round (redis.py) reads `announced`, and looks where it has changed; and in each `LOOK_ROUNDS`-th
round, for releases before this rule announce nothing. A worker that is not understood is logged, once.

**Which announcements count?** Those of workers with a lease that is in force. One without any lease is left over from a
worker that is gone, or its worker is about to take its lease. A look in a round therefore removes it only if the look
before has seen it so, at least one round ago.

Invariant: a worker of this release has an announcement whenever it has a lease. It announces itself first, and each
round sees whether the announcement is still there. So a lease without one is of a release before this rule.

**When Redis begins anew**, announcements are gone with the leases. Each new link announces this worker again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from realtime.broker import formats
from realtime.broker.base import WorkerId
from realtime.broker.formats import Spoken
from realtime.broker.keys import HOME, RedisKeys
from realtime.broker.links import Route
from realtime.broker.redis_connection import CommandFailed
from realtime.errors import IncompatibleFormat
from realtime.log_lines import log

STORED: Final = b"stored"
ANNOUNCED: Final = b"announced"
LOOK_ROUNDS: Final = 30  # a minute, by the rounds of redis.py; for releases that announce nothing

NOT_UNDERSTOOD: Final = "release not understood"
NOT_COMPARED: Final = "releases not compared"  # with this one: the hash cannot be read or written

ADVICE: Final = "deploy the releases between the two first, one after the other, or use another --redis-prefix"
ADVICE_STORED: Final = (
    "start that release or a later one, or use another --redis-prefix; to go back for good, stop every node and delete "
    "the keys that begin with the prefix, which forgets the rooms' history"
)

logger = logging.getLogger("realtime.broker.redis")


class Peers:
    """
    What this worker knows of the releases of the others.

    Its owner must call `before_lease` with each new link, `started` once, and then `renew` each round.
    """

    def __init__(self, worker: WorkerId, keys: RedisKeys, shown: str, own: Spoken) -> None:
        """
        Args:
            worker: this one.
            keys: have the name of the hash.
            shown: the broker and the prefix, for sentences.
            own: what this worker speaks, `formats.REDIS`.
        """
        self._worker = worker.encode()
        self._keys = keys
        self._shown = shown
        self._own = own
        self._is_started = False
        self._announced: bytes | None = None  # as this worker saw it last
        self._rounds = 0  # since the last look
        self._left_over: set[bytes] = set()  # announcements without a lease, as the last look of a round saw them
        self._logged: set[str] = set()

    async def before_lease(self, route: Route) -> None:
        """
        Look whether this worker may start, unless it has, and announce it. The caller must take the lease next.

        Raises:
            IncompatibleFormat: it must not start, for another release is in use there, or was. Nothing was written.
            BrokerUnavailable: the link was lost.
        """
        if not self._is_started:
            await self._check(route)
        try:
            await self._announce(route)
        except CommandFailed as error:
            log(logger, logging.WARNING, NOT_COMPARED, server=self._shown, reason=error.text)

    async def started(self, route: Route) -> None:
        """
        Look again, for one that has started at the same moment. From then on, nothing here ends this worker.

        Raises:
            IncompatibleFormat: as `before_lease`, but this worker is announced and has its lease.
            BrokerUnavailable: the link was lost.
        """
        await self._check(route)
        self._is_started = True

    async def renew(self, route: Route) -> None:
        """
        Look again, if a worker has announced itself or it is time. Log what is not understood.

        Raises:
            CommandFailed, BrokerUnavailable: nothing was compared; the next round tries again.
        """
        announced, own = await route.request(HOME, "HMGET", self._keys.formats, ANNOUNCED, self._worker)
        if own is None:
            await self._announce(route)
        self._rounds += 1
        if announced == self._announced and self._rounds < LOOK_ROUNDS:
            return
        problems, left_over = await self._look(route)
        self._announced, self._rounds = announced, 0
        for each in problems:
            if each.theirs not in self._logged:
                self._logged.add(each.theirs)
                log(
                    logger,
                    logging.ERROR,
                    NOT_UNDERSTOOD,
                    server=each.where,
                    theirs=each.theirs,
                    ours=each.ours,
                    advice=each.advice,
                )
        if gone := left_over & self._left_over:
            await route.request(HOME, "HDEL", self._keys.formats, *gone)
        self._left_over = left_over - gone

    async def _check(self, route: Route) -> None:
        try:
            problems, _ = await self._look(route)
        except CommandFailed as error:  # an ACL user that may not read the hash; what it could before, it still can
            log(logger, logging.WARNING, NOT_COMPARED, server=self._shown, reason=error.text)
            return
        if problems:
            raise problems[0]

    async def _announce(self, route: Route) -> None:
        """Write this worker's announcement, and that of the newest format. The others look at their next round."""
        stored = await route.request(HOME, "HGET", self._keys.formats, STORED)
        fields = [self._worker, formats.pack(self._own)]
        if stored is None or formats.newest(self._own, formats.unpack(stored)) == self._own:
            fields += [STORED, formats.pack(self._own)]
        await asyncio.gather(
            route.request(HOME, "HSET", self._keys.formats, *fields),
            route.request(HOME, "HINCRBY", self._keys.formats, ANNOUNCED, 1),
        )

    async def _look(self, route: Route) -> tuple[list[IncompatibleFormat], set[bytes]]:
        """Compare this release with all others here. Return what is not understood, and announcements without lease."""
        (seconds, micros), leases, words = await asyncio.gather(
            route.request(HOME, "TIME"),
            route.request(HOME, "ZRANGE", self._keys.leases, "0", "-1", "WITHSCORES"),
            route.request(HOME, "HGETALL", self._keys.formats),  # after the leases, by the invariant
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        until_ms = dict(zip(leases[::2], map(float, leases[1::2]), strict=True))
        announcements = dict(zip(words[::2], words[1::2], strict=True))
        stored = announcements.pop(STORED, None)
        announcements.pop(ANNOUNCED, None)
        found: list[IncompatibleFormat] = []
        for worker, until in sorted(until_ms.items()):
            theirs = formats.unpack(announcements.get(worker))
            if worker != self._worker and until > now_ms and not formats.understand(theirs, self._own):
                whose = f"worker {worker.decode(errors='replace')} of {theirs}"
                found.append(IncompatibleFormat(self._shown, whose, f"this {self._own}", ADVICE))
        if stored is not None and not formats.understand(theirs := formats.unpack(stored), self._own):
            whose = f"what {theirs} stored there"
            found.append(IncompatibleFormat(self._shown, whose, f"this {self._own}", ADVICE_STORED))
        return found, announcements.keys() - until_ms.keys() - {self._worker}
