"""
The loss of the keeper and the primary: workers and broker serve on, and the next start adopts them or has them end.

Real processes, killed with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.broker.local_process import TAKEN
from sticky.loop.log_lines import (
    ORPHAN_KILLED,
    ORPHAN_REFUSED,
    ORPHANS_ADOPTED,
    SERVER_TAKEN_OVER,
    SIDECAR_READY,
    WORKER_ADOPTED,
    WORKER_READY,
)
from sticky.process.keeper_link import KEEPER_LOST
from tests.process.test_keeper import chat, workers_of
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.log_lines import pattern
from tests.support.processes import free_port
from tests.support.server import ROOT, RunningServer

ANOTHER_VERSION = """
from sticky.handoff import orphan_report

orphan_report.VERSION = 99
"""
PRIMARY_LOST = "primary lost connections="  # a line of a worker


class Site:
    """One server after the other, on the same port and in the same control directory."""

    def __init__(self, directory: Path) -> None:
        self._options = ("--control", str(directory / "c.sock"), "--bind", f"127.0.0.1:{free_port()}")
        self._servers: list[RunningServer] = []

    def server(self, *options: str, env: dict[str, str] | None = None) -> RunningServer:
        """Return another server, which is not started."""
        self._servers.append(RunningServer(None, *self._options, *options, bind=None, workers=2, env=env))
        return self._servers[-1]

    def close(self) -> None:
        for server in reversed(self._servers):
            server.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


async def start(server: RunningServer) -> None:
    server.start()
    await asyncio.to_thread(server.wait_until_listening)
    await asyncio.to_thread(server.wait_until_full)


async def kill_both(server: RunningServer) -> dict[str, Any]:
    """Kill the keeper and the primary. Return the status of before, once the workers have noticed."""
    status = await asyncio.to_thread(server.status)
    os.kill(server.keeper_pid, signal.SIGKILL)
    await asyncio.to_thread(server.log.wait_for, KEEPER_LOST)
    os.kill(status["pid"], signal.SIGKILL)
    await asyncio.to_thread(server.log.wait_for, PRIMARY_LOST)
    return status


async def join(server: RunningServer, count: int) -> list[ProtocolClient]:
    clients = [await ProtocolClient.join(server.websocket_url, f"127.0.8.{n + 1}") for n in range(count)]
    for client in clients:
        await client.ask("subscribe", channel="room")
    return clients


@run_async
async def test_the_next_start_adopts_workers_and_broker_and_no_client_notices(site: Site) -> None:
    first = site.server("--orphan-grace", "600s")
    await start(first)
    clients = await join(first, 4)
    await chat(clients, "before")
    before = await kill_both(first)
    await chat(clients, "without a primary")
    second = site.server("--orphan-grace", "600s")
    await start(second)
    after = second.status()
    assert workers_of(after) == workers_of(before), "the same processes"
    assert after["sidecars"] == before["sidecars"], "the same broker"
    assert after["node"] == before["node"]
    assert second.log.find_all(ORPHANS_ADOPTED)
    await chat(clients, "with another primary")
    history = await clients[0].ask("history", channel="room", limit=10)
    assert [each["data"] for each in history["publications"]] == ["before", "without a primary", "with another primary"]
    new = await ProtocolClient.join(second.websocket_url, "127.0.8.9")
    await new.ask("subscribe", channel="room")
    await chat([*clients, new], "to all")
    mark = second.log.mark()
    os.kill(workers_of(after)[0], signal.SIGKILL)  # what was adopted is supervised
    await asyncio.to_thread(second.log.wait_for, pattern(WORKER_READY, slot=0, ready="2/2"), since=mark)
    again = await kill_both(second)
    third = site.server("--orphan-grace", "600s")
    await start(third)
    assert workers_of(third.status()) == workers_of(again), "an adopted worker is adopted again"
    assert third.stop() == 0
    assert third.log.find_all("Traceback") == []


@pytest.mark.parametrize(("options", "others"), [(("--ping", "20s"), 2), (("--broker-memory", "64MiB"), 3)])
@run_async
async def test_what_has_other_settings_ends_first_and_its_clients_get_a_close_frame(
    site: Site, options: tuple[str, ...], others: int
) -> None:
    first = site.server("--orphan-grace", "600s")
    await start(first)
    clients = await join(first, 6)
    before = await kill_both(first)
    pids = [*workers_of(before).values(), *(each["pid"] for each in before["sidecars"])][:others]
    second = site.server("--orphan-grace", "600s", *options)
    second.start()
    closes = [await client.wait_closed() for client in clients]
    assert {code for code, _ in closes} == {3001}
    await asyncio.to_thread(second.wait_until_listening)
    refused = second.log.find_all(pattern(ORPHAN_REFUSED, reason="it has other settings"))
    assert len(refused) == others, "both workers, and the broker where its own settings differ"
    await asyncio.to_thread(wait_until_ended, pids)
    lines = second.log.lines
    adopted = next(n for n, line in enumerate(lines) if ORPHANS_ADOPTED in line)
    assert adopted < next(n for n, line in enumerate(lines) if SIDECAR_READY in line), "one broker at a time"
    assert second.log.find_all(WORKER_ADOPTED) == []
    assert second.log.find_all(f"{TAKEN}|{ORPHAN_KILLED}") == []
    assert second.stop() == 0


@run_async
async def test_what_reports_in_an_unknown_version_ends_first_and_its_clients_get_a_close_frame(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_VERSION)
    first = site.server("--orphan-grace", "600s", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    await start(first)
    clients = await join(first, 6)
    before = await kill_both(first)
    pids = [*workers_of(before).values(), *(each["pid"] for each in before["sidecars"])]
    second = site.server("--orphan-grace", "600s")
    second.start()
    closes = [await client.wait_closed() for client in clients]
    assert {code for code, _ in closes} == {3001}
    await asyncio.to_thread(second.wait_until_listening)
    assert len(second.log.find_all(pattern(ORPHAN_REFUSED, reason="it speaks version 99"))) == 3
    await asyncio.to_thread(wait_until_ended, pids)
    assert second.log.find_all(f"{WORKER_ADOPTED}|{TAKEN}|{ORPHAN_KILLED}") == []
    lines = second.log.lines
    adopted = next(n for n, line in enumerate(lines) if ORPHANS_ADOPTED in line)
    assert adopted < next(n for n, line in enumerate(lines) if SIDECAR_READY in line), "one broker at a time"
    assert second.stop() == 0


@run_async
async def test_a_process_that_does_not_answer_is_killed_before_another_starts(site: Site) -> None:
    first = site.server("--orphan-grace", "600s")
    await start(first)
    before = await kill_both(first)
    hung = workers_of(before)[1]
    os.kill(hung, signal.SIGSTOP)
    second = site.server("--orphan-grace", "600s")
    await start(second)
    assert second.log.find_all(pattern(ORPHAN_KILLED, pid=hung))
    after = workers_of(second.status())
    assert after[0] == workers_of(before)[0]
    assert after[1] != hung
    assert second.status()["sidecars"] == before["sidecars"]
    assert second.log.find_all(SERVER_TAKEN_OVER)
    assert second.stop() == 0


@run_async
async def test_without_a_next_start_clients_get_a_reconnect_code_and_everything_ends(site: Site) -> None:
    first = site.server("--orphan-grace", "2s")
    await start(first)
    clients = await join(first, 6)
    before = await kill_both(first)
    await chat(clients, "it is served on")
    closes = [await client.wait_closed() for client in clients]
    assert {code for code, _ in closes} == {3001}
    pids = [*workers_of(before).values(), *(each["pid"] for each in before["sidecars"])]
    await asyncio.to_thread(wait_until_ended, pids)


def wait_until_ended(pids: list[int]) -> None:
    """Wait for the end of processes that are no children of this one."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert poll.poll(60_000), f"process {pid} has not ended"
        finally:
            os.close(pidfd)
