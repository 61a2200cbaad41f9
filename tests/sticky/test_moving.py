"""
Connections that move from one worker to another, over the direct channel: real sockets, and a real target that dies.

The target of the first half is in this process. That of the second half is a process of its own, for only a process can
die: `Doomed` stops where the test wants it, and is killed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from sticky.handoff.channel import Unreadable
from sticky.keys.hashing import Slot
from sticky.moving.channel import BATCH_MAX, INLINE_BYTES, MoveChannel, MovedState, Taken, batches
from sticky.moving.source import MoveSource, Offered, Outcome, Result
from sticky.moving.target import MovedIn, MoveTarget
from sticky.supervision.introductions import gifts
from tests.support.aio import run_async
from tests.support.server import ROOT

TAKEN = Result(Outcome.TAKEN)


def state(number: int, size: int = 10) -> MovedState:
    return MovedState("127.0.0.1", number, "http", None, None, "127.0.0.1", bytes(size))


@contextlib.contextmanager
def connections(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Give pairs of a client's end and a server's end, over TCP."""
    pairs = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(count):
            client = socket.create_connection(listener.getsockname())
            client.settimeout(10)
            pairs.append((client, listener.accept()[0]))
    try:
        yield pairs
    finally:
        for pair in pairs:
            for each in pair:
                each.close()


class Server:
    """Takes connections over as `answer` says, and echoes one message of each."""

    def __init__(self, answer: Callable[[MovedIn], str | None] = lambda connection: None) -> None:
        self.answer = answer
        self.taken: list[MovedIn] = []
        self.open = 0

    def enter(self, sock: socket.socket, state: MovedState) -> MovedIn:
        self.open += 1
        return MovedIn(
            sock, state.address, state.client_port, state.scheme, None, None, state.peer_address, state.state
        )

    def entered(self, connection: MovedIn, refusal: str | None) -> None:
        if refusal is None:
            self.taken.append(connection)
        else:
            self.open -= 1

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        return [self.answer(each) for each in connections]


@contextlib.asynccontextmanager
async def moving(server: Server) -> AsyncIterator[MoveSource]:
    ours, theirs = MoveChannel.pair()
    source, target = MoveSource(ours, Slot(1), "w1"), MoveTarget(theirs, server, lambda target: None)
    assert await source.opened()
    yield source
    source.close()
    await target.close()


@run_async
async def test_a_batch_is_served_by_its_target_and_by_nobody_else() -> None:
    server = Server()
    with connections(BATCH_MAX) as pairs:
        async with moving(server) as source:
            results = await source.offer([Offered(ours, state(at)) for at, (_, ours) in enumerate(pairs)])
            assert results == [TAKEN] * BATCH_MAX
            assert [each.client_port for each in server.taken] == list(range(BATCH_MAX)), "in the order of the offer"
            for (client, ours), taken in zip(pairs, server.taken, strict=True):
                ours.close()
                taken.sock.send(b"here")
                assert client.recv(10) == b"here", "the copy of the source is closed, and the connection lives"
                taken.sock.close()
                assert client.recv(10) == b"", "nobody else holds it"


@run_async
async def test_between_two_batches_the_loop_of_the_target_turns() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    class Noting(Server):
        async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
            seen.append(turns)
            await asyncio.sleep(0)  # as a server does, which asks the broker
            return await super().take(connections)

    seen: list[int] = []
    server = Noting()
    with connections(6) as pairs:
        turning = asyncio.create_task(turn())
        async with moving(server) as source:
            batches = [[Offered(ours, state(at))] for at, (_, ours) in enumerate(pairs)]
            await asyncio.gather(*(source.offer(each) for each in batches))
        turning.cancel()
        for taken in server.taken:
            taken.sock.close()
    assert len(seen) == len(set(seen)) == len(pairs), "other clients have their turn after each batch"


@run_async
async def test_what_is_refused_is_the_sources_alone_before_it_learns_of_it() -> None:
    server = Server(lambda connection: "no such room" if connection.client_port % 2 else None)
    with connections(4) as pairs:
        async with moving(server) as source:
            results = await source.offer([Offered(ours, state(at)) for at, (_, ours) in enumerate(pairs)])
            refused = Result(Outcome.REFUSED, "no such room")
            assert results == [TAKEN, refused, TAKEN, refused]
            assert server.open == 2
            for client, ours in (pairs[1], pairs[3]):
                ours.send(b"still here")
                assert client.recv(20) == b"still here"
                ours.close()
                assert client.recv(20) == b"", "the target's copy is closed"
            for each in server.taken:
                each.sock.close()


