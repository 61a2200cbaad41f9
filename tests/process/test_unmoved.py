"""
What a bad client does to the primary: it is answered or closed within its bound, and counted; others are served on.

Each test is one bad client, or hundreds of one kind, against a real primary with tiny workers. Others, from other
addresses, are served meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest

from sticky.loop.log_lines import WORKER_NOT_STARTED
from tests.support.log_lines import pattern
from tests.support.tiny_cluster import TinyCluster, answer, read_all

BAD = "127.66.0.1"
GOOD = "127.77.0.1"
BEGIN = b"GET / HTTP/1.1\r\nHost: tiny\r\n"


def count(cluster: TinyCluster, name: str, at_least: int) -> None:
    cluster.wait_until(lambda status: status["counters"].get(name, 0) >= at_least, f"{name} of {at_least}")


def status_line(sock: socket.socket) -> bytes:
    return read_all(sock).partition(b"\r\n")[0]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_who_says_nothing_is_told_so_in_time() -> None:
    with TinyCluster(handshake_s=0.5) as cluster, cluster.connect(BAD) as silent:
        cluster.get(client=GOOD)
        assert status_line(silent) == b"HTTP/1.1 408 Request Timeout"
        count(cluster, "refused_408", 1)


def test_a_head_that_trickles_has_the_same_time_as_any_other() -> None:
    with TinyCluster(handshake_s=1.0) as cluster, cluster.connect(BAD) as slow:
        slow.sendall(BEGIN)
        sent = 0
        while not select.select([slow], [], [], 0)[0]:
            slow.sendall(b"x")  # one byte for every client that is served meanwhile
            cluster.get(client=GOOD)
            sent += 1
        assert sent > 1
        assert status_line(slow) == b"HTTP/1.1 408 Request Timeout"
        assert cluster.status()["counters"]["refused_408"] == 1


@pytest.mark.parametrize("piece", [1024, 40_000], ids=["in pieces", "at once"])
def test_a_head_above_16_kib_is_refused(piece: int) -> None:
    with TinyCluster() as cluster, cluster.connect(BAD) as large:
        head = BEGIN + b"X-Large: " + b"x" * 20_000 + b"\r\n\r\n"
        for start in range(0, len(head), piece):
            large.sendall(head[start : start + piece])
            cluster.get(client=GOOD)  # each piece is seen for itself
        assert status_line(large) == b"HTTP/1.1 431 Request Header Fields Too Large"
        count(cluster, "refused_431", 1)


def test_a_head_of_just_below_16_kib_is_served() -> None:
    with TinyCluster() as cluster:
        found = cluster.get(headers=f"X-Large: {'x' * (16 * 1024 - 100)}\r\n")
        assert len(found["head"]) > 16 * 1024 - 100


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03" * 20,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost tiny\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: tiny\r\n\r\n",
        b"\xff" * 5000,
    ],
    ids=["zeros", "another protocol", "no version", "no colon", "folded", "five thousand"],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with TinyCluster(workers=1) as cluster, cluster.connect(BAD) as sock:
        sock.sendall(garbage)
        assert status_line(sock) == b"HTTP/1.1 400 Bad Request"
        count(cluster, "refused_400", 1)
        cluster.get(client=GOOD)


def test_another_version_of_http_is_refused_by_name() -> None:
    with TinyCluster(workers=1) as cluster, cluster.connect(BAD) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert status_line(sock) == b"HTTP/1.1 505 HTTP Version Not Supported"
        cluster.get(client=GOOD)


def test_a_tls_hello_gets_an_alert_that_tls_clients_understand_and_the_operator_is_told_once() -> None:
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(504)
    with TinyCluster(workers=1) as cluster:
        for _ in range(3):
            with cluster.connect(BAD) as sock:
                sock.sendall(hello)
                assert read_all(sock) == bytes.fromhex("15030100020228")
        count(cluster, "refused_tls", 3)
        cluster.get(client=GOOD)
        cluster.log.wait_for("TLS refused peer=")
    assert len(cluster.log.find_all("TLS refused peer=")) == 1


@pytest.mark.parametrize("said", [b"", BEGIN, BEGIN + b"\r\n"], ids=["nothing", "half a head", "a whole head"])
def test_clients_that_reset_leave_nothing_behind(said: bytes) -> None:
    with TinyCluster(handshake_s=2.0) as cluster:
        cluster.get(client=GOOD)
        before = descriptors(cluster.process.pid)
        for number in range(200):
            with cluster.connect(f"127.66.0.{number + 1}") as sock:
                sock.sendall(said)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        cluster.get(client=GOOD)
        cluster.wait_until(lambda status: status["before_head"] == 0, "nobody is waited for")
        cluster.wait_until(lambda status: all(not each["unacked"] for each in status["workers"]), "all is adopted")
        cluster.wait_until(lambda _: descriptors(cluster.process.pid) <= before + 1, "as many descriptors as before")
        assert cluster.status()["counters"]["accepted"] >= 200


@pytest.mark.parametrize(
    ("proxy_line", "more"),
    [(b"", b"X-More: 1\r\n"), (b"PROXY TCP4 192.0.2.1 ", b"127.0.0.1 4711 80\r\n" + BEGIN), (b"PROXY TCP4 192", b".0")],
    ids=["a head", "a head behind a proxy's line", "a proxy's line"],
)
def test_bytes_and_the_end_of_the_stream_in_one_event_free_the_descriptor_at_once(
    proxy_line: bytes, more: bytes
) -> None:
    # The primary stands still while both arrive, so that its poller has one event for them.
    settings = {"proxy_protocol": True, "trusted": [f"{BAD}/32"]} if proxy_line else {}
    with TinyCluster(workers=1, handshake_s=3600, **settings) as cluster, cluster.connect(BAD) as sock:
        sock.sendall(proxy_line or BEGIN)
        cluster.wait_until(lambda status: status["before_head"] == 1, "the connection is watched")
        cluster.process.send_signal(signal.SIGSTOP)
        try:
            while Path(f"/proc/{cluster.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                pass  # until it has stopped indeed
            sock.sendall(more)
            sock.shutdown(socket.SHUT_WR)
        finally:
            cluster.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(ConnectionResetError):  # what was only peeked at is unread when it is closed
            assert read_all(sock) == b""
        count(cluster, "gone_before_head", 1)
        assert cluster.status()["before_head"] == 0


def test_five_hundred_half_open_heads_cost_no_processor_time() -> None:
    with TinyCluster(handshake_s=60.0) as cluster:
        socks = [cluster.connect(f"127.66.{n // 250}.{n % 250 + 1}") for n in range(500)]
        for sock in socks:
            sock.sendall(BEGIN)
        cluster.wait_until(lambda status: status["before_head"] == 500, "all wait")
        before = cpu_s(cluster.process.pid)
        threading.Event().wait(2)  # what is measured: these seconds
        spent = cpu_s(cluster.process.pid) - before
        print(f"the primary used {spent:.2f} s of processor time in 2 s, with 500 half-open heads")
        assert spent < 0.25, "a primary that polled them would use seconds"
        cluster.get(client=GOOD)
        for sock in socks:
            sock.sendall(b"\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200", "whoever goes on is served"
            sock.close()


def test_out_of_descriptors_some_are_told_503_and_others_go_on() -> None:
    with TinyCluster(nofile=48, handshake_s=60.0) as cluster, cluster.connect(GOOD) as other:
        other.sendall(b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n")
        assert other.recv(12) == b"HTTP/1.1 200"
        silent = [cluster.connect(f"127.66.0.{n + 1}") for n in range(60)]
        ready, _, _ = select.select(silent, [], [], 30)
        assert status_line(ready[0]) == b"HTTP/1.1 503 Service Unavailable"
        cluster.log.wait_for("out of descriptors .*raise the limit")
        other.sendall(b"again\r\n\r\n")
        assert other.recv(65536), "who was there is served on"
        for sock in silent:
            sock.close()
        assert cluster.get(client=GOOD)["client"] == GOOD
        assert cluster.status()["counters"]["out_of_descriptors"] >= 1
        assert len(cluster.log.find_all("out of descriptors")) == 1, "told once"


def test_a_worker_that_dies_while_descriptors_are_out_is_replaced_when_there_are_some() -> None:
    with TinyCluster(nofile=64, handshake_s=60.0) as cluster, cluster.connect(GOOD) as other:
        other.sendall(b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n")
        held = answer(other)["pid"]
        [dying] = [slot for slot, pid in cluster.pids().items() if pid != held]
        doomed = cluster.pids()[dying]
        silent = [cluster.connect(f"127.66.0.{n + 1}") for n in range(80)]
        cluster.log.wait_for("out of descriptors .*raise the limit")
        # Those that its channel held are free a moment before its successor is begun: from here on none are.
        before = resource.prlimit(cluster.process.pid, resource.RLIMIT_NOFILE, (3, 64))
        os.kill(doomed, signal.SIGKILL)
        cluster.log.wait_for(pattern(WORKER_NOT_STARTED, slot=dying, reason="Too many open files"))
        other.sendall(b"again\r\n\r\n")
        assert other.recv(65536), "who was there is served on"
        for sock in silent:
            sock.close()
        resource.prlimit(cluster.process.pid, resource.RLIMIT_NOFILE, before)
        cluster.wait_for_live([0, 1])
        assert cluster.process.poll() is None
