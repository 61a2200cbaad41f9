"""
A broker that lies in a way that is chosen, for the tests of the checker: the one in memory, with a fault in it.

Each fault stands for a mistake that a server could have; none is in any other broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from realtime.broker.base import (
    BrokerListener,
    History,
    Position,
    Published,
    PublishRequest,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.memory import MemoryBroker

FAULTS = (
    "drop",  # one publication of 50 is not delivered, and the next takes its offset, so that no hole shows
    "swap",  # two neighbours change places, with their offsets
    "ack",  # one publication of 50 is acknowledged and never made
    "reuse",  # one publication of 50 takes the offset of the one before, and its place in the history
    "leak",  # one publication of 50 goes to the next room as well
    "double",  # one publication of 50 comes twice, under two offsets
    "off by one",  # who returns is given what comes one after what it missed
    "forget",  # who returns is told that it missed nothing
)
EACH = 50


class FaultyBroker(MemoryBroker):
    """`fault` is one of `FAULTS`, or none."""

    def __init__(self, fault: str | None, next_room: Callable[[Room], Room]) -> None:
        super().__init__(WorkerId("w"))
        self.fault = fault
        self._next_room = next_room
        self._made = 0
        self._told = 0
        self._shift: dict[Room, int] = {}
        self._held: tuple[Room, RawPublication] | None = None
        self._to: BrokerListener | None = None

    async def start(self, listener: BrokerListener) -> None:
        self._to = listener
        await super().start(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Pass on what this does not hear itself."""
        return getattr(self.__dict__["_to"], name)

    async def publish(self, request: PublishRequest) -> Published:
        room = request.room
        self._made += 1
        if self.fault == "ack" and self._made % EACH == 0:
            return Published(await self.position(room, retention=request.retention))
        if self.fault == "reuse" and self._made % EACH == 0:
            stream = self._state.streams.by_room[room]
            stream.offset -= 1
            stream.publications.pop()
        return await super().publish(request)

    def on_publication(self, room: Room, publication: RawPublication) -> None:
        assert self._to is not None
        self._told += 1
        is_turn = self._told % EACH == 0
        shift = self._shift.get(room, 0)
        publication = msgspec.structs.replace(publication, offset=publication.offset + shift)
        if self.fault == "drop" and is_turn:
            self._shift[room] = shift - 1
            return
        if self.fault == "swap" and is_turn and self._held is None:
            self._held = (room, publication)
            return
        if self.fault == "leak" and is_turn:
            self._to.on_publication(self._next_room(room), msgspec.structs.replace(publication, offset=0))
        if self._held is not None and self._held[0] == room:
            held, self._held = self._held[1], None
            self._to.on_publication(room, msgspec.structs.replace(publication, offset=held.offset))
            publication = msgspec.structs.replace(held, offset=publication.offset)
        self._to.on_publication(room, publication)
        if self.fault == "double" and is_turn:
            self._shift[room] = shift + 1
            self._to.on_publication(room, msgspec.structs.replace(publication, offset=publication.offset + 1))

    async def positions(self, rooms: Sequence[Room]) -> Mapping[Room, Position]:
        found = await super().positions(rooms)
        return {room: Position(top.epoch, top.offset + self._shift.get(room, 0)) for room, top in found.items()}

    async def history(
        self,
        room: Room,
        *,
        retention: Retention,
        since: Position | None = None,
        limit: int = 0,
        reverse: bool = False,
        create: bool = False,
    ) -> History:
        page = await super().history(
            room, retention=retention, since=since, limit=limit, reverse=reverse, create=create
        )
        if since is not None and self.fault == "forget":
            return History((), Position(page.top.epoch, since.offset))
        if since is not None and self.fault == "off by one" and page.publications:
            after = await super().history(
                room, retention=retention, since=Position(since.epoch, since.offset - 1), limit=limit, reverse=reverse
            )
            shifted = [msgspec.structs.replace(each, offset=each.offset + 1) for each in after.publications[:-1]]
            return History(shifted, page.top)
        return page
