"""
A key with live connections has all its requests where they are, also away from its home slot.

Real processes. A worker is killed while its successor is kept from getting ready; its client comes back to another and
stays connected there. Once the slot is filled again, the client's further requests follow its connection and not the
table of slots; when that connection has ended, they go home.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.log_lines import WORKER_READY
from tests.support.http import Client, request
from tests.support.log_lines import exited, pattern
from tests.support.server import RunningServer
from tests.support.tiny_cluster import TinyCluster, answer

WORKERS = 4
ALL = [0, 1, 2, 3]
CLIENTS = [f"127.1.0.{number}" for number in range(1, 40)]


class Key:
    """One client as a cluster knows it, by its address or by its session."""

    def __init__(self, cluster: TinyCluster, *, client: str = "127.0.0.1", session: str | None = None) -> None:
        self.cluster = cluster
        self.client = client
        self.headers = f"Cookie: rt_session={session}\r\n" if session else ""

    def slot(self) -> int:
        """Ask once, by a connection that ends with the answer."""
        found = self.cluster.get(client=self.client, headers=self.headers)["slot"]
        assert isinstance(found, int)
        return found

    def hold(self) -> tuple[socket.socket, int]:
        """Ask once, by a connection that stays."""
        sock = self.cluster.connect(self.client)
        sock.sendall(f"GET /hold HTTP/1.1\r\nHost: tiny\r\n{self.headers}\r\n".encode())
        return sock, answer(sock)["slot"]

    def wait_until_at(self, slot: int) -> None:
        """Wait until its requests go to a slot."""
        self.cluster.wait_until(lambda _: self.slot() == slot, f"{self.client} {self.headers} is at slot {slot}")


def of_slot(cluster: TinyCluster, kind: str, slot: int, count: int = 1) -> list[Key]:
    """Find keys whose home is a slot: clients, sessions that were made there, or ids of the client's own."""
    found: list[Key] = []
    for number in range(200):
        if kind == "ip":
            key = Key(cluster, client=f"127.1.0.{number + 1}")
        elif kind == "hashed":
            key = Key(cluster, session=f"own-{number}")
        else:
            key = Key(cluster, session=cluster.get()["new_session"])
        if key.slot() == slot:
            found.append(key)
        if len(found) == count:
            return found
    raise AssertionError(f"no key of slot {slot}")


@contextmanager
def empty(cluster: TinyCluster, trap: Path, slot: int) -> Iterator[None]:
    """Kill the worker of a slot, and keep its successor from serving meanwhile."""
    trap.touch()
    live = cluster.status()["live"]
    os.kill(cluster.pids()[slot], signal.SIGKILL)
    cluster.wait_for_live([each for each in live if each != slot])
    yield
    trap.unlink()
    cluster.wait_for_live(live)


def cluster_with(trap: Path, kind: str = "ip", **asked: Any) -> TinyCluster:
    sticky = "ip" if kind == "ip" else "session"
    config = {"boot": "wait-if", "path": str(trap)}
    return TinyCluster(workers=WORKERS, sticky=sticky, balance="round-robin", config=config, **asked)


@pytest.mark.parametrize("kind", ["ip", "made here", "hashed"])
def test_after_a_crash_a_key_stays_where_its_connections_are_and_goes_home_when_they_end(
    kind: str, tmp_path: Path
) -> None:
    with cluster_with(tmp_path / "trap", kind) as cluster:
        key, other = of_slot(cluster, kind, 1, 2)
        stay = of_slot(cluster, kind, 2)[0]
        with empty(cluster, tmp_path / "trap", 1):
            first, away = key.hold()
            assert away != 1
            assert other.slot() != 1
        with closing(first):
            assert {key.slot() for _ in range(5)} == {away}, "its requests follow its connection"
            second, slot = key.hold()
            assert slot == away
            assert (other.slot(), stay.slot()) == (1, 2), "who has no connection is at home"
            assert cluster.status()["away"] == 1
        assert {key.slot() for _ in range(3)} == {away}, "the other connection is still there"
        second.close()
        key.wait_until_at(1)
        cluster.wait_until(lambda status: status["away"] == 0, "nobody is away")
        third, slot = key.hold()
        assert slot == 1
        third.close()


def test_a_second_crash_sends_a_key_that_was_away_home(tmp_path: Path) -> None:
    with cluster_with(tmp_path / "trap") as cluster:
        [key] = of_slot(cluster, "ip", 1)
        with empty(cluster, tmp_path / "trap", 1):
            first, away = key.hold()
        with closing(first), empty(cluster, tmp_path / "trap", away):
            assert key.slot() == 1
        assert key.slot() == 1
        assert cluster.status()["away"] == 0


def test_a_key_stays_when_the_slot_fills_to_which_it_would_have_moved(tmp_path: Path) -> None:
    """Slots 1 and the next best are empty at once: the key is at its third choice, and stays there."""
    with cluster_with(tmp_path / "trap") as cluster:
        [key] = of_slot(cluster, "ip", 1)
        with empty(cluster, tmp_path / "trap", 1):
            second_choice = key.slot()
        (tmp_path / "trap").touch()
        pids = cluster.pids()
        for slot in (1, second_choice):
            os.kill(pids[slot], signal.SIGKILL)
        cluster.wait_for_live([slot for slot in ALL if slot not in (1, second_choice)])
        held, third_choice = key.hold()
        (tmp_path / "trap").unlink()
        cluster.wait_for_live(ALL)
        with closing(held):
            assert {key.slot() for _ in range(3)} == {third_choice}
        key.wait_until_at(1)


