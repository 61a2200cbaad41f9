"""The primary's view of one worker: its outbox while the channel is full, its counts, and how an end is described."""

from __future__ import annotations

import signal

import pytest

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import OUTBOX_MAX, WorkerHandle, WorkerState, describe_end
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from tests.support.fake_environment import FakeChannel


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def worker(channel: FakeChannel) -> WorkerHandle:
    return WorkerHandle(Slot(2), 811, channel, worker_id="n-2-a", generation=1, now=100.0, lifetime=Lifetime())


def test_messages_for_a_full_channel_wait_and_keep_their_order(worker: WorkerHandle, channel: FakeChannel) -> None:
    assert worker.send(Kind.INSPECT)
    channel.is_full = True
    assert not worker.send(Kind.DRAIN, 1.0)
    channel.is_full = False
    assert not worker.send(Kind.EVENT, "online", {}), "behind the one that waits"
    assert channel.kinds() == [Kind.INSPECT]
    assert worker.flush()
    assert channel.kinds() == [Kind.INSPECT, Kind.DRAIN, Kind.EVENT]


def test_a_flush_stops_where_the_channel_is_full_again(worker: WorkerHandle, channel: FakeChannel) -> None:
    channel.is_full = True
    worker.send(Kind.DRAIN, 1.0)
    assert not worker.flush()
    assert len(worker.outbox) == 1


def test_what_waits_for_a_worker_that_has_ended_is_dropped(worker: WorkerHandle, channel: FakeChannel) -> None:
    channel.is_full = True
    worker.send(Kind.DRAIN, 1.0)
    channel.has_ended = True
    assert worker.flush()
    assert not worker.outbox
    assert worker.send(Kind.INSPECT), "nothing waits: its end will be noticed"
    worker.state = WorkerState.GONE
    assert worker.send(Kind.INSPECT)
    assert not worker.outbox


def test_a_full_outbox_is_reported(worker: WorkerHandle, channel: FakeChannel) -> None:
    channel.is_full = True
    for _ in range(OUTBOX_MAX):
        assert not worker.is_full
        worker.send(Kind.INSPECT)
    assert worker.is_full


def test_connections_are_those_reported_and_those_handed_over_since(worker: WorkerHandle) -> None:
    worker.handed = 5
    assert worker.connections == 5, "none is reported yet"
    worker.record_heartbeat(3, 4, {"rooms": 1}, 101.0)
    assert worker.connections == 4, "three are open, and one is on its way"
    assert worker.describe(110.0) == {
        "slot": 2,
        "pid": 811,
        "worker_id": "n-2-a",
        "state": "starting",
        "generation": 1,
        "connections": 4,
        "adopted": 4,
        "unacked": 0,
        "waiting": 0,
        "up_s": 10.0,
        "statistics": {"rooms": 1},
    }


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "status 0"),
        (3, "status 3"),
        (-signal.SIGKILL, "killed by SIGKILL"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-40, "killed by signal 40"),
    ],
)
def test_an_end_in_words(code: int, text: str) -> None:
    assert describe_end(code) == text
