"""
Every worker knows what is revoked.

Runs in the worker. What is revoked lies in a private stream of the broker, and a letter tells all workers at once
(`ClusterBus.revoke`). Who starts reads the stream before it serves. A letter can be lost with a link, so everybody
looks again every few seconds, which costs one small read; and where the broker began anew and knows nothing, whoever
still knows writes it again. It never decides what a revocation means: that is revocation.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import msgspec

from realtime.auth.revocation import MOST, Revocation, Revoked
from realtime.broker.base import Position, Publication
from realtime.cluster.bus import REVOCATIONS, REVOCATIONS_KEPT, ClusterBus
from realtime.errors import BrokerUnavailable
from realtime.rooms.hub import Hub

LOOK_S: Final = 8.0  # with what a look takes, a letter that was lost is made good within 10 s

logger = logging.getLogger("realtime.auth")


class RevocationSync:
    """Keeps this worker's list up to date."""

    def __init__(self, hub: Hub, bus: ClusterBus, revoked: Revoked) -> None:
        self._hub = hub
        self._bus = bus
        self._revoked = revoked
        self._since: Position | None = None  # up to which the stream was read
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Read what is revoked. The caller owes `close`.

        Raises:
            BrokerUnavailable: it cannot be read.
        """
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._look_forever())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except BrokerUnavailable as error:  # the next round comes back to it
                logger.debug("- what is revoked is not read: %s", error)
            except Exception:
                logger.exception("! what is revoked is not read")  # nor does one round end those after it

    async def look(self) -> None:
        """
        Take what was revoked since the last look.

        Raises:
            BrokerUnavailable: nothing was taken.
        """
        before, ours = self._since, list(self._revoked)
        page = await self._hub.kept(REVOCATIONS, REVOCATIONS_KEPT, since=before, limit=MOST)
        if before is not None and page.top.epoch != before.epoch:
            page = await self._hub.kept(REVOCATIONS, REVOCATIONS_KEPT, limit=MOST)
        theirs = [read for each in page.publications if (read := _read(each)) is not None]
        for each in theirs:
            self._bus.take_revocation(each)
        self._since = page.top
        if before is not None and page.top.epoch != before.epoch:
            logger.warning("! the broker began anew: what is revoked is told it again")
            now_s = time.time()
            for each in ours:
                if each not in theirs and each.until_s > now_s:
                    await self._hub.keep(REVOCATIONS, msgspec.msgpack.encode(each), REVOCATIONS_KEPT)


def _read(publication: Publication) -> Revocation | None:
    try:
        return msgspec.msgpack.decode(publication.data, type=Revocation)
    except msgspec.MsgspecError as error:  # another version's, or none of ours: the others count nevertheless
        logger.warning("! an entry of what is revoked cannot be read: %s", error)
        return None
