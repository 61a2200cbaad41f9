"""
What `sticky.Cluster` offers to whoever runs one: hooks, messages, environments, lifetimes, users, service managers.

A real primary with real workers; each event of a hook is a line of its log.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import queue
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.log_lines import WORKER_PAST_LIFETIME
from tests.support.nobody import PYTHON_PATH, python_of_nobody
from tests.support.server import ROOT
from tests.support.tiny_cluster import TinyCluster


def as_nobody() -> dict[str, Any]:
    """Return what has a cluster and its workers run as user nobody."""
    return {"user": "nobody", "python": python_of_nobody(), "env": {"PYTHONPATH": PYTHON_PATH}}


def events(cluster: TinyCluster) -> list[tuple[str, dict[str, Any]]]:
    """Return what the hooks were told so far."""
    found = []
    for line in cluster.log.lines:
        if line.startswith("hook "):
            _, name, fields = line.split(" ", 2)
            found.append((name, json.loads(fields)))
    return found


def address_of(cluster: TinyCluster, slot: int) -> str:
    """Return an address of a client whom this slot serves."""
    return next(client for n in range(1, 255) if cluster.get(client=(client := f"127.9.0.{n}"))["slot"] == slot)


def ask_slot(cluster: TinyCluster, slot: int, path: str = "/") -> dict[str, Any]:
    """Ask the worker of one slot."""
    return cluster.get(path, client=address_of(cluster, slot))


# Hooks


def test_hooks_are_told_everything_in_the_order_of_a_worker_s_life() -> None:
    with TinyCluster(workers=2) as cluster:
        pid = cluster.pids()[1]
        os.kill(pid, 9)
        cluster.log.wait_for(rf'hook exit .*"pid": {pid}, "status": -9, "expected": false')
        cluster.wait_for_live([0, 1])
        status = cluster.stop()
    assert status == 0
    told = events(cluster)
    assert told[0][0] == "setup"
    assert told[0][1]["addresses"] == [f"{cluster.address[0]}:{cluster.address[1]}"]
    assert [name for name, _ in told].count("listening") == 1
    mine = [name for name, fields in told if fields.get("pid") == pid]
    assert mine == ["fork", "online", "disconnect", "exit"]
    ended = [fields["status"] for name, fields in told if name == "exit"]
    assert sorted(ended) == [-9, 0, 0]
    assert all(fields["expected"] == (fields["status"] == 0) for name, fields in told if name == "exit")
    first_online = next(number for number, (name, _) in enumerate(told) if name == "online")
    assert told.index(("listening", told[0][1])) in (first_online - 1, first_online + 1)


# Messages


def test_messages_reach_one_worker_all_others_and_the_primary() -> None:
    with TinyCluster(workers=3) as cluster:
        assert ask_slot(cluster, 0, "/send/slot:1/2/10")["taken"] == 2
        assert ask_slot(cluster, 1, "/send/all/1/10")["taken"] == 1
        assert ask_slot(cluster, 2, "/send/primary/1/10")["taken"] == 1
        cluster.log.wait_for(r'hook message {"from": "slot:2", "data": \[0, "x{10}"\]}')
        ask_slot(cluster, 2, "/repeat/all")
        cluster.log.wait_for("sent to 3")
        heard = {slot: ask_slot(cluster, slot)["heard"] for slot in range(3)}
    assert heard[0] == [["slot:1", 0], ["primary", "by the primary"]]
    assert heard[1] == [["slot:0", 0], ["slot:0", 1], ["primary", "by the primary"]]
    assert heard[2] == [["slot:1", 0], ["primary", "by the primary"]]


def test_a_message_to_nobody_is_nobody_s_loss() -> None:
    with TinyCluster(workers=2) as cluster:
        assert ask_slot(cluster, 0, "/send/slot:7/1/10")["taken"] == 1
        ask_slot(cluster, 0, "/repeat/slot:7")
        cluster.log.wait_for("sent to 0")


def test_a_message_that_is_too_large_is_refused_where_it_is_sent() -> None:
    with TinyCluster(workers=2) as cluster:
        refused = ask_slot(cluster, 0, "/send/slot:1/1/200000")
        assert "larger than 196608" in refused["error"]
        assert ask_slot(cluster, 0, "/send/slot:1/1/190000")["taken"] == 1
        assert ask_slot(cluster, 1)["heard"] == [["slot:0", 0]]


def test_a_flood_is_held_back_where_it_comes_from_and_nothing_that_was_taken_is_lost() -> None:
    with TinyCluster(workers=2, hung_s=60.0) as cluster:
        taken = ask_slot(cluster, 0, "/send/slot:1/5000/1000")["taken"]
        assert 0 < taken < 5000, "its own channel was full"
        cluster.wait_until(lambda _: len(ask_slot(cluster, 1)["heard"]) >= taken, "everything taken has come")
        numbers = [number for _, number in ask_slot(cluster, 1)["heard"]]
        assert numbers == sorted(set(numbers)), "in order, none twice"
        assert len(numbers) == taken
        assert "messages_dropped" not in cluster.status()["counters"]


def test_a_worker_that_takes_no_messages_stops_nobody_for_long_and_what_it_misses_is_counted() -> None:
    with TinyCluster(workers=3, hung_s=60.0) as cluster:
        sender, other = address_of(cluster, 0), address_of(cluster, 2)
        stopped = cluster.pids()[1]
        os.kill(stopped, signal.SIGSTOP)
        try:
            while not cluster.status()["counters"].get("messages_dropped"):
                cluster.get("/send/slot:1/300/1000", client=sender)
            assert cluster.status()["live"] == [0, 1, 2]
            assert cluster.get("/send/slot:2/1/10", client=sender)["taken"] == 1
            cluster.wait_until(
                lambda _: ["slot:0", 0] in cluster.get(client=other)["heard"], "a message to another worker came"
            )
        finally:
            os.kill(stopped, signal.SIGCONT)
        cluster.wait_until(lambda _: len(ask_slot(cluster, 1)["heard"]) > 250, "it takes up what waited")


# The environment, and whom a worker is


def test_each_slot_has_an_environment_of_its_own_and_keeps_it() -> None:
    with TinyCluster(workers=2) as cluster:
        before = ask_slot(cluster, 1)
        os.kill(before["pid"], 9)
        cluster.wait_until(lambda _: cluster.pids().get(1, before["pid"]) != before["pid"], "slot 1 is filled again")
        after = ask_slot(cluster, 1)
    for answer in (before, after):
        assert answer["env"]["TINY"] == "of slot 1"
        assert answer["env"]["STICKY_SLOT"] == "1"


def test_it_becomes_another_user_after_it_has_bound_what_only_root_can() -> None:
    nobody = pwd.getpwnam("nobody")
    with TinyCluster(workers=1, binds=["127.8.7.6:81"], **as_nobody()) as cluster:
        assert cluster.get(client="127.8.7.6")["ids"] == [nobody.pw_uid, nobody.pw_gid]
        facts = facts_of(cluster.process.pid)
        assert set(facts["Uid"]) == set(facts["Gid"]) == {str(nobody.pw_uid)}, "the primary too, for good"
        assert "0" not in facts["Groups"]


def test_the_group_can_be_another_than_the_user_s() -> None:
    group = grp.getgrnam("daemon")
    with TinyCluster(workers=1, group="daemon", **as_nobody()) as cluster:
        assert cluster.get()["ids"] == [pwd.getpwnam("nobody").pw_uid, group.gr_gid]


def facts_of(pid: int) -> dict[str, list[str]]:
    """Return what the kernel says of a process (proc(5), status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(("name", "value"), [("user", "nobody-such"), ("group", "no-such-group")])
def test_a_user_or_group_that_is_not_there_is_named_and_leaves_nothing(name: str, value: str, tmp_path: Path) -> None:
    door = tmp_path / "door"
    cluster = TinyCluster(workers=1, binds=[f"unix:{door}"], **{name: value}).start()
    cluster.log.wait_for(f"{name}: this machine has no {name} '{value}'")
    assert cluster.stop() != 0
    assert not door.exists()


def test_the_umask_is_that_of_its_files_and_of_its_workers(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with TinyCluster(workers=1, binds=["127.0.0.1:0", f"unix:{door}"], umask=0o027) as cluster:
        assert stat.S_IMODE(door.stat().st_mode) == 0o750
        assert facts_of(cluster.pids()[0])["Umask"] == ["0027"]


# Long lives


@pytest.mark.parametrize(
    ("bound", "why"),
    [
        ({"seconds": 0.5}, r"it has served for \d+ s"),
        ({"connections": 5}, r"it has had \d+ connections"),
        ({"memory_bytes": 1_000_000}, r"it has \d+ MiB of memory"),
    ],
)
def test_a_worker_that_has_lived_long_enough_is_replaced_and_nobody_is_refused(bound: Any, why: str) -> None:
    with TinyCluster(workers=2, lifetime=bound, heartbeat_s=0.1, hung_s=2.0) as cluster:
        first = set(cluster.pids().values())
        answers = [cluster.get(client=f"127.9.1.{n % 50 + 1}") for n in range(100)]
        assert len(answers) == 100
        cluster.log.wait_for(f"{WORKER_PAST_LIFETIME}.*{why}")
        cluster.wait_until(lambda _: len(first & set(cluster.pids().values())) < 2, "a worker is another")
        assert cluster.get()["slot"] in (0, 1)
        told = [name for name, fields in events(cluster) if fields.get("pid") in first]
        assert "exit" not in told or all(
            fields["status"] == 0 for name, fields in events(cluster) if name == "exit" and fields["pid"] in first
        )


# By itself


def test_the_example_of_sticky_alone_brings_an_address_to_the_same_worker_again() -> None:
    argv = [sys.executable, "-u", str(ROOT / "examples" / "echo" / "server.py"), "127.0.0.1:0"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as primary:
        try:
            assert primary.stdout is not None
            host, _, port = primary.stdout.readline().strip("[]'\n").rpartition(":")
            clients = [f"127.0.1.{n + 1}" for n in range(30)]

            def say_hello(client: str) -> bytes:
                with socket.create_connection((host, int(port)), 30, (client, 0)) as sock:
                    sock.sendall(b"hello\n")
                    return sock.makefile("rb").readline()

            while len({say_hello(client) for client in clients}) < 4:
                pass  # some workers still start
            said = [{client: say_hello(client) for client in clients} for _ in range(2)]
        finally:
            primary.terminate()
    assert primary.returncode == 0
    assert said[0] == said[1]
    assert set(said[0].values()) == {b"slot %d: hello\n" % slot for slot in range(4)}


# Service managers


class Manager:
    """Listens as systemd does, for what it is told."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._hear, daemon=True).start()  # as it comes: the kernel keeps ten, and drops more

    def _hear(self) -> None:
        while said := self.sock.recv(4096).decode():
            self.heard.put(said)

    def wait_for(self, word: str) -> str:
        give_up_at = time.monotonic() + 30
        while word not in (said := self.heard.get(timeout=30)):
            assert time.monotonic() < give_up_at, f"nothing was said of {word}"
        return said

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def test_a_service_manager_is_told_ready_reloading_and_stopping_and_that_it_lives(tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    with TinyCluster(workers=2, env=env) as cluster:
        manager.wait_for("READY=1")
        cluster.command("reload")
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.wait_for("RELOADING=1"))
        assert manager.wait_for("READY=1").endswith("STATUS=2 of 2 workers serve")
        manager.wait_for("WATCHDOG=1")
        assert cluster.get()["env"]["NOTIFY_SOCKET"] is None, "it is not the workers' to say"
        cluster.stop()
        manager.wait_for("STOPPING=1")
    manager.close()


def test_a_socket_that_was_given_is_served_and_stays_its_giver_s(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(door))
        unix.listen()
        early = socket.create_connection(tcp.getsockname(), timeout=30)
        early.sendall(b"GET / HTTP/1.1\r\nHost: early\r\n\r\n")
        binds = [f"fd://{tcp.fileno()}", f"fd://{unix.fileno()}"]
        env = {"LISTEN_FDS": "2"}
        with TinyCluster(workers=1, binds=binds, pass_fds=(tcp.fileno(), unix.fileno()), env=env) as cluster:
            with early:
                assert early.recv(65536).startswith(b"HTTP/1.1 200 OK"), "it waited in the kernel"
            assert cluster.address == tcp.getsockname()
            assert cluster.get()["env"]["LISTEN_FDS"] is None
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(str(door))
                client.sendall(b"GET / HTTP/1.1\r\nHost: unix\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert door.exists(), "the next start finds it"
        late = socket.create_connection(tcp.getsockname(), timeout=30)
        late.close()


@pytest.mark.parametrize(("address", "problem"), [("fd://999", "was given no such socket"), ("fd://1", "from 3 on")])
def test_a_socket_that_is_not_there_is_named(address: str, problem: str) -> None:
    cluster = TinyCluster(workers=1, binds=[address]).start()
    cluster.log.wait_for(problem)
    assert cluster.stop() != 0
