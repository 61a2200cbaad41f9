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

from realtime.broker.base import Room
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
        self._connections = [self._session.connection]  # all that the application may hold

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
            if _can_move(old) and await old.quiesce(WITHIN_S) and _can_move(old):
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
        subscriptions = list(old.state.subscriptions.values())
        old.drop()
        assert old.state.phase is Phase.CLOSED
        meanwhile = Meanwhile(old)
        self._serve(meanwhile)
        if subscriptions and all(each.positioned and not each.join_leave for each in subscriptions):
            for _ in range(self._chance.randrange(TURNS)):  # what is published meanwhile is in the stream
                await asyncio.sleep(0)
        new = self._session = await self._protocol.restore(old.transport, exported, old._mark)
        self._moves.append(new.connection.id)
        for connection in self._connections:
            connection._identity, connection._state = new.state.identity, new.connection._state
            connection.subscriptions = new.state.subscriptions
        self._serve(new)
        self._connections.append(new.connection)
        meanwhile.end_with(new)

    def _serve(self, session: Any) -> None:
        for connection in self._connections:
            connection._session = session


def _can_move(session: Session) -> bool:
    """Say whether its rooms can be entered anew. Changes while the session comes to rest."""
    return session.is_open and session.services.hub.is_linked


class Meanwhile:
    """The session of a connection while that moves: what the application asks for waits until it has moved."""

    def __init__(self, old: Session) -> None:
        self._old = old
        self._new: asyncio.Future[Session] = asyncio.get_running_loop().create_future()

    def end_with(self, new: Session) -> None:
        self._new.set_result(new)

    def event_loop(self) -> asyncio.AbstractEventLoop:
        return self._old.event_loop()

    def send_message(self, data: bytes) -> None:
        self._new.add_done_callback(lambda new: new.result().send_message(data))

    def end(self, code: int, reason: str) -> None:
        self._new.add_done_callback(lambda new: new.result().end(code, reason))

    async def enter(self, room: Room) -> None:
        await (await asyncio.shield(self._new)).enter(room)

    async def exit(self, room: Room, code: int, reason: str) -> None:
        await (await asyncio.shield(self._new)).exit(room, code, reason)


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
