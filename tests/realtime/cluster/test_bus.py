"""
Letters between workers: what a client sends beside its stream reaches its session, and in the order in which it sends.

Postmen as they are, between a hub and a protocol that only carry and note; a letter arrives when the test says so. Real
workers are in tests/process/test_streams.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from realtime.auth.revocation import Revoked
from realtime.broker.base import WorkerId
from realtime.cluster.bus import ClusterBus
from realtime.errors import BrokerUnavailable
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, Registry
from tests.support.aio import run_async

HERE, THERE = WorkerId("node-0-00000000"), WorkerId("node-1-11111111")


class Post:
    """Carries letters, each when the test says so; stands for the hub of every worker."""

    def __init__(self) -> None:
        self.workers: dict[str, ClusterBus] = {}
        self.letters: list[tuple[str | None, bytes]] = []
        self.is_away = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def mail(self, to: WorkerId | None, message: bytes) -> None:
        if self.is_away:
            raise BrokerUnavailable("nowhere", "it is away")
        self.letters.append((to, message))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def carry(self) -> None:
        """Bring every letter, and those that come of it."""
        await asyncio.sleep(0)
        while self.letters:
            to, message = self.letters.pop(0)
            for name, bus in self.workers.items():
                if to in (None, name):
                    bus.receive(message)
            await asyncio.sleep(0)


class Sessions:
    """Stands for the registry of one worker: which sessions are there, and what they got."""

    def __init__(self, *sessions: str) -> None:
        self.got: list[bytes] = []
        self._sessions = sessions

    def receive(self, session: str, data: bytes) -> bool:
        if session in self._sessions:
            self.got.append(data)
        return session in self._sessions


def worker(post: Post, name: WorkerId, *sessions: str) -> tuple[ClusterBus, Sessions]:
    here = Sessions(*sessions)
    bus = post.workers[name] = ClusterBus(Home(worker=name), cast(Registry, here), Revoked())
    bus.serve(cast(Hub, post))
    return bus, here


@run_async
async def test_who_is_told_that_it_was_brought_finds_it_brought() -> None:
    post = Post()
    owner, sessions = worker(post, HERE, "s")
    other, _ = worker(post, THERE)
    first = asyncio.create_task(other.deliver(HERE, "s", b"first"))
    await asyncio.sleep(0)
    assert len(post.letters) == 1
    assert (first.done(), sessions.got) == (False, []), "it is under way, and nobody was told otherwise"
    await post.carry()
    assert await first is True
    assert await owner.deliver(HERE, "s", b"second") is True
    assert sessions.got == [b"first", b"second"], "in the order of a client that waits for its answers"


@run_async
async def test_a_session_that_is_not_there_is_told_from_elsewhere_too() -> None:
    post = Post()
    worker(post, HERE, "s")
    other, _ = worker(post, THERE)
    brought = asyncio.create_task(other.deliver(HERE, "another", b"x"))
    await post.carry()
    assert await brought is False


@pytest.mark.parametrize("name", ["", "*", "\0*", "l:x", "node-0-0000000g", "node-0-000000000", "\0n-0-00000000"])
@run_async
async def test_nobody_writes_to_who_is_no_worker(name: str) -> None:
    post = Post()
    bus, _ = worker(post, HERE, "s")
    assert await bus.deliver(name, "s", b"x") is False
    assert post.letters == []


@run_async
async def test_a_worker_that_is_gone_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.cluster.bus.TAKEN_S", 0.01)
    post = Post()
    bus, _ = worker(post, HERE, "s")
    assert await bus.deliver(THERE, "s", b"x") is False
    assert bus._untaken == {}
    owner, sessions = worker(post, THERE, "s")
    await post.carry()  # it was only slow, and its answer comes to nobody
    assert sessions.got == [b"x"]
    assert owner._untaken == {}


@run_async
async def test_a_broker_that_is_away_is_told() -> None:
    post = Post()
    bus, _ = worker(post, HERE, "s")
    post.is_away = True
    with pytest.raises(BrokerUnavailable):
        await bus.deliver(THERE, "s", b"x")
    assert bus._untaken == {}
