"""
`HubClient`: a member of a hub's rooms that writes down what it gets; no protocol, no socket.

It is a `fanout.Subscriber` whose encoder writes each publication as itself. `ledger` is what a client would have shown
its user: what it missed, by the answer to its entering, and what came live. It does what a good client does and no
more: it keeps its position, and comes back with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from realtime.broker.base import Broker, ClientInfo, Position, PublishRequest, RawPublication, Room
from realtime.rooms.fanout import Change
from realtime.rooms.hub import Hub
from realtime.rooms.options import RoomOptions
from realtime.rooms.pending import Joined, PendingSubscription

ROOM = Room("room")
KEPT = RoomOptions(history=100, history_ttl_s=600.0)
NOT_KEPT = RoomOptions()
PRESENT = RoomOptions(presence=True, join_leave=True)


class _Alike:
    """Declares every room alike."""

    def __init__(self, options: RoomOptions) -> None:
        self._options = options

    def room_options(self, room: Room) -> RoomOptions | None:
        return self._options

    def room_patterns(self) -> list[str]:
        return ["{*}"]


@contextlib.asynccontextmanager
async def hub_of(broker: Broker, options: RoomOptions = KEPT, **arguments: Any) -> AsyncIterator[Hub]:
    """Have a hub for a while, in which every room is kept alike. It compares positions only when it has reason to."""
    hub = Hub(broker, _Alike(options), **{"compare_s": 3600.0, **arguments})
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()


def say(hub: Hub, data: bytes, room: Room = ROOM, options: RoomOptions = KEPT, **more: Any) -> Any:
    """Return the coroutine of a publication into a room of a hub."""
    return hub.broker.publish(PublishRequest(room, data, more.pop("retention", options.retention), **more))


class _Events:
    """An encoder that says each event as one line."""

    is_delta = False

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        return b"%d:%b\n" % (publication.offset, publication.data)

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        raise AssertionError("nobody asked for one")

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        return b"".join(
            b"%b:%b\n" % (b"+" if joined else b"-", info.connection_id.encode()) for joined, info in changes
        )


ENCODER = _Events()


class HubClient:
    """One member. `offsets` are those of its publications, `events` everything as text, `put_out` where it was lost."""

    def __init__(self, hub: Hub, name: str = "c", options: RoomOptions = KEPT) -> None:
        self.hub = hub
        self.connection_id = name
        self.info = ClientInfo(f"user {name}", name)
        self.options = options
        self.encoder = ENCODER
        self.transport = self
        self.events: list[str] = []
        self.offsets: list[int] = []
        self.position: Position | None = None
        self.put_out: list[Room] = []
        self.congested_since: float | None = None

    # As the hub sees it

    def is_congested_since(self) -> float | None:
        return self.congested_since

    def write(self, data: bytes) -> None:
        for line in data.decode().splitlines():
            self.events.append(line)
            kind = line.partition(":")[0]
            if kind.isdigit() and int(kind):
                self._take(int(kind))

    def insufficient(self, room: Room) -> None:
        self.put_out.append(room)

    def _take(self, offset: int) -> None:
        self.offsets.append(offset)
        if self.position is not None:
            self.position = Position(self.position.epoch, offset)

    # As a test moves it

    async def ask(self, room: Room = ROOM, *, watches: bool = True) -> PendingSubscription:
        """Go to the door, with the position that it has."""
        return await self.hub.enter(
            room, self, self.options, info=self.info, since=self.position, watches=watches and self.options.join_leave
        )

    def activate(self, entry: PendingSubscription) -> Joined:
        """Be told, and be a member from here on."""
        joined = entry.commit()
        if joined.position is not None:
            if not joined.recovered:
                self.position = joined.position
            else:
                self.position = Position(joined.position.epoch, self.position.offset if self.position else 0)
            for publication in joined.publications:
                self._take(publication.offset)
        self.hub.activate(entry)
        return joined

    async def enter(self, room: Room = ROOM) -> Joined:
        return self.activate(await self.ask(room))

    def leave(self, room: Room = ROOM) -> bool:
        return self.hub.leave(room, self, info=self.info if self.options.presence else None)
