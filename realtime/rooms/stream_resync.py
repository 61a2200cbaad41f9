"""
Reading from the broker what a room's machine has to know: pages of streams, and the tops of streams.

Runs in the worker, as a part of the hub. A machine that finds a gap requests its stream (`read`). After a fault, and
every few seconds, all positions are compared with the broker's tops (`compare`): the last publication before a quiet
hour can be lost too, and no later one would show the gap. It decides nothing about a room: it brings answers to the
machines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from realtime.broker.base import Broker
from realtime.errors import BrokerUnavailable
from realtime.rooms.delivery import LocalRoom, Shell
from realtime.rooms.outputs import RequestStream
from realtime.tasks import SideTasks

COMPARE_BATCH: Final = 500  # rooms whose tops are requested in one command
READS_MAX: Final = 16  # streams that are read at a time: a page of one may hold its whole history

logger = logging.getLogger("realtime.hub")


class StreamResync:
    """The reads of one worker. The owner must call `close`."""

    __slots__ = ("_broker", "_reads", "_shell", "_tasks")

    def __init__(self, broker: Broker, shell: Shell) -> None:
        self._broker = broker
        self._shell = shell
        self._reads = asyncio.Semaphore(READS_MAX)
        self._tasks = SideTasks(logger)

    def read(self, local: LocalRoom, request: RequestStream) -> None:
        """Read a room's stream in the background, and give the machine the answer, or the news that there is none."""
        self._tasks.spawn(self._read(local, request))

    async def _read(self, local: LocalRoom, request: RequestStream) -> None:
        """
        Read one page. At most `READS_MAX` run at a time, because all rooms can request theirs at the same moment. A
        request that does not count any more by then is skipped.
        """
        machine, retention = local.machine, local.machine.options.retention
        async with self._reads:
            if not machine.is_requested(request):
                return
            try:
                page = await self._broker.history(
                    local.name, retention=retention, since=request.since, limit=retention.size, create=True
                )
            except BrokerUnavailable:
                machine.stream_unreadable(request)  # the comparison comes back to it
                return
            except BaseException:
                machine.stream_unreadable(request)
                raise
        self._shell.perform(local, machine.stream_read(request, page))

    def compare_soon(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare these rooms in the background."""
        self._tasks.spawn(self.compare(rooms))

    async def compare(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare the rooms' positions with the broker's. A broker that is away is asked again in the next round."""
        positioned = [local for local in rooms if local.machine.recovers and local.machine.is_open]
        for start in range(0, len(positioned), COMPARE_BATCH):
            batch = positioned[start : start + COMPARE_BATCH]
            try:
                tops = await self._broker.positions([local.name for local in batch])
            except BrokerUnavailable:
                return
            now_s = asyncio.get_running_loop().time()
            for local in batch:
                self._shell.perform(local, local.machine.compared(tops.get(local.name), now_s))

    async def close(self) -> None:
        """Cancel what is being read."""
        await self._tasks.close()
