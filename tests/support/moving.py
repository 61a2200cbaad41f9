"""
Sessions that move: at random moments between two messages each is exported, dropped and restored.

`moving(protocol)` makes each session that a protocol begins one of these, over the same transport. What the client and
the transport see is what they saw before: that is what a test suite proves which runs with it. An application that
holds a `Connection` goes on with it here, as nothing of another process could; handlers get the connection of the
session that serves now.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from realtime.protocol.centrifuge.server import Centrifuge
from realtime.session.session import Session
from realtime.session.state import Phase

BEFORE = 0.3  # of the messages come to a session that moves first
AFTER = 0.6  # of the messages are followed by a move
WRITTEN = 0.4  # of what is written to the client likewise
TURNS = 4  # of the loop, at most, between the two, where nothing can be missed that is not made up for
WITHIN_S = 0.05  # for a session to come to rest: what takes longer stays

Begin = Callable[..., Session]


class Moving:
    """The session of one client, as its transport has it, whichever object serves it now."""

    def __init__(
        self, protocol: Centrifuge, begin: Begin, arguments: tuple[Any, ...], chance: random.Random, moves: list[str]
    ) -> None:
        transport, *others = arguments
        self._session: Session
        self._protocol = protocol
        self._chance = chance
        self._moves = moves
        self._waiting: list[bytes | str] = []
        self._lost: tuple[int, str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._session = begin(protocol, Noticing(transport, self._written), *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def receive(self, message: bytes | str) -> None:
        if self._task is not None or self._chance.random() < BEFORE:
            self._waiting.append(message)
            self._session.transport.pause_reading()  # what follows stays in the transport, as in another process
            self._begin()
        else:
            self._take(message)

    def _take(self, message: bytes | str) -> None:
        self._session.receive(message)
        if self._chance.random() < AFTER:
            self._begin()

    def _written(self) -> None:
        if self._chance.random() < WRITTEN:
            self._begin()

    def connection_lost(self, code: int, reason: str) -> None:
        if self._task is not None:
            self._lost = code, reason  # in another process it would be seen when that reads
        self._session.connection_lost(code, reason)

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._move())

    async def _move(self) -> None:
        old = self._session
        try:
            if old.is_open and old.services.hub.is_linked and await old.quiesce(WITHIN_S):
                if old.is_open and old.services.hub.is_linked:
                    await self._replace(old)
        finally:
            self._task = None
            self._session.resume()
            waiting, self._waiting = self._waiting, []
            for message in waiting:
                self._session.receive(message)
            if waiting and self._chance.random() < AFTER:
                self._begin()
            if self._lost is not None:
                self._session.connection_lost(*self._lost)

    async def _replace(self, old: Session) -> None:
        exported = old.export()
        old.drop()
        assert old.state.phase is Phase.CLOSED
        subscriptions = old.state.subscriptions.values()
        if subscriptions and all(each.positioned and not each.join_leave for each in subscriptions):
            for _ in range(self._chance.randrange(TURNS)):  # what is published meanwhile is in the stream
                await asyncio.sleep(0)
        new = self._session = await self._protocol.restore(old.transport, exported, old._mark)
        self._moves.append(new.connection.id)
        held = old.connection
        held._session, held._identity = new, new.state.identity
        held.subscriptions, held._state = new.state.subscriptions, new.connection._state


class Noticing:
    """A transport that tells of each write."""

    def __init__(self, transport: Any, written: Callable[[], None]) -> None:
        vars(self).update(_under=transport, _written=written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._under, name, value)

    def write(self, data: bytes) -> None:
        self._under.write(data)
        self._written()


def moving(begin: Begin, chance: random.Random, moves: list[str]) -> Callable[..., Any]:
    """Return what begins sessions in place of `Centrifuge.__call__`. `moves` gets the id of each that moved."""

    def begin_moving(protocol: Centrifuge, *arguments: Any) -> Moving:
        return Moving(protocol, begin, arguments, chance, moves)

    return begin_moving
