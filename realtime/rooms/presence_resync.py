"""
Telling the watchers of rooms, after a fault of the broker, what nobody told them: who came and who left meanwhile.

Runs in the worker, beside the hub, which says when something may have been lost. Each doubtful room's presence_view is
compared with the broker's members. Who is there and was not told is told then. Who is missing is told only when
missing still `SETTLE_S` later: where the broker lost everything, each worker brings its own members again, in its own
time. A comparison is repeated until nothing differs. It never speaks to a client, and never changes who is present.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from realtime.broker.base import Broker
from realtime.errors import BrokerUnavailable
from realtime.rooms.fanout import Change
from realtime.rooms.local_room import LocalRoom

SETTLE_S: Final = 3.0  # by then every worker that lives has taken up its link and brought its members

logger = logging.getLogger("realtime.comparing")


class PresenceResync:
    """Compares the rosters of rooms of which something may not have been told, one room after another."""

    def __init__(
        self, broker: Broker, tell: Callable[[LocalRoom, Change], None], *, settle_s: float = SETTLE_S
    ) -> None:
        """`tell` is to take each change to the room's watchers, and to its presence_view."""
        self._broker = broker
        self._tell = tell
        self._settle_s = settle_s
        self._doubtful: set[LocalRoom] = set()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    def doubt(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare these rooms, soon and until nothing differs."""
        if self._is_closed:
            return
        for local in rooms:
            if local.presence_view is not None:
                local.presence_view.doubt()
                self._doubtful.add(local)
        if self._doubtful and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._compare_all())

    async def close(self) -> None:
        """End, wherever it is, and compare no more."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _compare_all(self) -> None:
        while self._doubtful:
            rooms, self._doubtful = self._doubtful, set()  # who is doubted meanwhile is so for another fault
            for local in rooms:
                try:
                    differs = await self._differs(local)
                except BrokerUnavailable:
                    differs = True
                except Exception:  # a bug, and of one room: it is given up until the next fault, the others are not
                    logger.exception("! room %s: who is there could not be compared", local.name)
                    differs = False
                if differs:
                    self._doubtful.add(local)
                await asyncio.sleep(0)  # where the broker is away nothing above waits for anything
            if self._doubtful:
                await asyncio.sleep(self._settle_s)

    async def _differs(self, local: LocalRoom) -> bool:
        """Compare a room, and tell what was not told. Return whether it has to be compared again."""
        async with local.lock:
            presence_view = local.presence_view
            if presence_view is None or local.is_empty or not local.opened:
                return False
            members = await presence_view.answer(self._broker.members(local.name))
            changes = presence_view.unknown(members) + presence_view.confirm_missing(members)
            for change in changes:
                self._tell(local, change)
            if changes:
                logger.info("= room %s: %d joins and leaves had not been told", local.name, len(changes))
            return bool(changes) or not presence_view.is_whole
