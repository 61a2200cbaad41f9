"""
A stateful MCP server on four workers, with the stock SDKs for Python and TypeScript.

The server makes the ids of its sessions, and holds each session in one process. Every call counts on in its session, so
five calls that are answered 1 to 5 by one process have all found it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx
import pytest
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client

from sticky.loop.log_lines import WORKER_READY
from tests.apps.stock_clients import NodeClients
from tests.support.aio import run_async_for
from tests.support.log_lines import exited, pattern
from tests.support.server import ROOT, RunningServer

pytestmark = pytest.mark.slow

APP = ROOT / "examples" / "mcp" / "app.py"
OPTIONS = (
    "--sticky",
    "session",
    "--session-header",
    "Mcp-Session-Id",
    "--balance",
    "round-robin",
    "--drain",
    "1",
    "--boot",
    "120",
)
GUESTS, CALLS = 8, 5
BOOT_S = 120.0  # four processes import the SDK at once
HEADER = "mcp-session-id"
ACCEPT = {"accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}


@pytest.fixture
def server() -> Iterator[RunningServer]:
    running = RunningServer(APP, *OPTIONS, workers=4)
    running.start()
    try:
        running.wait_until_listening(deadline_s=BOOT_S)
        running.log.wait_for(pattern(WORKER_READY, ready="4/4"), deadline_s=BOOT_S)
        yield running
    finally:
        running.stop()


def reload(server: RunningServer) -> None:
    """Replace all workers, and wait until the old ones are gone."""
    old = {each["pid"] for each in server.status()["workers"]}
    since = server.log.mark()
    server.send_signal(signal.SIGHUP)
    for pid in old:
        server.log.wait_for(exited(pid=pid), since=since, deadline_s=BOOT_S)


def check_all_found_their_sessions(visits: list[dict[str, Any]]) -> set[int]:
    """Return the workers on which they are."""
    assert len(visits) == GUESTS
    workers = set()
    for visit in visits:
        assert "error" not in visit, visit
        assert [each["calls"] for each in visit["answers"]] == list(range(1, CALLS + 1))
        [worker] = {each["worker"] for each in visit["answers"]}
        workers.add(worker)
    return workers


# The SDK for Python


def client_without_cookies(**given: Any) -> httpx.AsyncClient:
    client = httpx.AsyncClient(**{name: value for name, value in given.items() if value is not None})
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


@contextlib.asynccontextmanager
async def visit(server: RunningServer, cookies: bool) -> AsyncIterator[ClientSession]:
    factory = {} if cookies else {"httpx_client_factory": client_without_cookies}
    async with (
        streamablehttp_client(f"{server.url}/mcp", **factory) as (reader, writer, _),
        ClientSession(reader, writer) as session,
    ):
        await session.initialize()
        yield session


async def call(session: ClientSession) -> list[Any]:
    return [(await session.call_tool("count")).structuredContent for _ in range(CALLS)]


async def visit_and_call(server: RunningServer, cookies: bool) -> dict[str, Any]:
    async with visit(server, cookies) as session:
        return {"answers": await call(session)}


@pytest.mark.parametrize("cookies", [True, False], ids=["cookies", "no cookies"])
@run_async_for(120)
async def test_every_python_client_finds_its_session_also_after_a_reload(server: RunningServer, cookies: bool) -> None:
    visits = await asyncio.gather(*[visit_and_call(server, cookies) for _ in range(GUESTS)])
    assert len(check_all_found_their_sessions(visits)) > 1, "they are on several workers"
    with contextlib.suppress(McpError):
        async with visit(server, cookies) as before:
            await call(before)
            await asyncio.to_thread(reload, server)
            with pytest.raises(McpError):
                await call(before)
    check_all_found_their_sessions(await asyncio.gather(*[visit_and_call(server, cookies) for _ in range(GUESTS)]))


# The SDK for TypeScript


@pytest.mark.node
@pytest.mark.parametrize("cookies", ["cookies", "no cookies"])
def test_every_typescript_client_finds_its_session_also_after_a_reload(server: RunningServer, cookies: str) -> None:
    with NodeClients("mcp.mjs", f"{server.url}/mcp", str(GUESTS), cookies) as clients:
        assert len(check_all_found_their_sessions(clients.read(GUESTS))) > 1, "they are on several workers"
        reload(server)
        clients.go_on()
        found = clients.read(GUESTS)
        assert {each["before"]["code"] for each in found} == {404}
        check_all_found_their_sessions([each["after"] for each in found])


# On the wire


def test_a_session_from_before_a_reload_is_not_found_and_a_new_one_is(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url, headers=ACCEPT) as client:
        first = client.post("/mcp", json=INITIALIZE)
        assert first.status_code == 200
        old = first.headers[HEADER]
        again = client.request("DELETE", "/mcp", headers={HEADER: old})
        assert again.status_code == 200
        assert client.request("DELETE", "/mcp", headers={HEADER: old}).status_code == 404, "it is deleted"
        old = client.post("/mcp", json=INITIALIZE).headers[HEADER]
        reload(server)
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert client.post("/mcp", json=ping, headers={HEADER: old}).status_code == 404
        new = client.post("/mcp", json=INITIALIZE)
        assert new.status_code == 200
        assert new.headers[HEADER] != old
