"""
Workers that die, hang, do not boot, are replaced, added, taken away and stopped; and the signals that ask for it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sticky.loop.log_lines import (
    RELOAD_CONTINUES,
    RELOAD_GIVEN_UP,
    SERVER_LISTENING,
    SERVER_STOPPING,
    WORKER_HUNG,
    WORKER_NOT_STARTED,
    WORKER_RESTART_DELAYED,
)
from tests.support.log_lines import exited, pattern
from tests.support.tiny_cluster import TinyCluster, answer, read_all

DEADLINE_S = 60.0


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(pids: list[int]) -> None:
    give_up_at = time.monotonic() + DEADLINE_S
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < give_up_at, f"still there: {left}"
        threading.Event().wait(0.01)


def hold(cluster: TinyCluster, client: str) -> tuple[socket.socket, int]:
    """Connect and stay. Return the connection and its worker's process."""
    sock = cluster.connect(client)
    sock.sendall(b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n")
    return sock, answer(sock)["pid"]


# Death and silence


def test_a_worker_that_dies_is_replaced_at_once_and_then_later_and_later() -> None:
    with TinyCluster(workers=2) as cluster:
        for _ in range(2):
            pid = cluster.pids()[1]
            os.kill(pid, signal.SIGKILL)
            cluster.log.wait_for(exited("killed by SIGKILL", slot=1, pid=pid))
            cluster.wait_until(lambda status, pid=pid: cluster.pids().get(1, pid) != pid, "another worker serves")
        assert len(cluster.log.find_all(pattern(WORKER_RESTART_DELAYED, slot=1))) == 1, "the first time at once"
        cluster.log.wait_for(pattern(WORKER_RESTART_DELAYED, slot=1, delay_s=1))


def test_a_worker_whose_loop_hangs_shows_its_stacks_and_is_replaced_while_others_serve() -> None:
    with TinyCluster(workers=2, heartbeat_s=0.2, hung_s=1.0) as cluster:
        client = next(f"127.0.3.{n}" for n in range(1, 250) if cluster.get(client=f"127.0.3.{n}")["slot"] == 1)
        other, other_pid = hold(cluster, next(f"127.0.3.{n}" for n in range(1, 250) if slot(cluster, n) == 0))
        pid = cluster.pids()[1]
        with cluster.connect(client) as stuck:
            stuck.sendall(b"GET /block HTTP/1.1\r\nHost: tiny\r\n\r\n")
            cluster.log.wait_for(pattern(WORKER_HUNG, slot=1, pid=pid) + r".*no heartbeat for \d")
            cluster.log.wait_for(r'File ".*tiny_worker.py", line \d+ in data_received')
            cluster.log.wait_for(exited("killed by SIGKILL", slot=1, pid=pid))
        cluster.wait_for_live([0, 1])
        assert cluster.get(client=client)["pid"] == cluster.pids()[1] != pid
        other.sendall(b"\r\n\r\n")
        assert answer(other)["pid"] == other_pid, "the other was not touched"
        other.close()


def slot(cluster: TinyCluster, number: int) -> int:
    found = cluster.get(client=f"127.0.3.{number}")["slot"]
    assert isinstance(found, int)
    return found


def test_workers_outlive_a_killed_primary_only_to_bring_their_clients_elsewhere() -> None:
    with TinyCluster(workers=2, orphan_grace_s=0.5) as cluster:
        sock, pid = hold(cluster, "127.0.0.1")
        idle = next(each for each in cluster.pids().values() if each != pid)
        os.kill(cluster.process.pid, signal.SIGKILL)
        wait_until_gone([idle])
        assert read_all(sock) == b"", "closed, when the grace was over"
        wait_until_gone([pid])
        sock.close()


# Booting


def test_when_no_worker_boots_the_reason_is_told_once_and_the_status_is_3() -> None:
    cluster = TinyCluster(workers=3, config={"boot": "fail"}).start()
    try:
        assert cluster.process.wait(DEADLINE_S) == 3
    finally:
        cluster.stop()
    assert len(cluster.log.find_all("the configuration says so")) == 1
    assert len(cluster.log.find_all("no worker could boot")) == 1
    assert not cluster.log.find_all(SERVER_LISTENING), "nobody was let in"


def test_workers_boot_while_the_primary_holds_more_than_a_thousand_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(TinyCluster(workers=1, handshake_s=60.0, nofile=4096))
        silent = [stack.enter_context(cluster.connect(f"127.0.{n // 250}.{n % 250 + 1}")) for n in range(1_100)]
        cluster.wait_until(lambda status: status["before_head"] == len(silent), "all are held")
        before = cluster.pids()
        os.kill(before[0], signal.SIGKILL)
        cluster.wait_until(lambda _: cluster.pids().get(0, before[0]) != before[0], "another worker serves")
        assert cluster.get()["pid"] != before[0]


# Reloading and scaling


def test_a_reload_replaces_every_worker_and_serves_on() -> None:
    with TinyCluster(workers=3) as cluster:
        before = cluster.pids()
        table = {f"127.0.4.{n}": cluster.get(client=f"127.0.4.{n}")["slot"] for n in range(1, 30)}
        sock, _ = hold(cluster, "127.0.0.1")
        cluster.process.send_signal(signal.SIGHUP)

        def replaced(status: dict[str, object]) -> bool:
            cluster.get(client="127.0.9.9")  # nobody is refused meanwhile
            now = cluster.pids()
            return set(now) == {0, 1, 2} and not set(now.values()) & set(before.values())

        cluster.wait_until(replaced, "every worker is another")
        assert read_all(sock) == b"", "who was there is brought elsewhere"
        sock.close()
        wait_until_gone(list(before.values()))
        assert {each["generation"] for each in cluster.status()["workers"]} == {2}
        assert {client: cluster.get(client=client)["slot"] for client in table} == table, "every slot has its clients"


def test_a_reload_to_a_version_that_does_not_boot_keeps_every_worker_and_says_why_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with TinyCluster(workers=3, config={"boot": "fail-if", "path": str(broken)}) as cluster:
        before = cluster.pids()
        broken.touch()
        cluster.process.send_signal(signal.SIGHUP)
        cluster.log.wait_for(RELOAD_GIVEN_UP)
        assert cluster.pids() == before
        assert len(cluster.log.find_all("the new version is broken")) == 1
        broken.unlink()
        cluster.process.send_signal(signal.SIGHUP)
        cluster.wait_until(lambda _: not set(cluster.pids().values()) & set(before.values()), "the next reload works")


def test_a_reload_goes_on_when_a_successor_is_killed_while_it_boots(tmp_path: Path) -> None:
    wait = tmp_path / "wait"
    with TinyCluster(workers=2, config={"boot": "wait-if", "path": str(wait)}) as cluster:
        before = cluster.pids()
        wait.touch()
        cluster.process.send_signal(signal.SIGHUP)
        started = cluster.wait_until(lambda status: len(status["workers"]) == 3, "a successor boots")
        [pid] = [each["pid"] for each in started["workers"] if each["state"] == "starting"]
        os.kill(pid, signal.SIGKILL)
        cluster.log.wait_for(pattern(RELOAD_CONTINUES, slot=0, pid=pid))
        wait.unlink()
        cluster.wait_until(lambda _: not set(cluster.pids().values()) & set(before.values()), "both are replaced")
        assert not cluster.log.find_all(RELOAD_GIVEN_UP)


def test_ttin_and_ttou_change_the_number_of_workers_and_move_no_more_addresses_than_they_must() -> None:
    with TinyCluster(workers=2) as cluster:
        clients = [f"127.0.4.{n}" for n in range(1, 60)]
        two = {client: cluster.get(client=client)["slot"] for client in clients}
        cluster.process.send_signal(signal.SIGTTIN)
        cluster.wait_for_live([0, 1, 2])
        three = {client: cluster.get(client=client)["slot"] for client in clients}
        assert {three[client] for client in clients if three[client] != two[client]} == {2}, "only to the new one"
        cluster.process.send_signal(signal.SIGTTOU)
        cluster.wait_for_live([0, 1])
        assert {client: cluster.get(client=client)["slot"] for client in clients} == two
        cluster.process.send_signal(signal.SIGTTOU)
        cluster.wait_for_live([0])
        cluster.process.send_signal(signal.SIGTTOU)
        cluster.get()
        assert cluster.status()["live"] == [0], "one is always there"


def test_a_reload_goes_on_when_the_slot_that_it_is_at_is_taken_away() -> None:
    with TinyCluster(workers=3) as cluster:
        before = cluster.pids()
        cluster.command("drain", slot=2)
        cluster.command("reload")
        cluster.command("scale", workers=2)
        cluster.wait_until(lambda status: status["reload"]["left"] == 0, "nothing is left to be replaced")
        cluster.wait_until(lambda status: {each["slot"] for each in status["workers"]} == {0, 1}, "two are there")
        assert not set(cluster.pids().values()) & set(before.values()), "and both are new"


def test_a_reload_without_a_process_to_replace_anybody_is_given_up(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    with TinyCluster(workers=2, python=str(python)) as cluster:
        before = cluster.pids()
        python.rename(tmp_path / "elsewhere")
        cluster.command("reload")
        cluster.log.wait_for(pattern(WORKER_NOT_STARTED, slot=0, reason="No such file or directory"))
        cluster.log.wait_for(RELOAD_GIVEN_UP)
        assert cluster.status()["reload"]["failed"] == "no process can be started: No such file or directory"
        assert cluster.pids() == before
        (tmp_path / "elsewhere").rename(python)
        cluster.command("reload")
        cluster.wait_until(lambda _: not set(cluster.pids().values()) & set(before.values()), "the next reload works")


def test_whoever_asks_what_a_worker_does_is_answered_also_when_several_ask_at_once() -> None:
    with TinyCluster(workers=1) as cluster, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cluster.command, "inspect", slot=0) for _ in range(8)]
        told = [each.result(DEADLINE_S) for each in asked]
        assert all("thread MainThread" in str(each) for each in told), told


