"""
Two thousand connects a second for ten seconds, and each second a worker is killed.

Every client is served or told 503; none hangs, none is reset. Afterwards the primary has the descriptors that it had
before, nothing is on its way any more, and its memory has not grown with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.tiny_cluster import TinyCluster

RATE_PER_S, SECONDS, THREADS = 2_000, 10, 16
GROWTH_MAX_KIB = 8 * 1024  # what allocators keep for the next time


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    return next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:5] == "VmRSS"
    )


def visit(cluster: TinyCluster, client: str) -> str:
    """Ask once: return the status, or what went wrong."""
    received = b""
    try:
        with cluster.connect(client) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: tiny\r\n\r\n")
            while data := sock.recv(65536):
                received += data
    except OSError as error:
        return f"{type(error).__name__} after {received[:40]!r}"
    status = received[9:12].decode()
    return status if received.startswith(b"HTTP/1.1 ") else f"closed after {received[:40]!r}"


def storm(cluster: TinyCluster, per_thread: int, found: list[str]) -> list[threading.Thread]:
    """Start the clients: each thread connects when the next is due, and never before."""

    def visits(thread: int) -> None:
        begun = time.monotonic()
        wait = threading.Event()
        for number in range(per_thread):
            early_s = begun + number * THREADS / RATE_PER_S - time.monotonic()
            if early_s > 0:
                wait.wait(early_s)
            found.append(visit(cluster, f"127.{60 + thread}.{number // 250}.{number % 250 + 1}"))

    threads = [threading.Thread(target=visits, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.slow
def test_a_storm_while_workers_are_killed() -> None:
    with TinyCluster(workers=4, patience_s=5.0) as cluster:
        pid = cluster.process.pid
        for thread in storm(cluster, 200, []):  # what Python keeps once it was needed, it has by now
            thread.join()
        cluster.wait_until(lambda status: status["before_head"] == 0, "all is quiet")
        before, memory_kib = descriptors(pid), resident_kib(pid)

        found: list[str] = []
        threads = storm(cluster, RATE_PER_S * SECONDS // THREADS, found)
        wait, killed = threading.Event(), 0
        while any(thread.is_alive() for thread in threads):
            pids = cluster.pids()
            if pids:
                os.kill(pids[sorted(pids)[killed % len(pids)]], signal.SIGKILL)
                killed += 1
            wait.wait(1)
        assert killed >= SECONDS

        assert len(found) == RATE_PER_S * SECONDS
        told = Counter(found)
        print(told, f"{killed} killed, {memory_kib} -> {resident_kib(pid)} KiB")
        assert not [each for each in told if each.startswith("TimeoutError")], "none hangs"
        assert set(told) <= {"200", "503"}, told
        cluster.wait_for_live([0, 1, 2, 3])
        status = cluster.wait_until(
            lambda status: (
                status["before_head"] == 0
                and all(each["unacked"] == each["waiting"] == 0 for each in status["workers"])
                and descriptors(pid) == before
            ),
            "nothing is on its way",
        )
        assert not status["counters"].get("lost_after_reading")
        assert resident_kib(pid) - memory_kib < GROWTH_MAX_KIB
