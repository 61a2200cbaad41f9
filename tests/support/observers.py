"""
Clients that write down what they see, for the checker.

A `Publisher` says something new again and again; a `Watcher` follows one room as an SDK does: it keeps its position,
and comes back with it. Both subscribe again when they are told to. A `Host` keeps a list of who is in a room, by
what it is told; a `Guest` comes and goes there. All go on whatever happens to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

from tests.support.checker import Event, Kind
from tests.support.client import ProtocolClient, Refused

PAUSE_S = 0.01  # between two publications
AGAIN_S = 0.05  # after an error

Join = Callable[[], Awaitable[ProtocolClient]]
_numbers = count()


class Publisher:
    """Publishes into each of its rooms in turn, until it is stopped."""

    def __init__(self, name: str, rooms: Sequence[str], join: Join, events: list[Event]) -> None:
        self.name, self.rooms, self.join, self.events = name, rooms, join, events
        self.acks = 0
        self.errors: list[Refused] = []
        self.client: ProtocolClient
        self._put_out: set[str] = set()  # rooms to which it has to come back
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        self.client = await self.join()
        for room in self.rooms:
            await self.client.ask("subscribe", channel=room)

    def start(self) -> None:
        self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while True:
            for room in self.rooms:
                await self.publish(room)
                await asyncio.sleep(PAUSE_S)

    async def publish(self, room: str) -> str | None:
        """Publish once. Return what, if it was acknowledged."""
        if not await self._is_in(room):
            return None
        value = f"{self.name}-{next(_numbers)}"
        self.events.append(Event(Kind.INVOKE, self.name, room, value))
        try:
            await self.client.ask("publish", channel=room, data=value)
        except Refused as error:
            self.events.append(Event(Kind.ERROR, self.name, room, value))
            self.errors.append(error)
            await asyncio.sleep(AGAIN_S)
            return None
        self.events.append(Event(Kind.ACK, self.name, room, value))
        async with self._changed:
            self.acks += 1
            self._changed.notify_all()
        return value

    async def _is_in(self, room: str) -> bool:
        """Come back to the room where it was told to. Return whether it is in."""
        while not self.client.pushes.empty():
            push = self.client.pushes.get_nowait()
            if "unsubscribe" in push:
                self._put_out.add(push["channel"])
        if room in self._put_out:
            try:
                await self.client.ask("subscribe", channel=room)
            except Refused as error:
                self.errors.append(error)
                await asyncio.sleep(AGAIN_S)
                return False
            self._put_out.discard(room)
        return True

    async def wait_for_acks(self, more: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.acks + more
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: self.acks >= wanted), 60)

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def last(self, room: str) -> str:
        """Publish until one is acknowledged, and return it."""
        while (value := await self.publish(room)) is None:
            pass
        return value


class Watcher:
    """Follows one room."""

    def __init__(self, name: str, room: str, join: Join, events: list[Event]) -> None:
        self.name, self.room, self.join, self.events = name, room, join, events
        self.position = ("", 0)
        self.resumed: list[bool] = []  # whether each coming back was a recovery
        self.client: ProtocolClient
        self._seen: set[str] = set()
        self._grown = asyncio.Event()
        self._task: asyncio.Task[None]

    def tell(self, kind: Kind, **fields: Any) -> None:
        self.events.append(Event(kind, self.name, self.room, **fields))

    async def enter(self) -> None:
        self.client = await self.join()
        told = await self.client.ask("subscribe", channel=self.room)
        self.position = (told["epoch"], told.get("offset", 0))
        self.tell(Kind.ENTER)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            push = await self.client.pushes.get()
            if "pub" in push:
                self._take(push["pub"])
            elif "unsubscribe" in push:
                self.tell(Kind.AWAY)
                await self._subscribe_again()

    def _take(self, pub: dict[str, Any]) -> None:
        offset = pub.get("offset", 0)
        self.position = (self.position[0], offset or self.position[1])
        self.tell(Kind.RECEIVE, value=pub["data"], offset=offset, epoch=self.position[0])
        self._seen.add(pub["data"])
        self._grown.set()

    async def _subscribe_again(self) -> None:
        epoch, offset = self.position
        while True:
            try:
                told = await self.client.ask("subscribe", channel=self.room, recover=True, epoch=epoch, offset=offset)
                break
            except Refused as error:
                if error.code != 100:
                    raise
                await asyncio.sleep(AGAIN_S)
        self.resumed.append(told.get("recovered", False))
        self.tell(Kind.RESUME, recovered=self.resumed[-1])
        self.position = (told["epoch"], told.get("offset", 0))
        for pub in told.get("publications", []):
            self._take(pub)

    async def go_away(self) -> None:
        await self._stop_reading()
        await self.client.close()
        self.tell(Kind.AWAY)

    async def be_cut(self) -> None:
        """Lose the connection without a word, and what had come over it and was not looked at."""
        await self._stop_reading()
        self.client.abort()
        await self.client.wait_closed()
        self.tell(Kind.AWAY)

    async def _stop_reading(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def come_back(self) -> None:
        self.client = await self.join()
        await self._subscribe_again()
        self._task = asyncio.create_task(self._read())

    async def end(self, last: str, patience_s: float) -> bool:
        """Read on until the last one is there. Return whether it came."""
        came = True
        try:
            async with asyncio.timeout(patience_s):
                while last not in self._seen:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            came = False
        self.tell(Kind.END)
        await self._stop_reading()
        return came


class Host:
    """Stays in a room, asks once who is there, and from then on is told of joins and leaves."""

    def __init__(self, room: str, join: Join) -> None:
        self.room, self.join = room, join
        self.client: ProtocolClient
        self._known: set[str] = set()

    async def enter(self) -> None:
        self.client = await self.join()
        await self.client.ask("subscribe", channel=self.room)
        self._known = await self.present()

    async def present(self) -> set[str]:
        """Ask who is there."""
        return set((await self.client.ask("presence", channel=self.room))["presence"])

    @property
    def known(self) -> set[str]:
        """Whom it takes to be there."""
        while not self.client.pushes.empty():
            push = self.client.pushes.get_nowait()
            if "join" in push:
                self._known.add(push["join"]["info"]["client"])
            elif "leave" in push:
                self._known.discard(push["leave"]["info"]["client"])
            else:
                raise AssertionError(f"a host is put out: {push}")
        return self._known


class Guest:
    """Comes into a room and goes again, each time as another client, until it is stopped."""

    def __init__(self, room: str, join: Join) -> None:
        self.room, self.join = room, join
        self.visits = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while True:
            client = await self.join()
            try:
                await client.ask("subscribe", channel=self.room)
                self.visits += 1
                await asyncio.sleep(AGAIN_S * 4)
            except Refused as error:
                if error.code != 100:
                    raise
            finally:
                client.abort()
                await client.wait_closed()
            await asyncio.sleep(AGAIN_S)

    async def stop(self) -> None:
        """End, in the room or out of it."""
        assert self._task is not None
        self._task.cancel()
        [ended] = await asyncio.gather(self._task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
