"""
Repairing the presence that watchers know, after a fault of the broker that swallowed joins and leaves.

Runs in the worker, as a part of the hub, which says when something may have been lost. The presence view of each such
room is compared with the broker's members. A member that is there and unknown is announced at once. A member that is
missing is announced only when it is missing still `SETTLE_S` later: where the broker lost everything, each worker
registers its own members again, in its own time. A comparison is repeated until nothing differs. It never writes to a
client, and never changes the members.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from realtime.broker.base import Broker
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.rooms.delivery import LocalRoom, Shell

SETTLE_S: Final = 3.0  # by then every worker that lives has its link again, and has registered its members

logger = logging.getLogger("realtime.presence")


class PresenceResync:
    """Compares presence views, one room after another. The owner must call `close`."""

    def __init__(self, broker: Broker, shell: Shell, *, settle_s: float = SETTLE_S) -> None:
        self._broker = broker
        self._shell = shell
        self._settle_s = settle_s
        self._suspects: set[LocalRoom] = set()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    def request(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare these rooms, soon and until nothing differs. Does nothing after `close`."""
        if self._is_closed:
            return
        for local in rooms:
            if local.machine.presence_view is not None:
                local.machine.presence_view.restart_comparison()
                self._suspects.add(local)
        if self._suspects and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._compare_all())

    async def close(self) -> None:
        """End the comparison that is under way, and begin no other."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _compare_all(self) -> None:
        """
        Compare until nothing differs. A room in which something differed is compared again after `settle_s`: a member
        that is missing has left only if it is missing twice. The task ends by itself when no room is left.
        """
        while self._suspects:
            rooms, self._suspects = self._suspects, set()  # a room that is added meanwhile has had another fault
            for local in rooms:
                try:
                    differs = await self._differs(local)
                except BrokerUnavailable:
                    differs = True
                except Exception:  # noqa: BLE001 - a fault of ours, in one room: it waits for the next fault, the others do not
                    log(logger, logging.ERROR, "presence comparison failed", room=local.name, exc_info=True)
                    differs = False
                if differs:
                    self._suspects.add(local)
                await asyncio.sleep(0)  # while the broker is unreachable, nothing above waits for anything
            if self._suspects:
                await asyncio.sleep(self._settle_s)

    async def _differs(self, local: LocalRoom) -> bool:
        """Compare a room, and announce what was not. Return whether it has to be compared again."""
        async with local.lock:
            machine, view = local.machine, local.machine.presence_view
            if view is None or machine.is_empty or not machine.is_open:
                return False
            assert view.is_loaded, "a view is begun and loaded under the lock, or dropped"
            with view.listening() as arrivals:
                answer = await self._broker.members(local.name)
            members = arrivals.applied_to(answer)
            changes = view.unsent_joins(members) + view.confirm_missing(members)
            now_s = asyncio.get_running_loop().time()
            for change in changes:
                self._shell.perform(local, machine.change(change, now_s))
            if changes:
                log(logger, logging.INFO, "= presence repaired", room=local.name, changes=len(changes))
            return bool(changes) or not view.is_settled