@run_async
async def test_a_target_that_fails_refuses_the_whole_batch(caplog: pytest.LogCaptureFixture) -> None:
    def fail(connection: MovedIn) -> str | None:
        raise LookupError("a fault of the server")

    with connections(2) as pairs:
        async with moving(Server(fail)) as source:
            results = await source.offer([Offered(ours, state(at)) for at, (_, ours) in enumerate(pairs)])
    assert [each.outcome for each in results] == [Outcome.REFUSED] * 2
    assert "a fault of the server" in caplog.text


@run_async
async def test_states_that_are_too_many_for_a_packet_go_beside_it() -> None:
    server = Server()
    with connections(3) as pairs:
        async with moving(server) as source:
            offered = [Offered(ours, state(at, INLINE_BYTES)) for at, (_, ours) in enumerate(pairs)]
            assert await source.offer(offered) == [TAKEN] * 3
    assert [len(each.state) for each in server.taken] == [INLINE_BYTES] * 3
    for each in server.taken:
        each.sock.close()


@run_async
async def test_more_batches_than_may_be_unanswered_wait_for_an_answer() -> None:
    server = Server()
    with connections(12) as pairs:
        async with moving(server) as source:
            offers = [source.offer([Offered(ours, state(at))]) for at, (_, ours) in enumerate(pairs)]
            assert await asyncio.gather(*offers) == [[TAKEN]] * 12
    for each in server.taken:
        each.sock.close()


@run_async
async def test_a_worker_that_moves_nothing_closes_its_end_and_the_source_learns_of_it() -> None:
    ours, theirs = MoveChannel.pair()
    source = MoveSource(ours, Slot(1), "w1")
    theirs.close()
    assert not await source.opened()
    assert not source.is_open
    source.close()


@run_async
async def test_a_message_that_is_none_ends_the_channel_and_closes_its_descriptors() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = MoveChannel(ours)
    with connections(1) as [(client, server)], theirs:
        socket.send_fds(theirs, [b"\x93\x02\x01\x01"], [server.fileno()])
        server.close()
        assert isinstance(channel.receive(), Unreadable)
        assert client.recv(1) == b"", "its descriptor was closed"
    channel.close()


