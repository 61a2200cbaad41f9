"""
`RevocationSync`: every worker knows what is revoked.

Runs in the worker. What is revoked lies in a private stream of the broker, and a message tells all workers at once
(`ClusterBus.revoke`). A worker that starts reads the stream before it serves. A message can be lost with a link, so
each worker reads again every few seconds, which costs one small command; and where the broker began anew and has
nothing, a worker that still knows writes it again. It never decides what a revocation means: auth/revocation.py does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import msgspec

from realtime.auth.revocation import MOST, Revocation, Revoked
from realtime.broker.base import Broker, History, Position, PublishRequest, RawPublication
from realtime.cluster.bus import REVOCATIONS, REVOCATIONS_KEPT, ClusterBus
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log

PERIOD_S: Final = 8.0  # with the time of a read, a message that was lost is made good within 10 s

logger = logging.getLogger("realtime.auth")


class RevocationSync:
    """Keeps this worker's list up to date. The owner must call `close` after `start`."""

    def __init__(self, broker: Broker, bus: ClusterBus, revoked: Revoked) -> None:
        """
        Args:
            broker: keeps the stream.
            bus: applies what is read to this worker's sessions.
            revoked: this worker's list.
        """
        self._broker = broker
        self._bus = bus
        self._revoked = revoked
        self._since: Position | None = None  # up to which the stream was read
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """
        Read what is revoked. The caller must call `close`.

        Raises:
            BrokerUnavailable: it cannot be read.
        """
        assert self._task is None, "one task reads the stream; two would each have a position of their own"
        await self.read()
        self._task = asyncio.get_running_loop().create_task(self._read_forever())

    async def close(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read_forever(self) -> None:
        """Read the stream every `PERIOD_S`. A round that fails is made up for by the next."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.read()
            except BrokerUnavailable as error:  # the next round comes back to it
                log(logger, logging.DEBUG, "revocations not read", reason=error)
            except Exception:  # noqa: BLE001 - logged with its traceback
                log(
                    logger, logging.ERROR, "revocations not read", exc_info=True
                )  # one round does not end those after it

    async def read(self) -> None:
        """
        Apply what was revoked since the last read.

        Raises:
            BrokerUnavailable: nothing was applied.
        """
        before, ours = self._since, list(self._revoked)
        page = await self._page(before)
        if before is not None and page.top.epoch != before.epoch:
            page = await self._page(None)
        theirs = [read for each in page.publications if (read := _decode(each)) is not None]
        for each in theirs:
            self._bus.receive_revocation(each)
        self._since = page.top
        if before is not None and page.top.epoch != before.epoch:
            log(logger, logging.WARNING, "revocations written again", count=len(ours), reason="the broker began anew")
            now_s = time.time()
            for each in ours:
                if each not in theirs and each.until_s > now_s:
                    await self._broker.publish(
                        PublishRequest(REVOCATIONS, msgspec.msgpack.encode(each), REVOCATIONS_KEPT)
                    )

    async def _page(self, since: Position | None) -> History:
        """Return what was revoked after a position; all that is kept where there is none."""
        return await self._broker.history(REVOCATIONS, retention=REVOCATIONS_KEPT, since=since, limit=MOST, create=True)


def _decode(publication: RawPublication) -> Revocation | None:
    """Return a revocation, or None for one that cannot be read: the others must be applied all the same."""
    try:
        return msgspec.msgpack.decode(publication.data, type=Revocation)
    except msgspec.MsgspecError as error:  # another version's, or none of ours: the others count nevertheless
        log(logger, logging.WARNING, "revocation not decoded", reason=error)
        return None
