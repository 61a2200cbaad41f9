"""
`LaggingBroker`: the broker in memory, of which a test decides when it answers, what gets lost, and when it is away.

It stands at the seam that `broker/base.py` describes. What it keeps and in which order is the memory broker's business;
this only holds answers back, so that a test can have something happen at the one moment that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from realtime.broker.base import BrokerListener, Published, PublishRequest, Retention, Room, WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.errors import BrokerUnavailable

HELD = (
    "subscribe", "unsubscribe", "publish", "position", "positions", "history", "forget_history", "add_member",
    "remove_member", "members", "member_counts", "reap",
)  # fmt: skip


class Gate:
    """Stops every call of one kind. `reached` is set when the first has come."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()


class LaggingBroker(MemoryBroker):
    """
    The memory broker, but for its punctuality.

    Attributes:
        away: every call fails.
        calls: the names of the calls so far.
        lag: how many turns of the loop a call waits before it does something, and again with its answer.
    """

    def __init__(self) -> None:
        super().__init__(WorkerId("w"))
        self.away = False
        self.calls: list[str] = []
        self.lag: Callable[[], int] = lambda: 0
        self._gates: dict[tuple[str, str], Gate] = {}
        self._unheard = False
        self._link = 0  # the number of the link
        for name in HELD:
            setattr(self, name, self._lagging(name, getattr(self, name)))

    def _lagging(self, name: str, call: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        async def lagging(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            link = self._link
            await self._pass("before", name)
            answer = await call(*arguments, **named)
            await self._pass("after", name)
            if link != self._link:
                raise BrokerUnavailable("nowhere", "the link was lost")  # and the answer with it
            return answer

        return lagging

    async def _pass(self, when: str, name: str) -> None:
        for _ in range(self.lag()):
            await asyncio.sleep(0)
        gate = self._gates.get((when, name))
        if gate is not None:
            await gate.wait()
        if self.away:
            raise BrokerUnavailable("nowhere", "it is away")

    # What a test does with it

    def hold_before(self, name: str) -> Gate:
        """Have calls of this name wait before they do anything, until the gate is opened."""
        gate = self._gates["before", name] = Gate()
        return gate

    def hold_after(self, name: str) -> Gate:
        """Have calls of this name wait with their answer, until the gate is opened."""
        gate = self._gates["after", name] = Gate()
        return gate

    def let_pass(self) -> None:
        """Open every gate, and have none any more."""
        gates, self._gates = self._gates, {}
        for gate in gates.values():
            gate.open()

    async def publish_unheard(self, room: str, *data: bytes, retention: Retention) -> Published:
        """Publish so that this worker is not told, as when pub/sub loses it or the link is down."""
        self._unheard = True
        try:
            for each in data:
                published = await MemoryBroker.publish(self, PublishRequest(Room(room), each, retention))
        finally:
            self._unheard = False
        return published

    def lose_stream(self, room: str) -> None:
        """Forget a room's stream with its position: it comes back under another epoch."""
        streams = self._state.streams
        if Room(room) not in streams.by_room:  # it was never used, and its only member moves just now
            streams.position(self._clock(), Room(room), Retention(1))
        stream = streams.by_room[Room(room)]
        stream.offset = stream.offset or 1  # one that nobody used would come back under the same
        self._state.streams.forget(Room(room))

    def lose_link(self) -> None:
        """Go away, and notify the listener."""
        self.away = True
        self._link += 1
        self.listener.on_link_lost()

    def restore_link(self) -> None:
        """Come back, and notify the listener."""
        self.away = False
        self.listener.on_link_restored()

    @property
    def listener(self) -> BrokerListener:
        return self._listener

    def _notify(self, call: Callable[[BrokerListener], None], room: Room | None = None) -> None:
        if not self._unheard:
            super()._notify(call, room)