def test_a_reload_leaves_a_key_at_the_slot_where_it_is(tmp_path: Path) -> None:
    """The old worker drains beside its successor, as for keys at home; new connections go to the successor."""
    with cluster_with(tmp_path / "trap") as cluster:
        [key] = of_slot(cluster, "ip", 1)
        with empty(cluster, tmp_path / "trap", 1):
            held, away = key.hold()
        pid = cluster.pids()[away]
        # The old worker is stopped, so that its connections live on while its successor serves.
        os.kill(pid, signal.SIGSTOP)
        cluster.command("drain", slot=away)
        cluster.wait_until(lambda _: cluster.pids().get(away, pid) != pid, "a successor serves")
        found = cluster.get(client=key.client)
        assert (found["slot"], found["pid"]) == (away, cluster.pids()[away])
        os.kill(pid, signal.SIGCONT)
        held.close()
        key.wait_until_at(1)


def test_scaling_up_moves_no_key_that_has_connections(tmp_path: Path) -> None:
    with cluster_with(tmp_path / "trap") as cluster, ExitStack() as stack:
        keys = [Key(cluster, client=client) for client in CLIENTS]
        homes = [key.slot() for key in keys]
        held = keys[: len(keys) // 2]
        for key, home in zip(held, homes, strict=False):
            sock, slot = key.hold()
            stack.enter_context(closing(sock))
            assert slot == home
        cluster.command("scale", workers=6)
        cluster.wait_for_live([0, 1, 2, 3, 4, 5])
        after = [key.slot() for key in keys]
        assert after[: len(held)] == homes[: len(held)], "they have connections"
        assert {4, 5} & set(after[len(held) :]), "these have none"
        assert cluster.status()["away"] > 0
        stack.close()
        cluster.wait_until(lambda status: status["away"] == 0, "everybody has gone")
        assert {4, 5} & {key.slot() for key in held}
        cluster.command("scale", workers=4)
        cluster.wait_for_live(ALL)
        assert [key.slot() for key in keys] == homes


# Later requests of kept-alive connections, as a proxy sends them


APP = """
import json
import time
from pathlib import Path

while Path(__file__).with_suffix(".wait").exists():  # a worker is not ready before that file is gone
    time.sleep(0.02)


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = json.dumps({**scope["extensions"]["realtime"], "client": scope["client"][0]}).encode()
    headers = [(b"content-type", b"application/json")]
    if scope["path"] != "/stream":
        headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": scope["path"] == "/stream"})
    while scope["path"] == "/stream" and (await receive())["type"] != "http.disconnect":
        pass
"""


def open_stream(server: RunningServer, headers: str) -> tuple[socket.socket, bytes]:
    """Begin an answer that goes on for ever, and read its beginning."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(f"GET /stream HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    received = b""
    while b"}" not in received:
        received += sock.recv(65536)
    return sock, received


@pytest.mark.parametrize("kind", ["ip", "hashed", "made here"])
def test_a_proxys_pooled_requests_of_a_key_that_is_away_go_where_it_is(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "app.py"
    target.write_text(APP)
    options = ("--trusted-proxies", "127.0.0.0/8", "--sticky", "ip" if kind == "ip" else "session")
    with RunningServer(target, *options, "--balance", "round-robin", workers=2) as server, ExitStack() as stack:
        server.wait_until_full()

        def headers(number: int) -> str:
            if kind == "ip":
                return f"X-Forwarded-For: 203.0.113.{number}\r\n"
            return f"Cookie: rt_session={sessions[number]}\r\n"

        sessions: list[str] = []
        if kind == "hashed":
            sessions = [f"own-{number}" for number in range(20)]
        while kind == "made here" and len(sessions) < 20:
            with Client(server.port) as first:
                sessions.append(first.get()["session"])

        def get(client: Client, number: int) -> int:
            client.send(request(None, headers(number)))
            found = client.answer()
            assert isinstance(found["slot"], int)
            return found["slot"]

        pooled = stack.enter_context(Client(server.port))
        homes = [get(pooled, number) for number in range(20)]
        mine = homes.index(1)
        other = homes.index(1, mine + 1)
        [pid] = [each["pid"] for each in server.status()["workers"] if each["slot"] == 1]
        since = server.log.mark()
        target.with_suffix(".wait").touch()
        os.kill(pid, signal.SIGKILL)
        server.log.wait_for(exited(slot=1, pid=pid), since=since)
        sock, received = open_stream(server, headers(mine))
        stack.enter_context(closing(sock))
        assert b'"slot": 0' in received
        target.with_suffix(".wait").unlink()
        server.log.wait_for(pattern(WORKER_READY, slot=1), since=since)
        fresh = [stack.enter_context(Client(server.port)) for _ in range(2)]
        for _ in range(3):
            for client in fresh:
                assert get(client, other) == 1, "this connection is at slot 1 now"
                assert get(client, mine) == 0, "that is where its stream is"
        before = server.status()["counters"]["given_back"]
        assert {get(fresh[0], mine) for _ in range(5)} == {0}
        assert server.status()["counters"]["given_back"] == before, "it is known there, and not asked about again"
        sock.close()
        found = [0]
        while found != [1, 1]:  # until its end has come round; the test's timeout ends what never comes
            found = [get(fresh[0], other), get(fresh[0], mine)]
