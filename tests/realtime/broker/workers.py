"""
Workers for the brokers' tests: a broker of the kind under test, with a listener that records its events.

Waiting is for a state, never for a time. `Heard.until` checks again after each event, `eventually` polls. Both end with
the deadline of the test (tests/support/aio.py), which only a hang reaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from realtime.broker.base import (
    Broker,
    ClientInfo,
    Departed,
    Position,
    PublishRequest,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.factory import make_broker

KEPT = Retention(size=100, ttl_s=600.0)
NOT_KEPT = Retention(size=0)


@dataclass
class Heard:
    """A listener. `events` holds everything in the order in which it was told."""

    events: list[tuple[str, object]] = field(default_factory=list)
    publications: dict[Room, list[RawPublication]] = field(default_factory=dict)
    departed: list[Departed] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def _add(self, kind: str, what: object) -> None:
        self.events.append((kind, what))
        self._news.set()

    def on_publication(self, room: Room, publication: RawPublication) -> None:
        self.publications.setdefault(room, []).append(publication)
        self._add("publication", (room, publication))

    def on_join(self, room: Room, info: ClientInfo) -> None:
        self._add("join", (room, info))

    def on_leave(self, room: Room, info: ClientInfo) -> None:
        self._add("leave", (room, info))

    def on_departed(self, departed: Sequence[Departed]) -> None:
        self.departed += departed
        self._add("departed", tuple(departed))

    def on_link_lost(self) -> None:
        self._add("link lost", None)

    def on_link_restored(self) -> None:
        self._add("link restored", None)

    def on_gap(self, rooms: Sequence[Room]) -> None:
        self._add("gap", tuple(rooms))

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until it is so."""
        while not is_so():
            self._news.clear()
            await self._news.wait()

    async def count(self, room: Room, count: int) -> list[RawPublication]:
        """Wait for so many publications of a room, and return all that came."""
        await self.until(lambda: len(self.publications.get(room, ())) >= count)
        return self.publications.get(room, [])

    def how_often(self, kind: str) -> int:
        return sum(each == kind for each, _ in self.events)

    def told(self, *kinds: str) -> list[tuple[str, object]]:
        """Return the events of some kinds, in order."""
        return [event for event in self.events if event[0] in kinds]


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the broker sees it."""

    id: WorkerId
    broker: Broker
    heard: Heard

    async def publish(self, room: Room, *data: bytes, retention: Retention = KEPT) -> list[Position]:
        """Publish one after another, and return where each stands."""
        return [(await self.broker.publish(PublishRequest(room, each, retention=retention))).position for each in data]


@dataclass(frozen=True, slots=True)
class Place:
    """A broker that workers share: its URL, and names that no other test uses."""

    kind: str
    url: str
    own: str = field(default_factory=lambda: secrets.token_hex(4))

    def room(self, name: str = "room") -> Room:
        return Room(f"{self.own}:{name}")

    def make(self, name: str) -> Worker:
        """Return a worker whose broker was not started. The same name is the same worker."""
        worker = WorkerId(f"{self.own}-{name}")
        return Worker(worker, make_broker(self.url, worker_id=worker, prefix=self.own), Heard())

    @contextlib.asynccontextmanager
    async def worker(self, name: str = "a") -> AsyncIterator[Worker]:
        """Have a worker for a while."""
        worker = self.make(name)
        await worker.broker.start(worker.heard)
        try:
            yield worker
        finally:
            await worker.broker.close()


async def flushed(worker: Worker, *rooms: Room) -> None:
    """
    Wait until everything told about these rooms up to now was heard: a publication is sent behind it, and taken off the
    list again. The rooms must be subscribed.
    """
    for room in rooms:
        marker = secrets.token_hex(8).encode()
        await worker.broker.publish(PublishRequest(room, marker, retention=NOT_KEPT))
        heard = worker.heard.publications.setdefault(room, [])
        await worker.heard.until(lambda heard=heard, marker=marker: heard and heard[-1].data == marker)
        heard.pop()
        worker.heard.events = [
            (kind, what) for kind, what in worker.heard.events if kind != "publication" or what[1].data != marker
        ]
