"""
Closes the connections of a worker one by one, evenly up to a deadline, so that their clients do not return together.

Runs in the worker, as the part of a drain that is left when nothing more can move. `Pace` says how many are due; this
module has the clock, chooses which are next, and closes them. It decides nothing about how a connection is closed, and
it cuts none: at the deadline every one was closed politely, and the caller cuts what still is open then.

The order is random. So each kind of connection, each room and each network is spread as evenly as the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from realtime.process.pace import Pace

STEP_S: Final = 0.02  # between two looks at the clock, at least: what is due meanwhile is closed together
CLOCK_S: Final = 0.001  # the finest wait of a loop's clock: a shorter one may not pass at all
REFRESH_S: Final = 1.0  # between two looks at what is open: clients leave by themselves, and handshakes end
REFRESHES_MAX: Final = 1000  # of these looks in one drain, which may last a day
LAST_S: Final = 1.0  # after the deadline, for the peers' half of the last closing handshakes
FEW: Final = 5  # so many returning clients are no storm
FEW_GAP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Closable:
    """One connection, and how to close it with a code by which its client returns."""

    is_open: Callable[[], bool]
    close: Callable[[], object]


class Connections(Protocol):
    """What is drained: the connections of this worker."""

    def closables(self) -> Iterable[Closable]:
        """Give those that can be closed now. One that was closed is not among them, though its client may linger."""

    async def wait_until_none(self) -> None:
        """Return when no connection is left, of whatever kind."""


async def close_evenly(connections: Connections, drain_s: float, *, is_stop: bool) -> None:
    """
    Close every connection within so many seconds, then wait a moment for the peers. The caller must cut what is left.

    Args:
        connections: returns at once when none is left.
        drain_s: for the last close; 0 closes all at once.
        is_stop: the whole server ends, and something waits for that. A few connections are then closed at once. In a
            reload nothing waits for the old worker: the fewer it has, the longer they live.
    """
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    deadline_s = begin_s + drain_s
    left = _shuffled(connections)
    spread_s = min(drain_s, len(left) * FEW_GAP_S) if is_stop and len(left) <= FEW else drain_s
    pace = Pace(begin_s, begin_s + spread_s)
    refresh_s = max(REFRESH_S, drain_s / REFRESHES_MAX)
    refresh_at_s = begin_s + refresh_s
    while (now_s := loop.time()) < deadline_s:
        if now_s >= refresh_at_s:
            left, refresh_at_s = _shuffled(connections), now_s + refresh_s
        _close_next(left, pace.due(now_s, len(left)))
        due_in_s = max(pace.wait_s(now_s, len(left)), STEP_S) if left else refresh_s
        wait_s = min(due_in_s, refresh_at_s - now_s, deadline_s - now_s)
        if await _is_over(connections, max(wait_s, CLOCK_S)):
            return
    left = _shuffled(connections)  # usually the last one, and what came since the last look
    _close_next(left, len(left))
    await _is_over(connections, LAST_S)


def _shuffled(connections: Connections) -> list[Closable]:
    found = list(connections.closables())
    random.shuffle(found)
    return found


def _close_next(left: list[Closable], count: int) -> None:
    """Close so many of those that are left. One that has ended by itself does not count."""
    while count and left:
        closable = left.pop()
        if closable.is_open():
            closable.close()
            count -= 1


async def _is_over(connections: Connections, within_s: float) -> bool:
    """Wait for the end of the last connection. Return False when that does not come in time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connections.wait_until_none(), within_s)
        return True
    return False
