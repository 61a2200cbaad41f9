"""
The presence of this worker's own members, as the broker keeps it.

Runs in the worker. The broker holds the members of every room with the worker that owns them; this file adds and
removes this worker's own. A removal that the broker cannot do now is *postponed* until the link is back: else a client
that left during an outage would be seen for as long as its worker lives. It never decides which client may see a
member.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from realtime.broker.base import Broker, ClientInfo, ConnectionId, Room
from realtime.errors import BrokerAway, BrokerFull, BrokerUnavailable


class Removal(NamedTuple):
    """How a member is to be removed: with a leave; only where this worker still owns it."""

    announce: bool
    mine: bool


class Presence:
    """The members that this worker owns."""

    __slots__ = ("_broker", "_postponed", "_underway")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._postponed: dict[tuple[Room, ConnectionId], Removal] = {}
        self._underway: dict[tuple[Room, ConnectionId], asyncio.Event] = {}  # removals on their way to the broker

    async def add(
        self, room: Room, info: ClientInfo, *, announce: bool, quietly: bool = False, lasting: bool = False
    ) -> None:
        """
        Make a client present, as `Broker.add_member` does.

        Raises:
            BrokerUnavailable: the client is not present, and nothing is postponed that the caller would have to undo.
        """
        connection_id = ConnectionId(info.connection_id)
        await self.flush(room, connection_id)  # else the removal of a moment ago could meet the member that came again
        try:
            await self._broker.add_member(room, info, announce=announce, quietly=quietly, lasting=lasting)
        except (BrokerAway, BrokerFull):
            raise  # it has not happened: clients that come in vain during an outage leave nothing postponed
        except BaseException:
            self.schedule_removal(room, connection_id, announce=announce)  # it may have happened all the same
            raise

    def schedule_removal(self, room: Room, connection_id: ConnectionId, *, announce: bool, mine: bool = False) -> None:
        """
        Note that a client is to be made absent; with `mine` only where this worker still owns it. The caller must call
        `flush`.
        """
        self._postponed[room, connection_id] = Removal(announce, mine)

    async def flush(self, room: Room, connection_id: ConnectionId) -> bool:
        """
        Make a client absent, if that is postponed: now, or as soon as the broker is back. Return True where the member
        was not there any more: another worker has removed it, or owns it now.
        """
        key = room, connection_id
        while (underway := self._underway.get(key)) is not None:  # the later of two removals could meet a new member
            await underway.wait()
        assert key not in self._underway, "one removal of a member at a time: the later could meet a new member"
        removal = self._postponed.get(key)
        if removal is None:
            return False
        underway = self._underway[key] = asyncio.Event()
        try:
            left = await self._broker.remove_member(room, connection_id, announce=removal.announce, mine=removal.mine)
            self._postponed.pop(key, None)
            return left is None
        except BrokerUnavailable:
            return False
        finally:
            del self._underway[key]
            underway.set()

    async def flush_all(self) -> None:
        """Do every removal that is postponed. What cannot be done now stays postponed."""
        for room, connection_id in list(self._postponed):
            await self.flush(room, connection_id)

    @property
    def postponed(self) -> int:
        """How many removals wait for the broker."""
        return len(self._postponed)