def test_term_to_a_worker_replaces_that_worker() -> None:
    with TinyCluster(workers=2) as cluster:
        before = cluster.pids()
        os.kill(before[0], signal.SIGTERM)
        cluster.wait_until(lambda _: cluster.pids().get(0, before[0]) != before[0], "another serves slot 0")
        assert cluster.pids()[1] == before[1]
        wait_until_gone([before[0]])


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_process_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    door, pid_file = tmp_path / "door.sock", tmp_path / "pid"
    with TinyCluster(workers=2, binds=["127.0.0.1:0", f"unix:{door}"], pid_file=str(pid_file)) as cluster:
        assert door.is_socket()
        assert pid_file.read_text() == f"{cluster.process.pid}\n"
        pids = list(cluster.pids().values())
        sock, _ = hold(cluster, "127.0.0.1")
        cluster.process.send_signal(number)
        assert read_all(sock) == b""
        sock.close()
        assert cluster.process.wait(DEADLINE_S) == 0
        wait_until_gone(pids)
        assert not door.exists()
        assert not pid_file.exists()
        assert not Path(cluster.control).exists()


def test_workers_that_do_not_drain_end_at_the_second_signal() -> None:
    with TinyCluster(workers=2, drain_s=600.0, config={"drain": "never"}) as cluster:
        pids = list(cluster.pids().values())
        cluster.process.send_signal(signal.SIGINT)
        cluster.log.wait_for(pattern(SERVER_STOPPING, drain_s=600))
        cluster.process.send_signal(signal.SIGINT)
        assert cluster.process.wait(DEADLINE_S) == 128 + signal.SIGINT
        wait_until_gone(pids)


def test_workers_that_do_not_drain_are_killed_when_their_time_is_over() -> None:
    with TinyCluster(workers=2, drain_s=0.1, config={"drain": "never"}) as cluster:
        pids = list(cluster.pids().values())
        cluster.process.send_signal(signal.SIGTERM)
        assert cluster.process.wait(DEADLINE_S) == 0
        wait_until_gone(pids)


def test_quit_ends_at_once() -> None:
    with TinyCluster(workers=2, drain_s=600.0, config={"drain": "never"}) as cluster:
        pids = list(cluster.pids().values())
        cluster.process.send_signal(signal.SIGQUIT)
        assert cluster.process.wait(DEADLINE_S) == 128 + signal.SIGQUIT
        wait_until_gone(pids)
        assert not Path(cluster.control).exists()


def test_who_has_not_said_yet_what_he_wants_is_told_that_the_server_stops() -> None:
    with TinyCluster() as cluster, cluster.connect() as half:
        half.sendall(b"GET / HTTP/1.1\r\n")
        cluster.wait_until(lambda status: status["before_head"] == 1, "he is waited for")
        cluster.process.send_signal(signal.SIGTERM)
        assert read_all(half).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