def test_the_answer_of_a_stranger_to_no_batch_is_ignored() -> None:
    async def scenario() -> None:
        ours, theirs = MoveChannel.pair()
        source, other = MoveSource(ours, Slot(1), "w1"), MoveChannel(theirs)
        own = os.pidfd_open(os.getpid())
        other.send_hello(own)
        assert await source.opened()
        other.send_taken(7, {})
        other.send_hello(own)  # a second one changes nothing
        os.close(own)
        with connections(1) as [(_, server)]:
            offer = asyncio.ensure_future(source.offer([Offered(server, state(0))]))
            while (arrived := other.receive()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert not isinstance(arrived, Unreadable)
            for fd in arrived.fds:
                os.close(fd)
            other.send_taken(1, {})
            assert await offer == [TAKEN]
        source.close()
        other.close()

    asyncio.run(scenario())


def test_batches_are_bounded_in_number_and_bytes() -> None:
    assert batches([], []) == []
    assert [len(each) for each in batches(list(range(130)), [1] * 130)] == [64, 64, 2]
    large = 3 * 1024 * 1024
    assert batches(["a", "b", "c"], [large, large, 1]) == [["a"], ["b", "c"]]
    assert batches(["a", "b"], [100 * large, 1]) == [["a"], ["b"]], "one that is larger than a batch goes alone"


def test_an_answer_has_short_reasons() -> None:
    ours, theirs = MoveChannel.pair()
    one, other = MoveChannel(ours), MoveChannel(theirs)
    one.send_taken(1, {0: "x" * 10_000})
    arrived = other.receive()
    assert not isinstance(arrived, Unreadable)
    assert arrived is not None
    assert isinstance(arrived.message, Taken)
    assert len(arrived.message.refused[0]) == 500
    one.close()
    other.close()


# A target that dies


DOOMED = """
import os, select, socket, sys
from sticky.moving.channel import MoveChannel
channel = MoveChannel(socket.socket(fileno=int(sys.argv[1])))
own = os.pidfd_open(os.getpid())
channel.send_hello(own)
for _ in range(int(sys.argv[3])):
    select.select([channel.sock], [], [])
    arrived = channel.receive()
    if sys.argv[2] == "writes":
        os.write(arrived.fds[0], b"written")
    if sys.argv[2] == "reads":
        os.read(arrived.fds[0], 1)
    if sys.argv[2] == "answers":
        channel.send_taken(arrived.message.number, {})
print("there", flush=True)
if sys.argv[2] == "closes":
    channel.close()
select.select([], [], [])
"""


@contextlib.contextmanager
def doomed(what: str, batches: int = 1) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Run a target that says "there" where it is to be killed. Gives the process and the source's end."""
    ours, theirs = MoveChannel.pair()
    theirs.set_inheritable(True)
    process = subprocess.Popen(
        [sys.executable, "-c", DOOMED, str(theirs.fileno()), what, str(batches)],
        pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def there(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "there\n"


@pytest.mark.parametrize(
    ("what", "outcome"),
    [("nothing", Outcome.RETURNED), ("writes", Outcome.LOST), ("reads", Outcome.LOST), ("answers", Outcome.TAKEN)],
)
@run_async
async def test_what_becomes_of_a_connection_whose_target_is_killed(what: str, outcome: Outcome) -> None:
    with doomed(what) as (process, end), connections(2) as pairs:
        source = MoveSource(end, Slot(1), "w1")
        assert await source.opened()
        pairs[0][0].send(b"unread")
        offered = [Offered(ours, state(at)) for at, (_, ours) in enumerate(pairs)]
        offer = asyncio.create_task(source.offer(offered))
        await there(process)
        os.kill(process.pid, signal.SIGKILL)
        first, second = await offer
        assert first.outcome is outcome
        assert second.outcome is (Outcome.TAKEN if what == "answers" else Outcome.RETURNED), "each by its own counters"
        source.close()


@run_async
async def test_the_end_of_the_channel_proves_no_death() -> None:
    with doomed("closes") as (process, end), connections(1) as [(_, ours)]:
        source = MoveSource(end, Slot(1), "w1")
        assert await source.opened()
        offer = asyncio.ensure_future(source.offer([Offered(ours, state(0))]))
        await there(process)
        while source.is_open:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not offer.done(), "the target may still write"
        assert await source.offer([Offered(ours, state(0))]) == [Result(Outcome.RETURNED)], "nothing more is sent"
        os.kill(process.pid, signal.SIGKILL)
        assert await offer == [Result(Outcome.RETURNED)]
        source.close()


@run_async
async def test_a_target_that_is_stopped_has_its_connections_until_it_is_killed() -> None:
    with doomed("nothing", 5) as (process, end), connections(1) as [(_, ours)]:
        source = MoveSource(end, Slot(1), "w1")
        assert await source.opened()
        os.kill(process.pid, signal.SIGSTOP)
        offer = asyncio.ensure_future(source.offer([Offered(ours, state(0))]))
        await asyncio.sleep(0)
        assert not offer.done()
        os.kill(process.pid, signal.SIGKILL)
        assert await offer == [Result(Outcome.RETURNED)]
        source.close()


# Who gives how many


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([], []),
        ([5], []),
        ([3, 4, 3], []),
        ([10, 10, 0], [(0, 2, 3), (1, 2, 3)]),
        ([14, 13, 0, 0], [(0, 3, 6), (0, 2, 1), (1, 2, 6)]),
        ([9, 1, 2], [(0, 1, 3), (0, 2, 2)]),
        ([0, 0, 1], []),
    ],
)
def test_slots_give_until_they_are_equal_within_one(counts: list[int], wanted: list[tuple[int, int, int]]) -> None:
    found = gifts({Slot(slot): count for slot, count in enumerate(counts)})
    after = list(counts)
    for source, target, count in found:
        after[source] -= count
        after[target] += count
    assert not after or max(after) - min(after) <= 1
    assert found == wanted, "no more move than have to"
