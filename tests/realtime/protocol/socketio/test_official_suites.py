"""
The official suite of Engine.IO, against a server of Engine.IO alone that sends each message back.

Without REALTIME_SOCKETIO_SUITES it does not run; the cases beside this file then cover the same sentences.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.aio import run_async_for
from tests.support.engine_server import EngineServer
from tests.support.official_suites import ENGINE, passes, suite

CASES = 25
REPEATS = 2


@pytest.mark.slow
@pytest.mark.node
@run_async_for(600)
async def test_every_case_of_the_engine_suite_passes(tmp_path: Path) -> None:
    directory = suite(ENGINE, tmp_path)
    async with EngineServer(ping_s=0.3, pong_s=0.2) as server:
        await passes(directory, f"127.0.0.1:{server.port}", cases=CASES, repeats=REPEATS)
