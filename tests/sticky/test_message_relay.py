"""Messages between workers: which workers get them, and what happens when a receiver's channel is full."""

from __future__ import annotations

import msgspec
import pytest

from sticky.handoff.channel import MESSAGE_MAX, Kind
from sticky.handoff.messages import Sent
from sticky.handoff.worker_handle import OUTBOX_MAX, WorkerHandle, WorkerState
from sticky.loop.poller import HANGUP, WRITE
from sticky.supervision.message_relay import CHECK_S, PAUSE_MAX_S
from tests.support.cluster_without_processes import ClusterWithoutProcesses


@pytest.fixture
def cluster() -> ClusterWithoutProcesses:
    cluster = ClusterWithoutProcesses(workers=3)
    cluster.start()
    return cluster


def received(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> list[tuple[str, object]]:
    """Return the messages that a worker was sent: sender and data."""
    sent = cluster.process(worker).channel.sent
    return [(fields[0], msgspec.msgpack.decode(fields[1])) for kind, fields in sent if kind is Kind.MESSAGE]


def is_paused(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> bool:
    assert worker.is_paused == (cluster.poller.mask_of(worker.channel.fileno()) in (HANGUP, HANGUP | WRITE))
    return worker.is_paused


def drain_outbox(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    """Have a worker receive everything: its channel has room again."""
    channel = cluster.process(worker).channel
    channel.is_full = False
    cluster.poller.make_ready(channel.fileno(), WRITE)


def test_to_one_worker_to_all_others_and_to_the_primary(cluster: ClusterWithoutProcesses) -> None:
    first, second, third = (cluster.live(slot) for slot in range(3))
    cluster.send(first, Sent("slot:1", {"a": 1}))
    cluster.send(first, Sent("all", [2]))
    cluster.send(first, Sent("primary", "three"))
    cluster.send(first, Sent("slot:9", "no worker has that slot"))
    cluster.send(first, Sent("slot:0", "to itself"))
    assert received(cluster, second) == [("slot:0", {"a": 1}), ("slot:0", [2])]
    assert received(cluster, third) == [("slot:0", [2])]
    assert received(cluster, first) == [("slot:0", "to itself")]
    assert cluster.events("message") == [{"from": "slot:0", "data": "three"}]


def test_from_the_primary(cluster: ClusterWithoutProcesses) -> None:
    assert cluster.supervisor.relay.send("all", 1) == 3
    assert cluster.supervisor.relay.send("slot:2", 2) == 1
    assert cluster.supervisor.relay.send("slot:7", 3) == 0
    assert received(cluster, cluster.live(2)) == [("primary", 1), ("primary", 2)]


def test_data_that_is_too_large_or_nested_too_deep_is_refused(cluster: ClusterWithoutProcesses) -> None:
    nested: object = 1
    for _ in range(200):
        nested = [nested]
    with pytest.raises(ValueError, match="is larger than"):
        cluster.supervisor.relay.send("all", "x" * MESSAGE_MAX)
    with pytest.raises(ValueError, match="nested deeper than"):
        cluster.supervisor.relay.send("all", nested)
    worker = cluster.live(0)
    cluster.send(worker, Sent("slot:1", nested))
    assert worker.state is WorkerState.CONDEMNED, "a worker's own end refuses it as well: this one is broken"


def test_a_sender_is_paused_until_its_receiver_has_room(cluster: ClusterWithoutProcesses) -> None:
    sender, receiver = cluster.live(0), cluster.live(1)
    cluster.process(receiver).channel.is_full = True
    cluster.send(sender, Sent("slot:1", 1))
    assert is_paused(cluster, sender)
    cluster.poller.run_for(PAUSE_MAX_S / 2)
    assert is_paused(cluster, sender)
    drain_outbox(cluster, receiver)
    cluster.poller.run_for(CHECK_S)
    assert not is_paused(cluster, sender)
    assert received(cluster, receiver) == [("slot:0", 1)]
    cluster.check()


def test_a_receiver_that_takes_nothing_for_long_pauses_no_sender_again(cluster: ClusterWithoutProcesses) -> None:
    sender, receiver = cluster.live(0), cluster.live(1)
    cluster.process(receiver).channel.is_full = True
    cluster.send(sender, Sent("slot:1", 1))
    cluster.poller.run_for(PAUSE_MAX_S + CHECK_S)
    assert not is_paused(cluster, sender)
    cluster.send(sender, Sent("slot:1", 2))
    assert not is_paused(cluster, sender)
    drain_outbox(cluster, receiver)
    cluster.send(sender, Sent("slot:1", 3))
    cluster.process(receiver).channel.is_full = True
    cluster.send(sender, Sent("slot:1", 4))
    assert is_paused(cluster, sender), "its outbox was empty since: it is trusted again"


def test_messages_for_a_full_outbox_are_dropped_and_counted(cluster: ClusterWithoutProcesses) -> None:
    receiver = cluster.live(1)
    cluster.process(receiver).channel.is_full = True
    sent = [cluster.supervisor.relay.send("slot:1", number) for number in range(OUTBOX_MAX + 10)]
    assert sent == [1] * OUTBOX_MAX + [0] * 10
    assert cluster.counters["messages_dropped"] == 10
    drain_outbox(cluster, receiver)
    assert [data for _, data in received(cluster, receiver)] == list(range(OUTBOX_MAX)), "in their order"


def test_a_receiver_that_ends_holds_its_sender_up_no_longer(cluster: ClusterWithoutProcesses) -> None:
    sender, receiver = cluster.live(0), cluster.live(1)
    cluster.process(receiver).channel.is_full = True
    cluster.send(sender, Sent("slot:1", 1))
    cluster.kill(receiver)
    cluster.poller.run_for(CHECK_S)
    assert not is_paused(cluster, sender)


def test_a_sender_that_ends_while_it_is_paused(cluster: ClusterWithoutProcesses) -> None:
    sender, receiver = cluster.live(0), cluster.live(1)
    cluster.process(receiver).channel.is_full = True
    cluster.send(sender, Sent("slot:1", 1))
    cluster.kill(sender)
    cluster.poller.run_for(2 * PAUSE_MAX_S)
    cluster.check()
