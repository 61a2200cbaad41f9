"""
Private rooms: in these, workers send to each other. They have no members, no options and no history of their own.

Runs in the worker, as a part of the hub, which brings here what arrives for a room without members. It never reads what
it passes on. Names of private rooms begin with a zero byte, so no client can enter one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from realtime.broker.base import PRIVATE, Broker, RawPublication, Room
from realtime.log_lines import log

logger = logging.getLogger("realtime.hub")


class PrivateRooms:
    """
    The private rooms that this worker receives.

    Attributes:
        unrouted: publications that arrived for a room that is neither private nor has a member here.
    """

    __slots__ = ("_broker", "_receivers", "unrouted")

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._receivers: dict[Room, Callable[[bytes], None]] = {}
        self.unrouted = 0

    async def listen(self, room: Room, receive: Callable[[bytes], None]) -> None:
        """
        Subscribe a private room. `receive` gets each payload; those of one sender in order.

        Raises:
            BrokerUnavailable: the room is not subscribed.
        """
        assert room.startswith(PRIVATE), f"{room!r} could be entered by a client"
        assert room not in self._receivers, f"{room!r} has one receiver"
        self._receivers[room] = receive  # before the subscription: what arrives in between has a receiver
        await self._broker.subscribe(room)

    def receive(self, room: Room, publication: RawPublication) -> None:
        """Pass on what arrived. A receiver that fails ends nothing else."""
        receive = self._receivers.get(room)
        if receive is None:
            self.unrouted += 1
            return
        try:
            receive(publication.data)
        except Exception:  # noqa: BLE001 - logged with its traceback
            log(logger, logging.ERROR, "message of a worker failed", exc_info=True)
