"""How a process that has lost its primary looks for the next one: with a real socket, and a clock of the test's."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from sticky.handoff.orphan_report import ORPHAN_SOCKET, VERSION, OrphanReport
from sticky.worker import primary_search
from sticky.worker.primary_search import PrimarySearch
from tests.support.aio import run_async

REPORT = OrphanReport(VERSION, "n-0-1", "terms", "n", b"s" * 32)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each attempt follow in the next turn of the loop."""
    monkeypatch.setattr(primary_search, "SEARCH_S", 0)


def listening(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(directory / ORPHAN_SOCKET))
    listener.listen(1)
    return listener


def fill_backlog(directory: Path) -> list[socket.socket]:
    """Connect until there is no room for another. Return the sockets."""
    sockets = []
    while True:
        sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sockets[-1].setblocking(False)
        if sockets[-1].connect_ex(str(directory / ORPHAN_SOCKET)):
            return sockets


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@run_async
async def test_the_report_is_on_the_connection_that_is_found(tmp_path: Path) -> None:
    found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    search = PrimarySearch(str(tmp_path), REPORT)
    assert search.is_possible
    with listening(tmp_path) as listener:
        search.start(found.set_result)
        with await found as ours, listener.accept()[0] as theirs:
            assert msgspec.msgpack.decode(theirs.recv(65536), type=OrphanReport) == REPORT
            assert not ours.getblocking()
            theirs.send(b"IDENTIFY")
            assert ours.recv(100) == b"IDENTIFY", "the finder owns it"


@run_async
async def test_it_goes_on_until_a_primary_listens_and_then_finds_it_once(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found: list[socket.socket] = []
    PrimarySearch(str(tmp_path), REPORT).start(found.append)
    await turns()
    assert found == []
    assert len(os.listdir("/proc/self/fd")) == before, "an attempt that fails leaves nothing open"
    with listening(tmp_path):
        while not found:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await turns()
    assert len(found) == 1
    found[0].close()


@run_async
async def test_a_primary_with_a_full_backlog_is_tried_again(tmp_path: Path) -> None:
    found: list[socket.socket] = []
    with listening(tmp_path) as listener:
        others = fill_backlog(tmp_path)
        PrimarySearch(str(tmp_path), REPORT).start(found.append)
        await turns()
        assert found == [], "too many ask at once"
        listener.accept()[0].close()
        while not found:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for each in (*others, *found):
        each.close()


@run_async
async def test_nothing_is_found_after_a_stop(tmp_path: Path) -> None:
    found: list[socket.socket] = []
    search = PrimarySearch(str(tmp_path), REPORT)
    search.start(found.append)
    search.stop()
    search.stop()
    with listening(tmp_path):
        await turns()
    assert found == []


@run_async
async def test_a_second_start_replaces_the_first(tmp_path: Path) -> None:
    first: list[socket.socket] = []
    second: list[socket.socket] = []
    search = PrimarySearch(str(tmp_path), REPORT)
    with listening(tmp_path):
        search.start(first.append)
        search.start(second.append)
        while not second:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await turns()
    assert (len(first), len(second)) == (0, 1)
    second[0].close()


@run_async
async def test_a_server_without_a_control_directory_looks_nowhere() -> None:
    search = PrimarySearch("", REPORT)
    assert not search.is_possible
    search.start(lambda sock: sock.close())
    await turns()
    search.stop()
