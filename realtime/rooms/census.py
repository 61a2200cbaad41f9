"""
Who is in a room, at one moment, for all who ask: the broker is asked once, and each encoding is made once.

Runs in the worker. Of each room one question is on its way to the broker, however many ask: who comes meanwhile shares
the answer to the next one, which is asked after they came, so that nobody is told what was so before it asked. The
answer of a large room is good for `FRESH_S`: it costs milliseconds, and nobody looks through thousands of members twice
a second. Nothing here knows who is told of joins and leaves; presence_view.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, Room

LARGE: Final = 200  # members; above it a room's answers are shared, and its joins and leaves told together
FRESH_S: Final = 1.0


class Census:
    """The members of a room at one moment. `said` holds what encodings made of them, by their names."""

    __slots__ = ("_counts", "members", "said")

    def __init__(self, members: Mapping[ConnectionId, ClientInfo]) -> None:
        self.members = members
        self.said: dict[str, bytes] = {}
        self._counts: MemberCounts | None = None

    @property
    def counts(self) -> MemberCounts:
        if self._counts is None:
            self._counts = MemberCounts(len(self.members), len({info.user for info in self.members.values()}))
        return self._counts


class Censuses:
    """The questions of one worker. `large` is the number of members above which an answer is kept for a while."""

    def __init__(
        self,
        members: Callable[[Room], Awaitable[Mapping[ConnectionId, ClientInfo]]],
        counts: Callable[[Room], Awaitable[MemberCounts]],
        *,
        large: int = LARGE,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._ask_members = members
        self._ask_counts = counts
        self._large = large
        self._fresh_s = fresh_s
        self._fresh: dict[Room, Census] = {}  # each goes when its time is over
        self._counts: dict[Room, MemberCounts] = {}  # likewise
        self._underway: dict[Room, asyncio.Future[None]] = {}
        self._next: dict[Room, asyncio.Future[Census | None]] = {}

    async def take(self, room: Room, *, anew: bool = False) -> Census:
        """
        Return who is there; `anew` takes no answer to a question that was asked before.

        Raises:
            BrokerUnavailable: as whatever is asked.
        """
        while True:
            if not anew and (fresh := self._fresh.get(room)) is not None:
                return fresh
            if room not in self._underway:
                return await self._ask(room)
            shared = self._next.get(room)
            if shared is None:
                return await self._ask_next(room)
            await asyncio.wait([shared])
            census = shared.result()
            if census is not None:
                return census

    async def _ask(self, room: Room) -> Census:
        loop = asyncio.get_running_loop()
        underway = self._underway[room] = loop.create_future()
        try:
            census = Census(await self._ask_members(room))
        finally:
            del self._underway[room]
            underway.set_result(None)
        if len(census.members) > self._large:
            self._fresh[room] = census
            loop.call_later(self._fresh_s, self._fresh.pop, room, None)
        return census

    async def _ask_next(self, room: Room) -> Census:
        """Ask when the question that is on its way is answered, for all who come until then."""
        shared: asyncio.Future[Census | None] = asyncio.get_running_loop().create_future()
        self._next[room] = shared
        census = None
        try:
            while (underway := self._underway.get(room)) is not None:
                await asyncio.wait([underway])
            del self._next[room]  # who comes from now on may know more than the answer
            census = await self._ask(room)
            return census
        finally:
            if self._next.get(room) is shared:
                del self._next[room]
            shared.set_result(census)  # None: it failed, or who asked has gone; the others ask themselves

    async def counts(self, room: Room) -> MemberCounts:
        """
        Count who is there.

        Raises:
            BrokerUnavailable: as whatever is asked.
        """
        if (fresh := self._fresh.get(room)) is not None:
            return fresh.counts
        if (kept := self._counts.get(room)) is not None:
            return kept
        counts = await self._ask_counts(room)
        if counts.clients > self._large:
            self._counts[room] = counts
            asyncio.get_running_loop().call_later(self._fresh_s, self._counts.pop, room, None)
        return counts
