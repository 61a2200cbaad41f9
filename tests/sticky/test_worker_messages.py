"""Messages of workers: each goes to the part it is for; an illegal one costs its worker, and no descriptor."""

from __future__ import annotations

import os
import socket

import pytest

from sticky.handoff.channel import Kind, Received, Unreadable
from sticky.handoff.messages import Ack, Beat, BootFailed, Ended, GiveBack, KeysEnded, Message, Nack, Ready, Sent
from sticky.handoff.worker_handle import WorkerState
from sticky.supervision.worker_messages import ERROR_REASON
from tests.support.cluster_without_processes import ClusterWithoutProcesses


@pytest.fixture
def cluster() -> ClusterWithoutProcesses:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    return cluster


def test_a_heartbeat_is_noted_with_its_time(cluster: ClusterWithoutProcesses) -> None:
    worker = cluster.live(0)
    cluster.poller.run_for(2.0)
    cluster.send(worker, Beat(3, 5, {"rooms": 1}))
    assert (worker.reported, worker.adopted, worker.statistics) == (3, 5, {"rooms": 1})
    assert worker.last_beat_at == cluster.poller.now()
    assert worker.describe(cluster.poller.now())["statistics"] == {"rooms": 1}


def test_why_a_worker_cannot_boot_is_kept_until_it_is_reaped(cluster: ClusterWithoutProcesses) -> None:
    cluster.kill(cluster.live(0))
    cluster.poller.run_for(0.0)
    worker = cluster.starting(0)
    cluster.send(worker, BootFailed("no module named app"))
    assert worker.boot_error == "no module named app"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Ready(), "it is ready a second time"),
        (Ack(5, 0), "it acknowledges"),
        (Nack(7), "7, which it was not given"),
        (KeysEnded([b"k"], 9), "it has seen"),
        (Unreadable("not msgpack"), "not msgpack"),
        (Sent("slot:1", ["x" * 200_000]), "is larger than"),
    ],
)
def test_a_message_that_cannot_be_right_condemns_its_worker_alone(
    cluster: ClusterWithoutProcesses, message: Message | Unreadable, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker, other = cluster.live(0), cluster.live(1)
    cluster.send(worker, message)
    assert worker.state is WorkerState.CONDEMNED
    assert reason in caplog.text
    assert cluster.counters["condemned"] == 1
    assert other.state is WorkerState.READY
    assert sorted(cluster.workers.live) == [1]
    cluster.check()


def test_what_a_condemned_worker_sent_behind_it_is_not_handled(cluster: ClusterWithoutProcesses) -> None:
    worker = cluster.live(0)
    cluster.send(worker, Unreadable("broken"), Beat(99, 99, {}))
    assert worker.reported == 0


def test_an_error_in_a_handler_of_ours_costs_the_worker_and_the_loop_goes_on(
    cluster: ClusterWithoutProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    worker = cluster.live(0)
    worker.held = None  # type: ignore[assignment]  # a bug of ours, which `Ended` meets
    cluster.send(worker, Ended({"127.0.0.1": 1}))
    assert worker.state is WorkerState.CONDEMNED
    assert ERROR_REASON in caplog.text
    assert "Traceback" in caplog.text
    assert cluster.counters["callbacks_failed"] == 1
    assert cluster.live(1).state is WorkerState.READY


def given_back(fd: int | None) -> Received:
    return Received(GiveBack(b"", "192.0.2.1", 4711), fd, b"GET / HTTP/1.1\r\n")


def test_a_connection_that_is_given_back_is_passed_on_with_what_was_read(cluster: ClusterWithoutProcesses) -> None:
    ours, client = socket.socketpair()
    cluster.send(cluster.live(0), given_back(ours.detach()))  # type: ignore[arg-type]
    [(sock, peer, port, carried)] = cluster.given_back
    assert (peer, port, carried) == ("192.0.2.1", 4711, b"GET / HTTP/1.1\r\n")
    sock.send(b"alive")
    assert client.recv(5) == b"alive"
    sock.close()
    client.close()


def test_a_connection_whose_descriptor_was_lost_is_counted(cluster: ClusterWithoutProcesses) -> None:
    worker = cluster.live(0)
    cluster.send(worker, given_back(None))  # type: ignore[arg-type]
    assert cluster.counters["lost_given_back"] == 1
    assert worker.state is WorkerState.READY, "this process is out of descriptors, which is no fault of the worker"


def test_a_descriptor_that_is_no_connection_is_closed(cluster: ClusterWithoutProcesses) -> None:
    worker = cluster.live(0)
    fd = os.open(os.devnull, os.O_RDONLY)
    cluster.send(worker, given_back(fd))  # type: ignore[arg-type]
    assert worker.state is WorkerState.CONDEMNED
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_descriptors_behind_a_message_that_cannot_be_right_are_closed(cluster: ClusterWithoutProcesses) -> None:
    ours, client = socket.socketpair()
    cluster.send(cluster.live(0), Nack(7), given_back(ours.detach()))  # type: ignore[arg-type]
    client.setblocking(False)
    assert client.recv(1) == b"", "closed"
    assert cluster.given_back == []
    client.close()


def test_a_worker_that_is_hung_is_still_received_from(cluster: ClusterWithoutProcesses) -> None:
    worker = cluster.live(0)
    cluster.supervisor.worker_hung(worker)
    cluster.send(worker, Beat(4, 4, {}))
    assert worker.reported == 4
    assert Kind.DRAIN not in cluster.process(worker).channel.kinds()
