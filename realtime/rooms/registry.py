"""
`RoomRegistry`: the rooms that have members or pending subscriptions on this worker.

Runs in the worker, as a part of the hub. A room is made when its first subscriber enters, and forgotten when it is
closed at the broker and empty. It never decides when that is: the machine says that a room is empty, and the hub has it
closed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from realtime.broker.base import Broker, Room
from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.rooms.delivery import LocalRoom
from realtime.rooms.fanout import Difference, Subscriber, total
from realtime.rooms.options import Declarations, RoomOptions

logger = logging.getLogger("realtime.hub")


class RoomRegistry:
    """
    The rooms of one worker.

    Attributes:
        rooms: by name. Others read it; only this class changes it.
    """

    __slots__ = ("_broker", "_declarations", "_difference", "_digest_s", "_filled", "_large", "rooms")

    def __init__(
        self,
        broker: Broker,
        declarations: Declarations,
        difference: Difference | None,
        *,
        large: int,
        digest_s: float,
    ) -> None:
        """
        Args:
            broker: of all workers.
            declarations: how rooms are kept.
            difference: makes deltas, for the rooms that have them.
            large: above so many members a room's joins and leaves are deferred.
            digest_s: for so many seconds.
        """
        self._broker = broker
        self._declarations = declarations
        self._difference = difference
        self._large = large
        self._digest_s = digest_s
        self._filled = 0  # by rooms that are forgotten
        self.rooms: dict[Room, LocalRoom] = {}

    def obtain(self, room: Room, options: RoomOptions) -> LocalRoom:
        """
        Return a room, made now where it is not there. The caller must let a subscription `enter` it in this turn.

        Args:
            room: its name.
            options: for a room that is not declared; they may be those of one member only.
        """
        local = self.rooms.get(room)
        if local is None:
            kept = self._declarations.room_options(room) or options
            local = LocalRoom(room, kept, self._difference, large=self._large, digest_s=self._digest_s)
            self.rooms[room] = local
        assert local.name == room, "a room is found under its own name"
        return local

    async def close_if_empty(self, local: LocalRoom) -> None:
        """Unsubscribe a room at the broker and forget it, unless a subscription entered meanwhile."""
        async with local.lock:
            machine = local.machine
            if not machine.is_empty or self.rooms.get(local.name) is not local:
                return
            machine.closed()
            try:
                await self._broker.unsubscribe(local.name)
            except BrokerUnavailable:
                log(logger, logging.DEBUG, "= room closed", room=local.name, reason="the broker is unreachable")
            finally:
                machine.closed()  # what arrived meanwhile is of no use to a subscription that reads the stream anew
                if machine.is_empty:
                    assert not local.fanout.size, "the machine counts the members of the fan-out"
                    self._filled += machine.filled
                    del self.rooms[local.name]

    def sizes(self) -> dict[Room, int]:
        """Return how many members each room has on this worker."""
        return {room: local.fanout.size for room, local in self.rooms.items() if local.fanout.size}

    def members(self, room: Room) -> Sequence[Subscriber]:
        """Return the members that a room has on this worker. They may change afterwards."""
        local = self.rooms.get(room)
        return () if local is None else list(local.fanout)

    def statistics(self) -> dict[str, Any]:
        """Count rooms, members, rooms out of sync, and publications that were read from streams to fill gaps."""
        machines = [local.machine for local in self.rooms.values()]
        return {
            "rooms": len(machines),
            "memberships": total(local.fanout for local in self.rooms.values()),
            "out_of_sync": sum(each.recovers and not each.is_in_sync for each in machines),
            "filled": self._filled + sum(each.filled for each in machines),
        }
