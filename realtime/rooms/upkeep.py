"""
Upkeep: what this worker does when the broker was unreachable, after each fault and every few seconds.

Runs in the worker, as a part of the hub. It does the removals that were postponed, has the positions of rooms compared,
and has the presence that watchers know repaired. The periodic round finds what no fault reported: a publication that
pub/sub lost, with none after it to show the gap. It decides nothing about a room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from realtime.broker.base import Broker, Room
from realtime.rooms.delivery import LocalRoom, Shell
from realtime.rooms.departures import Departures
from realtime.rooms.presence_resync import PresenceResync
from realtime.rooms.stream_resync import StreamResync
from realtime.tasks import SideTasks

logger = logging.getLogger("realtime.hub")


class Upkeep:
    """The upkeep of one worker. The owner must call `start` once the broker has started, and `close`."""

    def __init__(
        self,
        broker: Broker,
        rooms: Mapping[Room, LocalRoom],
        departures: Departures,
        shell: Shell,
        *,
        compare_s: float,
        settle_s: float,
    ) -> None:
        """
        Args:
            broker: of all workers.
            rooms: those with members here; read in each round.
            departures: has what is postponed.
            shell: performs the outputs of machines.
            compare_s: seconds between two rounds.
            settle_s: as `PresenceResync` has it.
        """
        self._rooms = rooms
        self._departures = departures
        self._compare_s = compare_s
        self._tasks = SideTasks(logger)
        self.streams = StreamResync(broker, shell)
        self.presence = PresenceResync(broker, shell, settle_s=settle_s)

    def start(self) -> None:
        """Begin the rounds."""
        assert not self._tasks, "two rounds at a time would request every position twice"
        self._tasks.spawn(self._run_rounds())

    async def close(self) -> None:
        """End the rounds, and everything that was begun after a fault."""
        await self._tasks.close()
        await self.presence.close()
        await self.streams.close()

    async def _run_rounds(self) -> None:
        """Do the removals that were postponed, and compare all positions, for as long as the worker lives."""
        while True:
            await asyncio.sleep(self._compare_s)
            await self._departures.flush()
            await self.streams.compare(self._rooms.values())

    def distrust(self, rooms: Iterable[LocalRoom]) -> None:
        """Have these rooms buffer what arrives: something may be missing. `resync` must follow."""
        now_s = asyncio.get_running_loop().time()
        for local in rooms:
            local.machine.distrusted(now_s)

    def resync(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare the positions and the presence of rooms with the broker's, in the background."""
        rooms = list(rooms)
        self.streams.compare_soon(rooms)
        self.presence.request(rooms)

    def link_restored(self) -> None:
        """Do what was postponed, and compare every room."""
        self._tasks.spawn(self._departures.flush())
        self.resync(self._rooms.values())
