"""
The moves of a worker: what becomes of a channel to another worker, and how a connection that comes is counted.

Channels and sockets are real, the clock is the test's, and the primary and the other worker are the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from sticky.handoff.journal import Journal
from sticky.handoff.messages import Ended, KeysAway, KeysEnded, Peer
from sticky.heads.first_bytes import Head
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.away import home_of, short
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.moving.channel import MoveChannel, MovedState
from sticky.moving.plan import ALL, COUNT, HOME, REST, Plan
from sticky.moving.source import MoveSource, Offered, Outcome, Result
from sticky.moving.target import MovedIn
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.ended_report import ENDED_S, EndedReport
from sticky.worker.key_report import KeyReport
from sticky.worker.moves import Moves
from sticky.worker.routes import Routes
from tests.support.aio import run_async
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import PrimaryEnd

SLOT, SLOTS = Slot(1), 4
PROXY = "10.0.0.7"
REQUEST = Head("GET", b"/", (), 0)


class Server:
    """The worker's server: notes its targets, and takes what it has no reason to refuse."""

    def __init__(self) -> None:
        self.targets: list[tuple[MoveSource, Plan]] = []
        self.refusal: str | None = None
        self.taken: list[MovedIn] = []

    def introduced(self, source: MoveSource, plan: Plan) -> None:
        self.targets.append((source, plan))

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        self.taken += connections
        return [self.refusal] * len(connections)


class Rig:
    """The moves of one worker, with the parts that they keep right."""

    def __init__(self) -> None:
        self.primary, self.timers = PrimaryEnd(), FakePoller()
        self.hashing = Hashing(b"s" * 32)
        affinity = Affinity(AffinitySettings(), self.hashing)
        acknowledgements = Acknowledgements(self.primary.link, self.timers)
        self.key_report = KeyReport(self.primary.link, acknowledgements)
        self.routes = Routes(affinity, self.hashing, SLOT, report=self.key_report, timers=self.timers)
        self.counts: list[tuple[int, str]] = []
        self.server = Server()
        self.moves = Moves(
            SLOT,
            affinity,
            self.hashing,
            self.routes,
            Journal(timers=self.timers),
            EndedReport(self.primary.link, self.timers),
            self.key_report,
            lambda change, peer_address: self.counts.append((change, peer_address)),
        )
        self.moves.serve(self.server)
        self.ends: list[socket.socket] = []  # of the other worker

    def introduce(self, *, is_source: bool, plan: str = ALL, count: int = 0) -> socket.socket:
        """Have the primary introduce another worker. Return its end of the channel."""
        ours, theirs = MoveChannel.pair()
        self.ends.append(theirs)
        self.moves.introduced(Peer(b"", is_source, 3, "w3", SLOTS, plan, count), ours.detach())
        return theirs

    def address(self, home: int) -> str:
        """Return a client address whose key is at home in a slot."""
        addresses = (f"192.0.2.{number}" for number in range(256))
        return next(each for each in addresses if self.moves.home_of(self.key(each)) == home)

    def key(self, address: str) -> Key:
        key = self.routes.key_of(address, None)
        assert key is not None
        return key

    def reports(self) -> list[object]:
        """Return the messages to the primary, once what is reported together is sent."""
        self.timers.run_for(ENDED_S)
        self.key_report.send(self.routes)
        return self.primary.received()

    def close(self) -> None:
        for source, _ in self.server.targets:
            source.close()
        for end in self.ends:
            end.close()
        for taken in self.server.taken:
            taken.sock.close()
        self.primary.close()


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.moves.close()
    rig.close()


def state(address: str) -> MovedState:
    return MovedState(address, 4711, "https", None, None, PROXY, b"what the server needs")


async def offer(end: socket.socket, address: str) -> Result:
    """Offer one connection in the other worker's name, and return what became of it."""
    source = MoveSource(end.dup(), SLOT, "w1")
    assert await source.opened()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        [result] = await source.offer([Offered(ours, state(address))])
    source.close()
    return result


