"""
TLS that ends in the worker: such connections stay with the old worker beside its successor, and end by themselves, or
paced when `--drain` is over.

Real processes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from realtime.cli.status import older_generations
from tests.process.test_migration import app as app  # the fixture
from tests.process.test_migration import pids, running
from tests.process.test_tls import make_certificate, trusting_anybody
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.crowd import APP
from tests.support.log_lines import exited
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

CLIENTS = 12
PID = """
@app.rpc("pid")
def pid(conn):
    return os.getpid()
"""


@contextmanager
def secured(app: Path, *options: str) -> Iterator[RunningServer]:
    app.write_text(APP + PID)
    certfile, keyfile = make_certificate(app.parent, "of the test")
    with running(app, "--certfile", str(certfile), "--keyfile", str(keyfile), *options, workers=1) as server:
        yield server


async def join(server: RunningServer, number: int) -> ProtocolClient:
    url = f"wss://127.0.0.1:{server.port}/connection/websocket"
    client = await ProtocolClient.open(url, f"127.0.63.{number + 1}", ssl=trusting_anybody())
    await client.ask("connect")
    return client


async def pid_of(client: ProtocolClient) -> Any:
    return (await client.ask("rpc", method="pid", data={}))["data"]


async def reload(server: RunningServer) -> tuple[int, int]:
    """Reload, and return the pids of the old worker and its successor, which serves."""
    [old] = pids(server).values()
    since = server.log.mark()
    server.send_signal(signal.SIGHUP)
    ready = await asyncio.to_thread(server.log.wait_for, r"worker ready slot=0 pid=(\d+)", since=since)
    return old, int(ready[1])


@run_async_for(120)
async def test_they_stay_until_they_end_and_new_ones_go_to_the_successor(app: Path) -> None:
    with secured(app, "--drain", "24h") as server:
        clients = [await join(server, number) for number in range(CLIENTS)]
        old, successor = await reload(server)
        assert {await pid_of(client) for client in clients} == {old}
        assert await pid_of(await join(server, CLIENTS)) == successor

        async def is_shown() -> bool:
            shown = older_generations(await asyncio.to_thread(server.status))
            return shown == [f"generation 2: {CLIENTS} connections of generation 1"]

        await eventually(is_shown, every_s=0.1)
        for client in clients:
            assert client.closed is None
            await client.close()
        await asyncio.to_thread(server.log.wait_for, exited(slot=0, pid=old))
        assert older_generations(server.status()) == []


@run_async_for(120)
async def test_when_the_drain_is_over_they_are_closed_one_by_one_with_a_code_to_reconnect(app: Path) -> None:
    with secured(app, "--drain", "6s") as server:
        clients = [await join(server, number) for number in range(CLIENTS)]
        old, successor = await reload(server)
        served = []
        for count in range(1, CLIENTS):  # each close is seen while those that are left are served on
            await eventually(lambda count=count: _is_closed(clients, count))  # type: ignore[misc]
            left = [client for client in clients if client.closed is None]
            served.append(
                len([pid for pid in await asyncio.gather(*map(pid_of, left), return_exceptions=True) if pid == old])
            )
        assert len(set(served)) > CLIENTS // 2, "they are spread, and not closed together"
        assert {(await client.wait_closed())[0] for client in clients} == {3001}
        assert await pid_of(await join(server, 0)) == successor, "whoever comes back is served by new code"
        await asyncio.to_thread(server.log.wait_for, exited(slot=0, pid=old))


async def _is_closed(clients: list[ProtocolClient], count: int) -> bool:
    return sum(client.closed is not None for client in clients) >= count
