"""
Who is present, as this worker keeps it at the broker.

Runs in the worker. The broker holds the members of every room with the worker that owns them; this file adds and
removes this worker's own. A removal that the broker could not take now is owed, and paid when the link is back: else a
client that left during an outage would be seen for as long as its worker lives. It never decides who may see whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from realtime.broker.base import Broker, ClientInfo, ConnectionId, MemberCounts, Room
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable


class Presence:
    """The members that this worker owns."""

    __slots__ = ("_broker", "_owed", "_paying")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._owed: dict[tuple[Room, ConnectionId], tuple[bool, bool]] = {}  # announced; only where it is ours
        self._paying: dict[tuple[Room, ConnectionId], asyncio.Event] = {}  # removals on their way to the broker

    async def add(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """
        Make a client present, as `Broker.add_member` does.

        Raises:
            BrokerUnavailable: it is not present, and the caller owes nothing.
        """
        client = ConnectionId(info.connection_id)
        await self.pay(room, client)  # who left a moment ago and comes again must not be removed after it came
        try:
            await self._broker.add_member(room, info, announce=announce, quietly=quietly, lasting=lasting)
        except (BrokerAway, BrokerFull):
            raise  # it has not happened: while the broker is away, nothing is owed for those who come in vain
        except BaseException:
            self.owe(room, client, announce=announce)  # it may have happened all the same
            raise

    def owe(self, room: Room, client: ConnectionId, *, announce: bool, mine: bool = False) -> None:
        """
        Note that a client is to be made absent; with `mine` only where this worker has it still. The caller sees to it
        that `pay` follows.
        """
        self._owed[room, client] = (announce, mine)

    async def pay(self, room: Room, client: ConnectionId) -> bool:
        """
        Make a client absent, if that is owed: now, or as soon as the broker is back. Return whether it was found that
        nobody had to be, for somebody else has seen to it, or has the client now.
        """
        key = room, client
        while (underway := self._paying.get(key)) is not None:  # two removals, and the later could meet who came again
            await underway.wait()
        owed = self._owed.get(key)
        if owed is None:
            return False
        announce, mine = owed
        underway = self._paying[key] = asyncio.Event()
        try:
            left = await self._broker.remove_member(room, client, announce=announce, mine=mine)
            self._owed.pop(key, None)
            return left is None
        except BrokerUnavailable:
            return False
        finally:
            del self._paying[key]
            underway.set()

    async def pay_all(self) -> None:
        """Remove everybody whose removal is owed. What cannot be removed now stays owed."""
        for room, client in list(self._owed):
            await self.pay(room, client)

    async def members(self, room: Room) -> Mapping[ConnectionId, ClientInfo]:
        """Return everybody in a room, on all workers."""
        return await self._broker.members(room)

    async def counts(self, room: Room) -> MemberCounts:
        """Count everybody in a room, on all workers."""
        return await self._broker.member_counts(room)

    @property
    def owed(self) -> int:
        """How many removals wait for the broker."""
        return len(self._owed)
