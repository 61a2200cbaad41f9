"""
No message from one part ends another: broken workers, broken hooks and broken control clients, with real processes.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sticky.loop.log_lines import HOOK_FAILED, SERVER_LISTENING, WORKER_CONDEMNED
from tests.support.log_lines import exited, pattern
from tests.support.tiny_cluster import TinyCluster, answer

HOLD = b"GET /hold HTTP/1.1\r\nHost: tiny\r\n\r\n"


def client_of(cluster: TinyCluster, slot: int) -> str:
    """Return an address that the slot serves."""
    return next(f"127.0.6.{n}" for n in range(1, 250) if cluster.get(client=f"127.0.6.{n}")["slot"] == slot)


def test_workers_that_send_garbage_are_killed_and_everything_else_goes_on() -> None:
    garbage = {0: "/garbage/9163", 1: "/garbage/930c", 2: "/pipe"}  # [99], the beginning of an ACK
    with TinyCluster(workers=4) as cluster:
        clients = {slot: client_of(cluster, slot) for slot in range(4)}
        held = cluster.connect(clients[3])
        held.sendall(HOLD)
        bystander = answer(held)["pid"]
        before, descriptors = cluster.pids(), len(os.listdir(f"/proc/{cluster.process.pid}/fd"))
        for slot, path in garbage.items():
            with cluster.connect(clients[slot]) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: tiny\r\n\r\n".encode())
                cluster.log.wait_for(pattern(WORKER_CONDEMNED, slot=slot, pid=before[slot]))
                cluster.log.wait_for(exited("killed by SIGKILL", slot=slot, pid=before[slot]))
        cluster.wait_until(lambda status: len(status["live"]) == 4, "all are served again")
        held.sendall(b"\r\n\r\n")
        assert answer(held)["pid"] == bystander == cluster.pids()[3], "nobody else was touched"
        held.close()
        counters = cluster.status()["counters"]
        assert counters["condemned"] == 3
        assert "callbacks_failed" not in counters
        assert all(cluster.get(client=client)["slot"] == slot for slot, client in clients.items())
        cluster.wait_until(
            lambda status: len(os.listdir(f"/proc/{cluster.process.pid}/fd")) <= descriptors, "no descriptor is lost"
        )


def test_hooks_with_mistakes_are_told_of_and_hinder_nothing() -> None:
    names = ("setup", "fork", "online", "listening", "message", "disconnect", "exit")
    with TinyCluster(workers=2, failing=names) as cluster:
        cluster.get("/repeat/all")
        cluster.log.wait_for(pattern(HOOK_FAILED, hook="message"))
        cluster.command("drain", slot=0)
        for name in names:
            cluster.log.wait_for(pattern(HOOK_FAILED, hook=name))
        cluster.wait_for_live([0, 1])
        assert cluster.get()["slot"] in (0, 1)
        assert cluster.status()["counters"]["hooks_failed"] >= len(names)
        assert len(cluster.log.find_all("LookupError: a mistake in a hook")) >= len(names), "with the traceback"


def test_a_worker_whose_environment_cannot_be_made_is_started_later(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    cluster = TinyCluster(workers=2, boots_max=None, homeless=str(trouble)).start()
    try:
        cluster.log.wait_for("LookupError: slot 1 has no home")
        host, _, port = cluster.log.wait_for(pattern(SERVER_LISTENING, address=r"(\S+:\d+)"))[1].rpartition(":")
        cluster.address = (host, int(port))
        assert cluster.get()["slot"] == 0
        trouble.unlink()
        cluster.wait_for_live([0, 1])
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def cluster() -> Any:
    with TinyCluster(workers=1) as cluster:
        yield cluster


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), -1) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
COMMANDS = st.sampled_from(["status", "scale", "drain", "inspect", "nothing of that kind"]) | JUNK
REQUESTS = st.fixed_dictionaries({"command": COMMANDS}, optional={"slot": JUNK, "workers": JUNK, "now": JUNK})
LINES = st.one_of(
    st.binary(max_size=60).map(lambda data: data + b"\n"),
    st.binary(max_size=60),
    REQUESTS.map(lambda request: json.dumps(request).encode() + b"\n"),
    JUNK.map(lambda junk: json.dumps(junk).encode() + b"\n"),
    st.sampled_from([b'{"command":' + b"[" * 60_000 + b"\n", b"\n", b'{"command":"status"}\n' * 2, b"x" * 70_000]),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=LINES)
def test_whatever_comes_through_the_control_socket_the_primary_goes_on(cluster: TinyCluster, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(cluster.control)
        sock.sendall(line)
        sock.shutdown(socket.SHUT_WR)
        try:
            while sock.recv(65536):
                pass
        except ConnectionResetError:
            pass  # more was said than was read
    status = cluster.status()
    assert "callbacks_failed" not in status["counters"]
