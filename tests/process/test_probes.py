"""
`/livez`, `/readyz` and the lame duck, with real processes: what a load balancer learns, and when.

The lame duck of most tests is so long that only a second signal ends it. So no test depends on a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.cli.status import readiness
from realtime.transport.access import REQUEST_SERVED
from sticky.loop.log_lines import SERVER_LAME_DUCK, SERVER_STOPPING, WORKER_CANNOT_BOOT
from sticky.supervision.readiness import LAME_DUCK
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.log_lines import pattern
from tests.support.probing import probe, probe_until
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

SHUTDOWN = 3001
READY = (200, {"status": "ready", "reasons": []})
ALIVE = (200, {"status": "alive", "reasons": []})
LAME = (503, {"status": "unready", "reasons": [LAME_DUCK]})
NO_WORKER = (503, {"status": "unready", "reasons": ["no worker is ready"]})


@pytest.mark.parametrize("prefix", ["", "/rt"])
def test_probes_are_answered_for_every_host_and_leave_no_line_in_the_access_log(prefix: str) -> None:
    options = ("--allowed-hosts", "chat.example.org", "--access-log", *(("--own-prefix", prefix) if prefix else ()))
    with RunningServer(None, *options, workers=2) as server:
        server.wait_until_full()
        for host in ("192.0.2.1", "chat.example.org", "evil.example"):
            assert probe(server.port, f"{prefix}/readyz", host=host) == READY
            assert probe(server.port, f"{prefix}/livez", host=host) == ALIVE
        assert probe(server.port, f"{prefix}/readyz?from=balancer") == READY
        assert probe(server.port, f"{prefix}/readyz", method="HEAD") == (200, {})
        with pytest.raises(ValueError, match="Expecting value"):  # 405 is a sentence
            probe(server.port, f"{prefix}/readyz", method="POST")
        assert probe(server.port, f"{prefix}/health", host="chat.example.org")[0] == 200
        server.log.wait_for(pattern(REQUEST_SERVED, method="GET", path=f"{prefix}/health", status=200))
        assert not server.log.find_all("method=(GET|HEAD) path=\\S*/(readyz|livez)")


@run_async
async def test_a_lame_duck_serves_everything_on_and_a_second_signal_begins_the_drain() -> None:
    with RunningServer(None, "--lame-duck", "600s", "--drain", "2s", workers=2) as server:
        await asyncio.to_thread(server.wait_until_full)
        before = await ProtocolClient.join(server.websocket_url, "127.0.41.1")
        pids = server.children()
        server.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.log.wait_for, pattern(SERVER_LAME_DUCK, lame_duck_s=600))
        assert await asyncio.to_thread(probe_until, server.port, lambda answer: answer == LAME) == LAME
        for _ in range(20):  # every worker knows it
            assert await asyncio.to_thread(probe, server.port) == LAME
        assert await asyncio.to_thread(probe, server.port, "/livez") == ALIVE, "it is not to be restarted"
        clients = [await ProtocolClient.join(server.websocket_url, f"127.0.41.{n}") for n in range(2, 12)]
        for client in (before, *clients):
            await client.ask("subscribe", channel="room")
        await before.ask("publish", channel="room", data="served on")
        for client in clients:
            assert (await client.push("pub"))["pub"]["data"] == "served on"
        assert server.children() == pids
        status = server.status()
        assert (status["state"], status["unready"]) == ("lame duck", [LAME_DUCK])
        assert readiness(status).startswith(f"/readyz says 503: {LAME_DUCK}; the drain begins in ")
        server.send_signal(signal.SIGTERM)
        for client in (before, *clients):
            assert (await client.wait_closed())[0] == SHUTDOWN
        assert await asyncio.to_thread(server.wait) == 0
        assert not server.log.find_all("Traceback")


def test_a_lame_duck_ends_by_itself() -> None:
    with RunningServer(None, "--lame-duck", "200ms", workers=1) as server:
        server.wait_until_full()
        server.send_signal(signal.SIGINT)
        server.log.wait_for(SERVER_LAME_DUCK)
        server.log.wait_for(pattern(SERVER_STOPPING, drain_s=60))
        assert server.wait() == 0


def test_without_a_lame_duck_a_stop_is_one_at_once() -> None:
    with RunningServer(None, workers=1) as server:
        server.wait_until_full()
        assert server.stop() == 0
        assert not server.log.find_all(SERVER_LAME_DUCK)


APP = """
import pathlib
from realtime import App

if (pathlib.Path(__file__).parent / "broken").exists():
    raise RuntimeError("broken on purpose")
app = App()
"""


@pytest.mark.parametrize("prefix", ["", "/rt"])
def test_while_no_worker_is_ready_the_primary_answers_and_does_not_keep_a_probe_waiting(
    prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP)
    readyz = f"{prefix}/readyz"
    with RunningServer(tmp_path / "app.py", workers=1, env={"REALTIME_OWN_PREFIX": prefix}) as server:
        server.wait_until_full()
        (tmp_path / "broken").touch()
        mark, broker = server.log.mark(), server.local_broker()
        [worker] = set(server.children()) - {broker}
        os.kill(worker, signal.SIGKILL)
        server.log.wait_for(WORKER_CANNOT_BOOT, since=mark)
        for _ in range(3):
            assert probe(server.port, readyz) == NO_WORKER
            assert probe(server.port, f"{prefix}/livez") == NO_WORKER
        assert probe(server.port, readyz, method="HEAD") == (503, {})
        with socket.create_connection(("127.0.0.1", server.port), 30) as other:
            other.sendall(f"GET {prefix}/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            assert probe(server.port, readyz) == NO_WORKER
            status = server.status()
            assert (status["unready"], status["homeless"]) == (["no worker is ready"], 1)
            (tmp_path / "broken").unlink()
            assert other.recv(15) == b"HTTP/1.1 200 OK", "what is no probe waits for a worker"
        assert probe(server.port, readyz) == READY
        assert not {name for name in server.status()["counters"] if name.startswith("refused")}, "no client was refused"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    require("redis")
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(("option", "status", "word"), [("on", 200, "degraded"), ("off", 503, "unready")])
def test_a_node_without_its_broker_is_ready_unless_that_is_set_off(
    option: str, status: int, word: str, redis: RedisServer
) -> None:
    options = ("--redis", redis.url, "--ready-when-degraded", option)
    with RunningServer(None, *options, workers=1) as server:
        server.wait_until_full()
        assert probe_until(server.port, lambda answer: answer == READY) == READY
        redis.stop()
        answer = probe_until(server.port, lambda answer: answer != READY)
        assert answer == (status, {"status": word, "reasons": ["the broker is away (redis)"]})
        assert probe(server.port, "/livez") == ALIVE, "a restart would not bring Redis back"
        redis.start()
        assert probe_until(server.port, lambda answer: answer == READY) == READY


def test_after_the_drain_has_begun_nobody_listens() -> None:
    with RunningServer(None, "--lame-duck", "600s", workers=1) as server:
        server.wait_until_full()
        server.send_signal(signal.SIGTERM)
        server.log.wait_for(SERVER_LAME_DUCK)  # two signals at once would be one
        server.send_signal(signal.SIGTERM)
        server.log.wait_for(SERVER_STOPPING)
        assert server.wait() == 0
        with contextlib.suppress(ConnectionResetError), pytest.raises(ConnectionRefusedError):
            probe(server.port)