@pytest.mark.parametrize("plan", [Plan(ALL), Plan(HOME), Plan(COUNT, 12), Plan(REST)])
def test_the_server_learns_of_each_target_and_its_plan(plan: Plan) -> None:
    async def scenario() -> None:
        async with rig() as it:
            it.introduce(is_source=True, plan=plan.name, count=plan.count)
            [(source, found)] = it.server.targets
            assert (source.slot, source.worker_id, found) == (3, "w3", plan)
            assert it.moves.slots == SLOTS

    asyncio.run(scenario())


@run_async
async def test_an_introduction_without_a_descriptor_means_nothing() -> None:
    async with rig() as it:
        it.moves.introduced(Peer(b"", True, 3, "w3", SLOTS, ALL), None)
        assert it.server.targets == []


@pytest.mark.parametrize("is_source", [True, False])
def test_a_worker_whose_server_moves_nothing_closes_its_end(is_source: bool) -> None:
    async def scenario() -> None:
        async with rig() as it:
            before = len(os.listdir("/proc/self/fd"))
            it.moves.serve(None)
            end = it.introduce(is_source=is_source)
            assert end.recv(1) == b"", "the other worker sees the channel end, and moves nothing"
            assert len(os.listdir("/proc/self/fd")) == before + 1, "only the other end is open"

    asyncio.run(scenario())


@run_async
async def test_a_connection_that_comes_is_counted_learned_and_reported() -> None:
    async with rig() as it:
        end = it.introduce(is_source=False)
        address = it.address(home=SLOT)
        assert (await offer(end, address)).outcome is Outcome.TAKEN
        [taken] = it.server.taken
        assert (taken.address, taken.scheme, taken.peer_address) == (address, "https", PROXY)
        assert taken.state == b"what the server needs"
        assert it.counts == [(1, PROXY)]
        assert it.routes.keys.count(it.key(address)) == 1
        assert it.routes.leads_here(it.routes.of(address, "https", REQUEST)), "its later requests belong here"
        assert it.reports() == [Ended({}, {PROXY: 1})], "by its peer, which the primary limits; its key is at home"


@run_async
async def test_a_key_that_is_away_is_reported_for_its_next_connection_has_to_come_here() -> None:
    async with rig() as it:
        end = it.introduce(is_source=False)
        address = it.address(home=2)
        await offer(end, address)
        key = it.key(address)
        assert it.routes.keys.is_away(key)
        assert it.reports() == [Ended({}, {PROXY: 1}), KeysAway([short(key)], 0, 0, False)]


@run_async
async def test_a_refused_connection_leaves_no_count_behind() -> None:
    async with rig() as it:
        it.server.refusal = "no such room"
        end = it.introduce(is_source=False)
        address = it.address(home=2)
        assert await offer(end, address) == Result(Outcome.REFUSED, "no such room")
        key = it.key(address)
        assert it.counts == [(1, PROXY), (-1, PROXY)]
        assert it.routes.keys.count(key) == 0
        reports = it.reports()
        assert reports[:2] == [KeysAway([short(key)], 0, 0, False), KeysEnded([short(key)], 0)]
        assert reports[2:] == [Ended({PROXY: 1}, {PROXY: 1})], "it came and it went: the source counts it on"


@run_async
async def test_a_home_is_known_once_the_number_of_slots_is() -> None:
    async with rig() as it:
        key = it.key("192.0.2.1")
        assert it.moves.home_of(key) is None
        assert it.moves.home_of(None) is None
        it.moves.slots = SLOTS
        assert it.moves.home_of(key) == home_of(it.hashing, key, SLOTS)
        assert it.moves.home_of(None) is None


@run_async
async def test_after_the_end_nothing_more_is_taken() -> None:
    async with rig() as it:
        end = it.introduce(is_source=False)
        other = MoveSource(end.dup(), SLOT, "w1")
        assert await other.opened()
        await it.moves.close()
        while other.is_open:  # noqa: ASYNC110
            await asyncio.sleep(0)
        other.close()
        await it.moves.close()  # none is left
