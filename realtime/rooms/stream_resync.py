"""
GapDetection that nothing of a room is missing, and filling what is.

Runs in the worker, beside the hub. A room is *in_sync* while every publication up to its `offset` was accepted. When a
hole shows, the link was lost, or the broker's top disagrees, it is out_of_sync: what arrives is held until its stream
was read. Then the hole is filled, in order, or it is said what was lost. It never drops in silence, and never speaks to
a member: the hub accepts and loses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from realtime.broker.base import Broker, Position, Publication
from realtime.errors import BrokerUnavailable
from realtime.rooms.local_room import LocalRoom
from realtime.rooms.recovery import replay

HELD_MAX: Final = 10_000  # publications held for one out_of_sync room; above it they are read from the stream again
VERIFY_BATCH: Final = 500  # rooms whose tops are asked for in one command

logger = logging.getLogger("realtime.hub")


class GapDetection:
    """Moves `epoch`, `offset`, `in_sync` and `held` of all rooms of one worker."""

    __slots__ = ("_accept", "_broker", "_lose", "_spawn", "filled", "holes")

    def __init__(
        self,
        broker: Broker,
        *,
        accept: Callable[[LocalRoom, Publication], None],
        lose: Callable[[LocalRoom, Position], None],
        spawn: Callable[[Coroutine[Any, Any, object]], None],
    ) -> None:
        """
        Args:
            accept: takes each publication, once and in order.
            lose: told that what followed the room's position is lost, up to a top; calls `begin`.
            spawn: runs work on the side.
        """
        self._broker = broker
        self._accept = accept
        self._lose = lose
        self._spawn = spawn
        self.holes = 0
        """Holes that showed in what arrived."""
        self.filled = 0
        """Publications read from streams to fill them."""

    def begin(self, local: LocalRoom, top: Position) -> None:
        """Begin, or begin again, at a position. What was held and comes after it is accepted."""
        local.epoch, local.offset = top.epoch, top.offset
        self._resume_or_prove(local)

    def take(self, local: LocalRoom, publication: Publication) -> None:
        """Accept the next publication, drop a double, or keep what has to wait until the room is in_sync."""
        if not local.in_sync:
            if len(local.held) < HELD_MAX:
                local.held.append(publication)
        elif publication.offset == 0 or not local.options.recover:
            self._accept(local, publication)
        elif publication.epoch == local.epoch and publication.offset == local.offset + 1:
            local.offset = publication.offset
            self._accept(local, publication)
        elif publication.epoch != local.epoch or publication.offset > local.offset:
            self.holes += 1
            logger.info("= room %s: %d follows %d", local.name, publication.offset, local.offset)
            local.in_sync = False
            local.held.append(publication)
            self._spawn(self._prove(local))

    def doubt(self, rooms: Iterable[LocalRoom]) -> list[LocalRoom]:
        """Hold what arrives for these rooms until they are verified. Return those that can be."""
        doubtful = [local for local in rooms if local.options.recover]
        for local in doubtful:
            local.in_sync = False
        return doubtful

    async def verify(self, rooms: Iterable[LocalRoom]) -> None:
        """Compare positions with the broker's, and prove every room that is behind or out_of_sync."""
        positioned = [local for local in rooms if local.options.recover and local.opened]
        for start in range(0, len(positioned), VERIFY_BATCH):
            batch = positioned[start : start + VERIFY_BATCH]
            try:
                tops = await self._broker.positions([local.name for local in batch])
            except BrokerUnavailable:
                return  # the hub comes back to it when the link is back, or in its next round
            for local in batch:
                if tops.get(local.name) == local.position:
                    self._resume_or_prove(local)
                elif not _is_ahead(local, tops.get(local.name)):
                    local.in_sync = False
                    await self._prove(local)

    async def _prove(self, local: LocalRoom) -> None:
        """Read what is missing and accept it in order; where that cannot be done, it is lost."""
        async with local.lock:
            while not local.in_sync and local.opened and not local.is_empty:
                since, retention, held, early = local.position, local.options.retention, local.held, len(local.held)
                try:
                    page = await self._broker.history(
                        local.name, retention=retention, since=since, limit=retention.size, begin=True
                    )
                except BrokerUnavailable:
                    return  # as in `verify`
                if local.position != since or local.held is not held:
                    # It went on meanwhile, by a comparison that had begun before. Read again, from where it is now.
                    local.in_sync = False
                    continue
                missed = replay(since, page)
                # What arrived before the page was read is in the page. If it is not, the stream went back in time.
                went_back = any(each.epoch == page.top.epoch and each.offset > page.top.offset for each in held[:early])
                del held[:early]
                if went_back or not missed.recovered:
                    self._lose(local, page.top)
                    return
                for publication in missed.publications:
                    local.offset = publication.offset
                    self._accept(local, publication)
                self.filled += len(missed.publications)
                self._resume(local)

    def _resume_or_prove(self, local: LocalRoom) -> None:
        self._resume(local)
        if not local.in_sync:
            self._spawn(self._prove(local))

    def _resume(self, local: LocalRoom) -> None:
        """Go on with a room that is whole up to its position. What was held comes next, and may show a new hole."""
        local.in_sync = True
        held, local.held = local.held, []
        for index, publication in enumerate(held):
            if publication.epoch == local.epoch and publication.offset <= local.offset:
                continue
            if publication.epoch != local.epoch or publication.offset != local.offset + 1:
                local.in_sync = False
                local.held = held[index:]
                return
            self.take(local, publication)


def _is_ahead(local: LocalRoom, top: Position | None) -> bool:
    """Say whether a in_sync room took more, while its top was on the way, than that top counts."""
    return local.in_sync and top is not None and top.epoch == local.epoch and top.offset <= local.offset
