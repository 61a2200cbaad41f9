"""
The worker's end, part by part: what it reports, when, and what becomes of a report that finds no room.

The channel is real, and the test plays the primary. test_worker_edge.py has what a broken primary sends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sticky import new_sticky_id
from sticky.errors import NotAWorker
from sticky.handoff import messages
from sticky.handoff.channel import CARRIED_MAX, CHANNEL_FD, Channel, Kind, Received
from sticky.handoff.journal import NO_MARK
from sticky.handoff.messages import (
    Ack,
    Beat,
    Ended,
    GiveBack,
    KeysAway,
    KeysEnded,
    KeysStay,
    Nack,
    from_primary,
    from_worker,
)
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing, Slot
from sticky.keys.live_keys import REPORT_KEYS
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.adopted import Adopted
from sticky.worker.ended_report import ENDED_S, EndedReport
from sticky.worker.heartbeat import Heartbeat
from sticky.worker.key_report import KeyReport
from sticky.worker.routes import Routes
from sticky.worker.staying import Staying
from sticky.worker.worker import Worker
from tests.sticky.test_worker_edge import BOOT, Run
from tests.support.aio import run_async
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import PrimaryEnd

HASHING = Hashing(b"a secret of some length")


class Ends(PrimaryEnd):
    """Both ends of a channel, and the acknowledgements of the worker's."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = FakePoller()
        self.acknowledgements = Acknowledgements(self.link, self.timers)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


# The link


def test_a_link_sends_until_the_primary_is_lost(ends: Ends) -> None:
    assert ends.link.send(Kind.READY)
    ends.link.lose()
    assert not ends.link.send(Kind.READY)
    assert len(ends.received()) == 1


def test_a_closed_channel_is_no_exception(ends: Ends) -> None:
    ends.channel.close()
    assert not ends.link.send(Kind.READY)
    assert not ends.link.is_lost, "the reader of the channel decides that"


# Reports


def test_ends_are_reported_together_and_soon(ends: Ends) -> None:
    report = EndedReport(ends.link, ends.timers)
    for peer_address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        report.add(peer_address)
        report.schedule()
    assert ends.received() == []
    ends.timers.run_for(ENDED_S)
    assert ends.received() == [Ended({"192.0.2.1": 2, "192.0.2.2": 1})], "one report was scheduled"


def test_ends_that_found_no_room_are_reported_at_the_next_heartbeat(ends: Ends) -> None:
    report = EndedReport(ends.link)
    report.add("192.0.2.1")
    ends.fill()
    report.send()
    ends.drain()
    report.retry()
    report.retry()
    assert ends.received() == [Ended({"192.0.2.1": 1})]


def routes() -> Routes:
    return Routes(Affinity(AffinitySettings()), HASHING, Slot(0))


def test_the_keys_whose_home_is_elsewhere_are_reported_in_parts(ends: Ends) -> None:
    report = KeyReport(ends.link, ends.acknowledgements)
    known = routes()
    ends.acknowledgements.adopted(7, NO_MARK)
    for number in range(3 * REPORT_KEYS):
        known.keys.enter(known.key_of(f"10.0.{number // 250}.{number % 250}", None))
    report.answer(known, slots=1, request=4)
    assert ends.received() == [KeysAway([], 7, 4, is_all=True)], "with one slot, every key is at home"
    report.answer(known, slots=100, request=5)
    parts = ends.received()
    assert [(part.request, part.seen, part.is_all) for part in parts] == [(5, 7, False)] * (len(parts) - 1) + [
        (5, 7, True)
    ]
    assert len(parts) == 3
    assert sum(len(part.keys) for part in parts) == len(known.keys.find_away(100))


def test_an_ended_key_is_reported_at_once_or_when_there_is_room(ends: Ends) -> None:
    report = KeyReport(ends.link, ends.acknowledgements)
    known = Routes(Affinity(AffinitySettings()), HASHING, Slot(0), report=report)
    key = known.key_of("192.0.2.1", None)
    for is_full in (False, True):
        known.keys.enter(key, away=True)
        if is_full:
            ends.fill()
        known.keys.leave(key)
        if is_full:
            ends.drain()
            report.send(known)
        assert ends.received() == [KeysEnded([key], 0)]


def test_keys_that_stay_are_reported_in_parts_and_those_that_have_ended_are_not(ends: Ends) -> None:
    report, known = KeyReport(ends.link, ends.acknowledgements), routes()
    staying = Staying(known, report, is_heard=True)
    keys = [known.key_of(f"10.0.{number // 250}.{number % 250}", None) for number in range(REPORT_KEYS + 1)]
    for key in keys:
        known.keys.enter(key)
    ends.fill()
    staying.keep(key for key in keys if key is not None)
    ends.drain()
    known.keys.leave(keys[0])
    staying.report()  # as to another primary
    parts = [each for each in ends.received() if isinstance(each, KeysStay)]
    assert sorted(key for part in parts for key in part.keys) == sorted(key for key in keys[1:] if key is not None)
    staying.end()
    staying.report()
    assert ends.received() == []


