"""
Reads streams for subscribers that enter or return, so that many of one room cost the broker few reads.

Runs in the worker, as a part of the hub. A room has one read on its way at most. Subscribers that come meanwhile share
the next one: it begins after all of them have come, and reads from the oldest of their positions. So a batch of moved
connections, or a crowd that returns, asks the broker for a room's stream twice and not once for each. A single
subscriber waits for nothing and costs no task.

It decides nothing about what a client missed: recovery.py does.
"""

from __future__ import annotations

import asyncio

from realtime.broker.base import Broker, History, Position, Retention, Room
from realtime.errors import BrokerUnavailable
from realtime.tasks import SideTasks


class _Shared:
    """The next read of a room, for all that wait for it."""

    __slots__ = ("page", "retention", "since")

    def __init__(self, since: Position, retention: Retention) -> None:
        self.since = since  # the oldest of all
        self.retention = retention
        self.page: asyncio.Future[History] = asyncio.get_running_loop().create_future()


class StreamReads:
    """
    The reads of one worker.

    Invariant: a room of `_next` is in `_reading`, so its read begins when the one before it has ended.
    """

    __slots__ = ("_broker", "_next", "_reading", "_tasks")

    def __init__(self, broker: Broker, tasks: SideTasks) -> None:
        """
        Args:
            tasks: runs shared reads. Its owner must close it after the last `read`.
        """
        self._broker = broker
        self._tasks = tasks
        self._reading: set[Room] = set()
        self._next: dict[Room, _Shared] = {}

    async def read(self, room: Room, since: Position, retention: Retention) -> History:
        """
        Return all publications after a position that the broker still has, and the top. The read begins after this
        call: a caller that gets the room's publications already misses none between the page and those.

        Raises:
            BrokerUnavailable: the stream cannot be read now.
        """
        if room not in self._reading:
            self._reading.add(room)
            try:
                return await self._history(room, since, retention)
            finally:
                self._proceed(room)
        shared = self._next.get(room)
        if shared is None:
            shared = self._next[room] = _Shared(since, retention)
        elif since.offset < shared.since.offset:
            shared.since = since
        page = await asyncio.shield(shared.page)  # a caller that is cancelled leaves the others their read
        return _after(page, since)

    async def _history(self, room: Room, since: Position, retention: Retention) -> History:
        return await self._broker.history(room, retention=retention, since=since, limit=retention.size, create=True)

    def _proceed(self, room: Room) -> None:
        """Begin the next read of a room, if anything waits for it."""
        assert room in self._reading, "a read has just ended"
        shared = self._next.pop(room, None)
        if shared is None:
            self._reading.discard(room)
        else:
            self._tasks.spawn(self._read_shared(room, shared))

    async def _read_shared(self, room: Room, shared: _Shared) -> None:
        try:
            found = await self._history(room, shared.since, shared.retention)
        except BaseException as error:
            shared.page.set_exception(BrokerUnavailable("this worker", "it ends") if _is_end(error) else error)
            shared.page.exception()  # it is seen, also where no caller waits any more
            if _is_end(error):
                raise
        else:
            shared.page.set_result(found)
        finally:
            self._proceed(room)


def _is_end(error: BaseException) -> bool:
    """Return whether a task is cancelled, or the process ends."""
    return not isinstance(error, Exception)


def _after(page: History, since: Position) -> History:
    """Return what a read from a later position would have found."""
    if not page.publications or page.publications[0].offset > since.offset:
        return page
    return History([each for each in page.publications if each.offset > since.offset], page.top)
