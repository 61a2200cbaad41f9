"""
Mistakes of the application in a move: they end at the one connection that they are about.

Real processes. What an application may do on purpose, such as to refuse a move, is in test_migration_faults.py.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from realtime.process.move_out import SESSION_NOT_RESTORED
from tests.process.test_migration import MORE, pids, reload, running
from tests.process.test_migration import app as app  # the fixture
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.crowd import APP, Crowd, join, where

CLIENTS = 12
REFUSES = "    if NEW_VERSION_REFUSES:"
MISTAKEN = APP.replace(REFUSES, f'    if conn.user == "bad":\n        raise RuntimeError("a bug")\n{REFUSES}')
assert MISTAKEN != APP


@pytest.mark.parametrize("before", [APP, MISTAKEN], ids=["in the new code", "in both"])
@run_async_for(170)
async def test_a_handler_that_fails_after_the_move_costs_its_connection_alone(app: Path, before: str) -> None:
    await asyncio.to_thread(app.write_text, before)
    with running(app, "--sticky", "ip", "--drain", "2s", workers=1) as server:
        crowd = await Crowd.gather(server, CLIENTS)
        bad = await join(server, "127.0.63.1", user="bad")
        crowd.publish()
        await crowd.wait_for_more(MORE)
        await asyncio.to_thread(app.write_text, MISTAKEN)
        await reload(crowd, 1)
        assert (await bad.wait_closed())[0] == 3001, "its client has to reconnect"
        assert server.log.find_all(SESSION_NOT_RESTORED)
        assert [(await where(each))["moves"] for each in crowd.clients.values()] == [1] * CLIENTS
        await crowd.wait_for_more(MORE)
        await crowd.stop_publishing()
        await crowd.check()
        for client in (*crowd.clients.values(), crowd.watcher):
            await client.close()

        async def are_counted() -> bool:
            [worker] = (await asyncio.to_thread(server.status))["workers"]
            return bool(worker["connections"] == 0)

        await eventually(are_counted, every_s=0.1)
        assert server.log.find_all("AssertionError|never retrieved") == []


@run_async_for(120)
async def test_a_client_that_has_not_connected_by_the_protocol_moves_unseen_by_the_application(app: Path) -> None:
    """The handler of this application fails for a connection that it has not seen before its move."""
    with running(app, "--sticky", "ip", workers=1) as server:
        old = pids(server)[0]
        app.with_suffix(".wait").touch()
        server.send_signal(signal.SIGHUP)

        async def starts() -> bool:
            return len((await asyncio.to_thread(server.status))["workers"]) == 2

        await eventually(starts, every_s=0.1)
        client = await ProtocolClient.open(server.websocket_url, "127.0.63.1")
        app.with_suffix(".wait").unlink()
        await asyncio.to_thread(server.log.wait_for, f"worker exited slot=0 pid={old}")
        await client.ask("connect")
        assert (await where(client))["moves"] == 0
        assert client.closed is None
        await client.close()


FLOODS = APP.replace(
    '    if when == "before":\n',
    """    if when == "before" and conn.user == "busy":
        for _ in range(60):
            await app.room("flood").publish("x" * 200_000)
    if when == "before":
""",
).replace('app.room("more", open=True)', 'app.room("more", open=True)\napp.room("flood", open=True, history=100)')
assert FLOODS.count("flood") == 2


@run_async_for(170)
async def test_a_client_that_stops_reading_while_another_is_asked_moves_nonetheless(app: Path) -> None:
    """Bytes wait for it when it is to be exported, and none did when it was prepared."""
    await asyncio.to_thread(app.write_text, FLOODS)
    with running(app, "--sticky", "ip", "--outbound-bytes", "64MiB", "--outbound", "60s", workers=1) as server:
        reader, busy = await join(server, "127.0.63.1"), await join(server, "127.0.63.2", user="busy")
        await reader.ask("subscribe", channel="flood")
        reader.pause_reading()
        old = pids(server)[0]
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, f"worker exited slot=0 pid={old}")
        reader.resume_reading()
        for _ in range(60):
            assert len((await reader.push("pub"))["pub"]["data"]) == 200_000
        assert [(await where(each))["moves"] for each in (reader, busy)] == [1, 1]
        assert server.log.find_all("AssertionError|never retrieved") == []
        for client in (reader, busy):
            await client.close()


SPOILS = APP.replace(
    '@app.rpc("where")',
    """@app.rpc("spoil")
def spoil(conn):
    conn.info = {}
    conn.info["thing"] = object()


@app.rpc("where")""",
)
assert SPOILS != APP


@run_async_for(170)
async def test_info_that_is_no_json_any_more_keeps_its_connection_and_the_others_move(app: Path) -> None:
    await asyncio.to_thread(app.write_text, SPOILS)
    with running(app, "--sticky", "ip", "--drain", "2s", workers=1) as server:
        others = [await join(server, f"127.0.63.{number}") for number in range(2, 6)]
        bad = await join(server, "127.0.63.1")
        await bad.ask("rpc", method="spoil", data={})
        old = pids(server)[0]
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, f"worker exited slot=0 pid={old}")
        assert (await bad.wait_closed())[0] == 3001, "its client has to reconnect"
        assert [(await where(each))["moves"] for each in others] == [1] * len(others)
        assert server.log.find_all("connection not moved.*conn.info")
        for client in others:
            await client.close()