def test_a_primary_of_the_release_before_gets_no_report_of_keys_that_stay(ends: Ends) -> None:
    report, known = KeyReport(ends.link, ends.acknowledgements), routes()
    key = known.key_of("192.0.2.1", None)
    assert key is not None
    known.keys.enter(key)
    Staying(known, report, is_heard=False).keep([key])
    known.keys.leave(key)
    assert ends.received() == []


def test_a_newer_request_replaces_the_answer_to_an_older_one(ends: Ends) -> None:
    report, known = KeyReport(ends.link, ends.acknowledgements), routes()
    ends.fill()
    report.answer(known, slots=1, request=1)
    report.answer(known, slots=1, request=2)
    ends.drain()
    report.send(known)
    assert ends.received() == [KeysAway([], 0, 2, is_all=True)]


def test_a_heartbeat_has_the_statistics_or_goes_out_without(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    Heartbeat(ends.link, lambda: {"a": 1}).beat(2, 3)
    broken = Heartbeat(ends.link, lambda: {"a": b"JSON has no bytes"})
    broken.beat(2, 3)
    broken.beat(2, 4)
    assert ends.received() == [Beat(2, 3, {"a": 1}), Beat(2, 3, {}), Beat(2, 4, {})]
    assert caplog.text.count("statistics not sent") == 1


# The whole


class Serving(Run):
    """A worker that runs, and adopts what the test hands over."""

    def __init__(self, **boot: Any) -> None:
        super().__init__(**boot)
        self._unread: list[Received] = []

    async def next(self, kind: type[Any]) -> Any:
        """Return the worker's next message of one kind, and drop those of other kinds before it."""
        return (await self.next_received(kind)).message

    async def next_received(self, kind: type[Any]) -> Received:
        while True:
            while self._unread:
                received = self._unread.pop(0)
                if isinstance(received.message, kind):
                    return received
            for received in self.primary.receive():
                assert isinstance(received, Received), received
                self._unread.append(received)
            await asyncio.sleep(0.001)

    def hand_over(self, number: int, address: str = "192.0.2.1") -> socket.socket:
        ours, client = socket.socketpair()
        header = (number, address, 1, "http", "http", "GET", "/", False, None, None, "ip", address, False)
        assert self.primary.send(Kind.HANDOFF, *header, fd=ours.fileno())
        ours.close()
        return client

    def drain(self) -> None:
        assert self.primary.send(Kind.DRAIN, 1.0)


@run_async
async def test_a_connection_is_adopted_acknowledged_and_its_end_reported() -> None:
    run = Serving()
    running = asyncio.ensure_future(run.until_ended())
    client = run.hand_over(1)
    assert await run.next(Ack) == Ack(1, 0)
    [adopted] = run.adopted
    assert (adopted.address, adopted.peer_address, adopted.path, run.worker.open) == ("192.0.2.1", "192.0.2.1", "/", 1)
    assert await run.next(Ack) == Ack(1, 1)
    adopted.sock.close()
    run.worker.closed(adopted)
    assert await run.next(Ended) == Ended({"192.0.2.1": 1})
    run.drain()
    await running
    client.close()
    run.primary.close()


@run_async
async def test_what_on_connection_raises_sends_the_connection_to_another_worker() -> None:
    run = Serving()

    def broken(adopted: Adopted) -> None:
        raise RuntimeError("a bug of the application")

    client = run.hand_over(1)
    running = asyncio.ensure_future(run.worker.run(on_connection=broken, on_drain=run._drain))
    assert await run.next(Nack) == Nack(1)
    assert run.worker.open == 0
    run.drain()
    await running
    client.close()
    run.primary.close()


@run_async
async def test_after_its_drain_a_worker_rejects_what_still_comes() -> None:
    run = Serving()
    running = asyncio.ensure_future(run.until_ended())
    run.worker.staying.end()
    client = run.hand_over(1)
    assert await run.next(Nack) == Nack(1)
    assert (run.adopted, run.worker.open) == ([], 0)
    run.drain()
    await running
    client.close()
    run.primary.close()


@run_async
async def test_a_connection_is_given_back_with_what_was_read() -> None:
    run = Serving()

    def give_back(adopted: Adopted) -> None:
        run.adopted.append(adopted)
        assert not run.worker.give_back(adopted.sock.fileno(), "192.0.2.1", 1, b"x" * (CARRIED_MAX + 1))
        assert run.worker.give_back(adopted.sock.fileno(), "192.0.2.1", 1, b"GET / ")

    client = run.hand_over(1)
    running = asyncio.ensure_future(run.worker.run(on_connection=give_back, on_drain=run._drain))
    assert await run.next(Ack) == Ack(1, 1), "the primary has closed its copy before it gets the connection back"
    received = await run.next_received(GiveBack)
    assert received.fd is not None
    assert received.carried == b"GET / "
    with socket.socket(fileno=received.fd) as copy:
        copy.sendall(b"answer")
    assert client.recv(100) == b"answer", "it is the same connection"
    run.adopted[0].sock.close()
    run.worker.closed(run.adopted[0])
    run.drain()
    await running
    client.close()
    run.primary.close()


@run_async
async def test_an_orphan_drains_when_its_last_connection_has_ended() -> None:
    run = Serving(orphan_grace_s=60.0)
    running = asyncio.ensure_future(run.until_ended())
    client = run.hand_over(1)
    await run.next(Ack)
    run.primary.close()
    while not run.worker.orphaned:  # noqa: ASYNC110 - nor has the loss of it
        await asyncio.sleep(0.001)
    assert not run.drained, "it serves what it has"
    run.adopted[0].sock.close()
    run.worker.closed(run.adopted[0])
    await running
    assert run.drained == [0]
    client.close()


@run_async
async def test_a_drain_begins_when_what_had_come_before_it_is_read() -> None:
    run = Serving()
    turns = 10 * 8  # of the loop, which are no measure of when a server reads
    order: list[str] = []

    async def serve(adopted: Adopted) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        assert adopted.sock.recv(100) == b"GET / "
        adopted.first_byte_read()
        order.append("read")
        adopted.sock.close()

    async def drain(deadline_s: float) -> None:
        order.append("drain")

    tasks: list[asyncio.Task[None]] = []
    running = asyncio.ensure_future(
        run.worker.run(on_connection=lambda each: tasks.append(asyncio.ensure_future(serve(each))), on_drain=drain)
    )
    clients = [run.hand_over(number) for number in (1, 2)]
    for client in clients:
        client.sendall(b"GET / ")
    run.drain()
    await running
    assert order == ["read", "read", "drain"]
    for client in clients:
        client.close()
    run.primary.close()


@run_async
async def test_a_drain_begins_though_a_server_never_reports_what_it_reads() -> None:
    run = Serving()
    client = run.hand_over(1)
    run.drain()
    await run.until_ended()
    assert run.drained == [1.0]
    run.adopted[0].sock.close()
    client.close()
    run.primary.close()


@run_async
async def test_a_primary_that_is_lost_behind_a_handoff_does_not_keep_a_worker() -> None:
    run = Serving()
    client = run.hand_over(1)
    run.primary.sock.send(b"\xc1")
    await run.until_ended()
    assert run.drained == [0]
    run.adopted[0].sock.close()
    client.close()
    run.primary.close()


def test_data_that_no_process_could_read_is_not_sent() -> None:
    run = Run()
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    with pytest.raises(ValueError, match="nested"):
        run.worker.send("all", nested)
    with pytest.raises(ValueError, match="characters"):
        run.worker.send("x" * 1000, 1)
    run.primary.close()
    run.worker._channel.close()


@pytest.mark.parametrize("missing", ["slot", "secret", "affinity"])
def test_a_boot_message_without_a_part_makes_no_worker(missing: str) -> None:
    primary, theirs = Channel.pair(from_worker)
    boot = {name: value for name, value in BOOT.items() if name != missing}
    with pytest.raises(LookupError):
        Worker(Channel(theirs, from_primary), boot)
    primary.close()
    theirs.close()


@run_async
async def test_a_process_that_no_primary_started_is_no_worker() -> None:
    with pytest.raises(NotAWorker, match=f"{CHANNEL_FD} is not set"):
        await Worker.connect()
    with pytest.raises(NotAWorker):
        new_sticky_id()


# What the primary says of the server


@run_async
async def test_a_worker_knows_that_the_server_stops_before_it_drains() -> None:
    run = Run()
    events: list[str] = []
    running = asyncio.ensure_future(run.until_ended(on_event=lambda name, about: events.append(name)))
    assert (run.worker.node_state.reasons, run.worker.node_state.is_stopping) == ((), False)
    run.primary.send(Kind.EVENT, messages.READINESS, {"reasons": ["why"], "stopping": True, "newer": 1})
    run.primary.send(Kind.EVENT, messages.READINESS, {"what": "a newer primary may say"})
    run.primary.send(Kind.EVENT, "online", {"slot": 1})
    run.primary.send(Kind.DRAIN, 1.0)
    await running
    assert (run.worker.node_state.reasons, run.worker.node_state.is_stopping) == (("why",), True)
    assert events == ["online"], "it is no event of another worker"
    run.primary.close()
