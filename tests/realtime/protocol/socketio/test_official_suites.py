"""
The official suite of Engine.IO, against a server of Engine.IO alone that sends each message back: in one process, and
with four workers under each stickiness.

Without REALTIME_SOCKETIO_SUITES it does not run; the cases beside this file then cover the same sentences.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.aio import run_async_for
from tests.support.engine_server import PATH, EngineServer
from tests.support.official_suites import ENGINE, passes, suite
from tests.support.tiny_cluster import TinyCluster

CASES = 25
REPEATS = 2


@pytest.mark.slow
@pytest.mark.node
@run_async_for(600)
async def test_every_case_of_the_engine_suite_passes(tmp_path: Path) -> None:
    directory = suite(ENGINE, tmp_path)
    async with EngineServer(ping_s=0.3, pong_s=0.2) as server:
        await passes(directory, f"127.0.0.1:{server.port}", cases=CASES, repeats=REPEATS)


@pytest.mark.slow
@pytest.mark.node
@pytest.mark.parametrize("sticky", ["none", "ip", "session"])
@run_async_for(600)
async def test_every_case_of_the_engine_suite_passes_with_four_workers(tmp_path: Path, sticky: str) -> None:
    directory = suite(ENGINE, tmp_path)
    with TinyCluster(
        workers=4,
        worker="tests.support.engine_worker",
        sticky=sticky,
        query_id_paths=[PATH, f"{PATH}/"],
        config={"ping_s": 0.3, "pong_s": 0.2},
    ) as cluster:
        host, port = cluster.address
        await passes(directory, f"{host}:{port}", cases=CASES, repeats=REPEATS)
