"""
`Mailbox`: sends bytes to one worker of any machine, or to all, and receives those for this worker.

Runs in the worker. A mailbox is a private room at the broker: one for each worker, and one for all. Messages of one
sender arrive in order. It never reads what it carries, and keeps nothing: what is sent to a worker that is gone, or
while a link is down, is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from realtime.broker.base import NOT_KEPT, PRIVATE, Published, PublishRequest, Room, WorkerId


class MailBroker(Protocol):
    """What a mailbox needs of a `Broker`."""

    async def publish(self, request: PublishRequest) -> Published: ...


class MailRooms(Protocol):
    """Brings what is published in a private room: `rooms.private_rooms.PrivateRooms`."""

    async def listen(self, room: Room, receive: Callable[[bytes], None]) -> None: ...


class Mailbox:
    """The mailbox of one worker."""

    __slots__ = ("_broker", "_rooms", "_worker")

    def __init__(self, broker: MailBroker, rooms: MailRooms, worker: WorkerId) -> None:
        self._broker = broker
        self._rooms = rooms
        self._worker = worker

    async def open(self, receive: Callable[[bytes], None]) -> None:
        """
        Receive from now on, each message by a call.

        Raises:
            BrokerUnavailable: nothing is received.
        """
        for to in (None, self._worker):
            await self._rooms.listen(_room_of(to), receive)

    async def send(self, to: WorkerId | None, message: bytes) -> None:
        """
        Send a message to one worker, or with None to all, this one included.

        Raises:
            BrokerUnavailable: it may or may not have gone out.
        """
        await self._broker.publish(PublishRequest(_room_of(to), message, NOT_KEPT))


def _room_of(worker: WorkerId | None) -> Room:
    """Return the private room of a worker, or of all; no worker's id is `*`."""
    assert worker != "*", "it would receive what is meant for one worker, as all others do"
    return Room(f"{PRIVATE}{worker or '*'}")
