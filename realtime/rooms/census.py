"""
The members of a room at one moment, for all requests: the broker is asked once, and each encoding is made once.

Runs in the worker. For each room one question is on its way to the broker, however many requests there are. A request
that comes meanwhile shares the answer to the next question, which is sent after the request came: so no answer is older
than its request. The answer of a large room is good for `FRESH_S`: it costs milliseconds, and no one reads thousands of
names twice a second. Nothing here knows which joins and leaves were sent; presence_view.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, Room

LARGE: Final = 200  # members; above it a room's answers are shared, and its joins and leaves are sent together
FRESH_S: Final = 1.0


class Census:
    """The members of a room at one moment. `encoded` holds what encoders made of them, by the encoder's name."""

    __slots__ = ("_counts", "encoded", "members")

    def __init__(self, members: Mapping[ConnectionId, ClientInfo]) -> None:
        self.members = members
        self.encoded: dict[str, bytes] = {}
        self._counts: MemberCounts | None = None

    @property
    def counts(self) -> MemberCounts:
        """How many connections and users these are; counted once."""
        if self._counts is None:
            self._counts = MemberCounts(len(self.members), len({info.user for info in self.members.values()}))
        return self._counts


class MemberSource(Protocol):
    """The two questions that a `Broker` answers here. Both raise `BrokerUnavailable`."""

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]: ...

    async def member_counts(self, room: Room) -> MemberCounts: ...


class Censuses:
    """The questions of one worker, each shared by all requests that may have its answer."""

    def __init__(self, source: MemberSource, *, large: int = LARGE, fresh_s: float = FRESH_S) -> None:
        """
        Args:
            source: the broker.
            large: above so many members an answer is kept for a while.
            fresh_s: for so many seconds.
        """
        self._source = source
        self._large = large
        self._fresh_s = fresh_s
        self._fresh: dict[Room, Census] = {}  # each goes when its time is over
        self._counts: dict[Room, MemberCounts] = {}  # likewise
        self._underway: dict[Room, asyncio.Future[None]] = {}
        self._next: dict[Room, asyncio.Future[Census | None]] = {}

    async def take(self, room: Room, *, anew: bool = False) -> Census:
        """
        Return the members of a room. With `anew`, the answer is one to a question that is sent after this call.

        Raises:
            BrokerUnavailable: the members are not known now.
        """
        while True:
            if not anew and (fresh := self._fresh.get(room)) is not None:
                return fresh
            if room not in self._underway:
                return await self._request(room)
            shared = self._next.get(room)
            if shared is None:
                return await self._request_next(room)
            await asyncio.wait([shared])
            census = shared.result()
            if census is not None:
                return census

    async def _request(self, room: Room) -> Census:
        """Send one question. Requests that come while it is on its way do not share its answer: it may be older."""
        assert room not in self._underway, "one question for each room at a time"
        loop = asyncio.get_running_loop()
        underway = self._underway[room] = loop.create_future()
        try:
            census = Census(await self._source.members(room))
        finally:
            del self._underway[room]
            underway.set_result(None)
        if len(census.members) > self._large:
            self._fresh[room] = census
            loop.call_later(self._fresh_s, self._fresh.pop, room, None)
        return census

    async def _request_next(self, room: Room) -> Census:
        """Send the next question when the one under way is answered, for all requests that come until then."""
        shared: asyncio.Future[Census | None] = asyncio.get_running_loop().create_future()
        self._next[room] = shared
        census = None
        try:
            while (underway := self._underway.get(room)) is not None:
                await asyncio.wait([underway])
            del self._next[room]  # a request that comes from now on may know more than the answer
            assert room not in self._underway, "it was awaited, and nothing was awaited since"
            census = await self._request(room)
            return census
        finally:
            if self._next.get(room) is shared:
                del self._next[room]
            shared.set_result(census)  # None: it failed or was cancelled; the others send their own question

    async def counts(self, room: Room) -> MemberCounts:
        """
        Count the members of a room.

        Raises:
            BrokerUnavailable: the members are not known now.
        """
        if (fresh := self._fresh.get(room)) is not None:
            return fresh.counts
        if (kept := self._counts.get(room)) is not None:
            return kept
        counts = await self._source.member_counts(room)
        if counts.clients > self._large:
            self._counts[room] = counts
            asyncio.get_running_loop().call_later(self._fresh_s, self._counts.pop, room, None)
        return counts
