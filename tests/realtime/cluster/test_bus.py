"""
Messages between workers: what a client sends beside its stream reaches its session, and in the order in which it sends.

Buses and mailboxes as they are, over a broker that only carries; a message arrives when the test says so. Real workers
are in tests/process/test_streams.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from realtime.auth.revocation import Revoked
from realtime.broker.base import Broker, Position, Published, PublishRequest, Room, WorkerId
from realtime.broker.unreadable import IGNORED
from realtime.cluster.bus import ClusterBus
from realtime.cluster.mailbox import Mailbox
from realtime.errors import BrokerUnavailable
from realtime.rooms.fanout import Subscriber
from realtime.session.registry import Home, Registry
from tests.support.aio import run_async

HERE, THERE = WorkerId("node-0-00000000"), WorkerId("node-1-11111111")


class Carrier:
    """Carries messages, each when the test says so; stands for the broker, and for the private rooms of each worker."""

    def __init__(self) -> None:
        self.messages: list[PublishRequest] = []
        self.is_away = False
        self._receivers: dict[Room, list[Callable[[bytes], None]]] = {}

    async def publish(self, request: PublishRequest) -> Published:
        if self.is_away:
            raise BrokerUnavailable("nowhere", "it is away")
        self.messages.append(request)
        return Published(Position("", 0))

    async def listen(self, room: Room, receive: Callable[[bytes], None]) -> None:
        self._receivers.setdefault(room, []).append(receive)

    def sizes(self) -> dict[Room, int]:
        return {}

    def members(self, room: Room) -> list[Subscriber]:
        return []

    def write_out(self) -> None:
        """No room waits."""

    async def carry(self) -> None:
        """Bring every message, and those that come of it."""
        await asyncio.sleep(0)
        while self.messages:
            request = self.messages.pop(0)
            for receive in self._receivers.get(request.room, ()):
                receive(request.data)
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


async def worker(carrier: Carrier, name: WorkerId, *sessions: str) -> tuple[ClusterBus, Sessions]:
    here = Sessions(*sessions)
    mailbox = Mailbox(carrier, carrier, name)
    bus = ClusterBus(
        Home(worker=name), cast(Broker, carrier), mailbox, carrier, carrier, cast(Registry, here), Revoked()
    )
    await bus.start()
    return bus, here


@run_async
async def test_who_is_told_that_it_was_brought_finds_it_brought() -> None:
    carrier = Carrier()
    owner, sessions = await worker(carrier, HERE, "s")
    other, _ = await worker(carrier, THERE)
    first = asyncio.create_task(other.deliver(HERE, "s", b"first"))
    await asyncio.sleep(0)
    assert len(carrier.messages) == 1
    assert (first.done(), sessions.got) == (False, []), "it is under way, and nobody was told otherwise"
    await carrier.carry()
    assert await first is True
    assert await owner.deliver(HERE, "s", b"second") is True
    assert sessions.got == [b"first", b"second"], "in the order of a client that waits for its answers"


@run_async
async def test_a_session_that_is_not_there_is_told_from_elsewhere_too() -> None:
    carrier = Carrier()
    await worker(carrier, HERE, "s")
    other, _ = await worker(carrier, THERE)
    brought = asyncio.create_task(other.deliver(HERE, "another", b"x"))
    await carrier.carry()
    assert await brought is False


@pytest.mark.parametrize("name", ["", "*", "\0*", "l:x", "node-0-0000000g", "node-0-000000000", "\0n-0-00000000"])
@run_async
async def test_nobody_writes_to_who_is_no_worker(name: str) -> None:
    carrier = Carrier()
    bus, _ = await worker(carrier, HERE, "s")
    assert await bus.deliver(name, "s", b"x") is False
    assert carrier.messages == []


@run_async
async def test_a_worker_that_is_gone_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.cluster.bus.RECEIPT_S", 0.01)
    carrier = Carrier()
    bus, _ = await worker(carrier, HERE, "s")
    assert await bus.deliver(THERE, "s", b"x") is False
    assert bus._receipts == {}
    owner, sessions = await worker(carrier, THERE, "s")
    await carrier.carry()  # it was only slow, and its answer comes to nobody
    assert sessions.got == [b"x"]
    assert owner._receipts == {}


@run_async
async def test_a_broker_that_is_away_is_told() -> None:
    carrier = Carrier()
    bus, _ = await worker(carrier, HERE, "s")
    carrier.is_away = True
    with pytest.raises(BrokerUnavailable):
        await bus.deliver(THERE, "s", b"x")
    assert bus._receipts == {}


@run_async
async def test_a_message_of_a_later_release_is_ignored_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    bus, _ = await worker(Carrier(), HERE)
    later = msgspec.msgpack.encode(["a kind that this release does not know", 1, 2])
    longer = msgspec.msgpack.encode(["k", 7, True, "a field that this release does not know"])
    for message in (later, b"\xc1", longer, later):
        bus.receive(message)
    [line] = caplog.messages
    assert line.startswith(f'{IGNORED} kind="message of a worker"')
    assert "Traceback" not in caplog.text
