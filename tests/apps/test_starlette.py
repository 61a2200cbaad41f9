"""Starlette with visitors in memory, on four workers: thirty of them, twenty visits each, every count exact."""

from __future__ import annotations

import asyncio

from httpx import AsyncClient

from tests.support.aio import run_async
from tests.support.server import ROOT, RunningServer

APP = ROOT / "examples" / "starlette" / "app.py"
VISITORS, VISITS = 30, 20


def serve(sticky: str) -> RunningServer:
    return RunningServer(APP, "--sticky", sticky, "--balance", "round-robin", workers=4)


async def visit(url: str) -> tuple[list[int], set[int]]:
    """Visit again and again: return the counts told, and the processes met."""
    async with AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        # Each on a connection of its own: as browsers do after a pause, and as it is hardest.
        told = [(await client.get("/", headers={"Connection": "close"})).json() for _ in range(VISITS)]
    return [each["visits"] for each in told], {each["pid"] for each in told}


async def visit_all(server: RunningServer) -> list[tuple[list[int], set[int]]]:
    await asyncio.to_thread(server.wait_until_full)
    return await asyncio.gather(*[visit(server.url) for _ in range(VISITORS)])


@run_async
async def test_every_count_is_exact() -> None:
    with serve("session") as server:
        found = await visit_all(server)
    assert [counts for counts, _ in found] == [list(range(1, VISITS + 1))] * VISITORS
    assert all(len(pids) == 1 for _, pids in found)
    assert len(set.union(*[pids for _, pids in found])) == 4, "all workers have their share"


@run_async
async def test_without_stickiness_the_counts_are_wrong() -> None:
    with serve("none") as server:
        found = await visit_all(server)
    assert sum(counts != list(range(1, VISITS + 1)) for counts, _ in found) > VISITORS // 2
