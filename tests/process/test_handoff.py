"""
Between the primary and a worker no connection is lost: each is in somebody's hands until it is served.

Workers are stopped, killed, or say no, with connections on their way. Every client gets its answer from another worker;
none sees a reset, none is answered twice.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.log_lines import WORKER_DRAINING
from tests.support.log_lines import pattern
from tests.support.tiny_cluster import TinyCluster, answer, read_all

WAITING = 300


def addresses() -> Iterator[str]:
    for number in range(250 * 250):
        yield f"127.88.{number // 250}.{number % 250 + 1}"


def clients_of(cluster: TinyCluster, slot: int, count: int) -> list[str]:
    """Return so many addresses that the slot serves."""
    found = []
    for client in addresses():
        if cluster.get(client=client)["slot"] == slot:
            found.append(client)
        if len(found) == count:
            break
    return found


def none_is_on_its_way(status: dict[str, Any]) -> bool:
    return not any(each["unacked"] for each in status["workers"])


def ask_all(cluster: TinyCluster, clients: list[str], path: str = "/") -> list[socket.socket]:
    socks = [cluster.connect(client) for client in clients]
    for sock in socks:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: tiny\r\n\r\n".encode())
    return socks


def wait_for_all(cluster: TinyCluster, pid: int, count: int) -> int:
    """Wait until so many connections wait for a worker. Return how many of them are in its channel."""

    def worker(status: dict[str, Any]) -> dict[str, Any]:
        return next(each for each in status["workers"] if each["pid"] == pid)

    def all_wait(status: dict[str, Any]) -> bool:
        return bool(worker(status)["unacked"] + worker(status)["waiting"] == count)

    return int(worker(cluster.wait_until(all_wait, "every connection waits for the stopped worker"))["unacked"])


def test_what_waits_in_a_stopped_workers_channel_is_served_by_others_when_it_is_killed() -> None:
    with TinyCluster(workers=3, hung_s=120.0, patience_s=60.0) as cluster:
        clients = clients_of(cluster, 1, WAITING)
        pid = cluster.pids()[1]
        cluster.wait_until(none_is_on_its_way, "who asked is settled")
        os.kill(pid, signal.SIGSTOP)
        socks = ask_all(cluster, clients)
        wait_for_all(cluster, pid, WAITING)
        os.kill(pid, signal.SIGKILL)
        for sock, client in zip(socks, clients, strict=True):
            found = answer(sock)
            assert found["client"] == client
            assert found["pid"] != pid
            assert found["reason"] == "again"
            assert read_all(sock) == b"", "one answer, and a close that is no reset"
            sock.close()
        counters = cluster.status()["counters"]
        assert counters["handed_over_again"] == WAITING
        assert not counters.get("lost_after_reading")


def test_a_stopped_worker_that_goes_on_serves_what_waited() -> None:
    with TinyCluster(workers=2, hung_s=120.0, patience_s=60.0) as cluster:
        clients = clients_of(cluster, 1, 50)
        pid = cluster.pids()[1]
        os.kill(pid, signal.SIGSTOP)
        socks = ask_all(cluster, clients)
        cluster.wait_until(lambda status: status["before_head"] == 0, "all are on their way")
        os.kill(pid, signal.SIGCONT)
        for sock in socks:
            assert answer(sock)["pid"] == pid
            sock.close()


def test_what_waits_for_a_worker_that_is_replaced_is_served_by_it_or_by_its_successor() -> None:
    with TinyCluster(workers=2, hung_s=120.0, patience_s=60.0) as cluster:
        clients = clients_of(cluster, 1, 2 * WAITING)
        pid = cluster.pids()[1]
        cluster.wait_until(none_is_on_its_way, "who asked is settled")
        os.kill(pid, signal.SIGSTOP)
        socks = ask_all(cluster, clients)
        in_channel = wait_for_all(cluster, pid, len(clients))
        assert in_channel < len(clients), "some find no room in the channel"
        cluster.command("drain", slot=1)
        cluster.log.wait_for(pattern(WORKER_DRAINING, slot=1, pid=pid))
        os.kill(pid, signal.SIGCONT)  # it finds the connections, and behind them that it is to end
        served = [answer(sock) for sock in socks]
        assert [each["client"] for each in served] == clients
        assert {each["slot"] for each in served} == {1}
        assert [each["pid"] for each in served].count(pid) == in_channel, "it serves what it was given"
        for sock in socks:
            assert read_all(sock) == b"", "one answer, and a close that is no reset"
            sock.close()


def test_what_waits_for_a_stopped_worker_when_the_cluster_stops_is_told_so() -> None:
    with TinyCluster(workers=1, hung_s=120.0, patience_s=60.0) as cluster:
        [pid] = cluster.pids().values()
        os.kill(pid, signal.SIGSTOP)
        clients = [client for client, _ in zip(addresses(), range(2 * WAITING), strict=False)]
        socks = ask_all(cluster, clients)
        in_channel = wait_for_all(cluster, pid, len(socks))
        waiting = len(socks) - in_channel
        assert waiting > 0, "some find no room in the channel"
        cluster.process.send_signal(signal.SIGTERM)
        cluster.log.wait_for(pattern(WORKER_DRAINING, slot=0, pid=pid))
        os.kill(pid, signal.SIGCONT)
        begins = [read_all(sock)[:12] for sock in socks]
        assert begins.count(b"HTTP/1.1 503") == waiting
        assert begins.count(b"HTTP/1.1 200") == len(socks) - waiting
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("when", ["adopting", "adopted"])
def test_a_worker_killed_before_it_reads_takes_nobody_along(when: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with TinyCluster(workers=2, config={"die": when, "path": str(trap)}) as cluster:
        clients = clients_of(cluster, 1, 40)
        for _ in range(3):
            before = cluster.pids()
            trap.touch()
            socks = ask_all(cluster, clients)
            for sock in socks:
                assert answer(sock)["pid"] != before[1]
                assert read_all(sock) == b"", "one answer, and a close that is no reset"
                sock.close()
            assert not trap.exists(), "somebody was caught"
            cluster.wait_for_live([0, 1])
            assert cluster.pids()[1] != before[1]
        assert cluster.status()["counters"]["died"] == 3


def test_who_was_read_and_not_answered_is_told_so(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.touch()
    with TinyCluster(workers=2, config={"die": "read", "path": str(trap)}) as cluster:
        [sock] = ask_all(cluster, ["127.0.0.1"])
        assert read_all(sock).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        sock.close()
        assert cluster.status()["counters"]["refused_read"] == 1


def test_an_answer_that_was_begun_is_not_followed_by_another(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.touch()
    with TinyCluster(workers=2, config={"die": "half", "path": str(trap)}) as cluster:
        [sock] = ask_all(cluster, ["127.0.0.1"])
        received = read_all(sock)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"\r\n\r\n"), "its head, and nothing else"
        sock.close()
        assert cluster.status()["counters"]["closed_with_worker"] == 1


def test_what_a_worker_cannot_adopt_another_serves() -> None:
    with TinyCluster(workers=2, config={"refusing": 0}) as cluster:
        for client in clients_of(cluster, 0, 5):
            found = cluster.get("/refuse", client=client)
            assert (found["slot"], found["reason"]) == (1, "again")
            assert cluster.get("/", client=client)["slot"] == 0, "it refused that one only"


def test_what_nobody_can_adopt_is_answered_503() -> None:
    with TinyCluster(workers=1, config={"refusing": 0}) as cluster:
        [sock] = ask_all(cluster, ["127.0.0.1"], "/refuse")
        assert read_all(sock).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        sock.close()
        assert cluster.status()["counters"]["refused_attempts"] == 1


def test_while_no_worker_is_there_connections_wait_for_one(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with TinyCluster(workers=1, patience_s=60.0, config={"boot": "fail-if", "path": str(broken)}) as cluster:
        broken.touch()
        os.kill(cluster.pids()[0], signal.SIGKILL)
        cluster.wait_until(lambda status: not status["live"], "nobody serves")
        [sock] = ask_all(cluster, ["127.0.0.1"])
        cluster.wait_until(lambda status: status["homeless"] == 1, "it waits")
        broken.unlink()
        assert answer(sock)["slot"] == 0
        sock.close()


def test_who_waits_longer_than_the_patience_is_answered_503(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with TinyCluster(workers=1, patience_s=0.3, config={"boot": "fail-if", "path": str(broken)}) as cluster:
        broken.touch()
        os.kill(cluster.pids()[0], signal.SIGKILL)
        cluster.wait_until(lambda status: not status["live"], "nobody serves")
        [sock] = ask_all(cluster, ["127.0.0.1"])
        assert read_all(sock).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        sock.close()
