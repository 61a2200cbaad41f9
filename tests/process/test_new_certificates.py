"""
A renewed certificate over real TLS: handshakes from then on get it, without a reload, and connections that exist go on.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from websockets.asyncio.client import ClientConnection

from realtime.transport.certificates import KEPT, LOADED
from sticky.loop.log_lines import line
from tests.process.test_tls import certificate_of, make_certificate, securely
from tests.support.http import WHOSE
from tests.support.log_lines import exited
from tests.support.server import RunningServer

DEADLINE_S = 30


def loaded(certfile: Path, keyfile: Path) -> str:
    return re.escape(line(LOADED, certfile=str(certfile), keyfile=str(keyfile)))


def kept(problem: str) -> str:
    return re.escape(line(KEPT, reason=problem))


def serial(server: RunningServer) -> int:
    return x509.load_der_x509_certificate(certificate_of(server)).serial_number


def serial_after(server: RunningServer, change: str) -> int:
    """Begin handshakes until the server has said what it noticed; return what a handshake after that gets."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not server.log.find_all(change):
        assert time.monotonic() < give_up_at, f"no line matched {change!r}"
        serial(server)
    return serial(server)


async def answered(client: ClientConnection, number: int) -> None:
    """Make one round trip on a connection that exists."""
    await client.send(json.dumps({"id": number, "rpc": {"method": "x"}}))
    assert json.loads(await client.recv())["id"] == number


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "here").mkdir()
    (tmp_path / "next").mkdir()
    return make_certificate(tmp_path / "here", "first")


@pytest.fixture
def server(pair: tuple[Path, Path]) -> Iterator[RunningServer]:
    options = ("--certfile", str(pair[0]), "--keyfile", str(pair[1]))
    with RunningServer(WHOSE, *options, workers=1) as running:
        running.wait_until_full()
        yield running


def test_a_renamed_pair_serves_new_handshakes_and_an_old_connection_still_talks(
    server: RunningServer, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    async def over_the_change() -> None:
        url = f"wss://127.0.0.1:{server.port}/connection/websocket"
        async with asyncio.timeout(DEADLINE_S), securely(url) as old:
            await old.send(json.dumps({"id": 1, "connect": {}}))
            assert "connect" in json.loads(await old.recv())
            before = await asyncio.to_thread(serial, server)
            second = make_certificate(tmp_path / "next", "second")
            for new, here in zip(second, pair, strict=True):
                new.replace(here)
            after = await asyncio.to_thread(serial_after, server, loaded(*pair))
            assert after != before
            await answered(old, 2)
            async with securely(url) as new_client:
                await new_client.send(json.dumps({"id": 1, "connect": {}}))
                assert "connect" in json.loads(await new_client.recv())
            await answered(old, 3)

    asyncio.run(over_the_change())


def test_a_pair_that_is_none_changes_nothing_until_it_is_whole(
    server: RunningServer, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    before = serial(server)
    certfile, keyfile = make_certificate(tmp_path / "next", "second")
    certfile.replace(pair[0])
    mismatch = f"{pair[0]} and {pair[1]} are no certificate and its key (KEY_VALUES_MISMATCH)"
    assert serial_after(server, kept(mismatch)) == before
    keyfile.replace(pair[1])
    assert serial_after(server, loaded(*pair)) != before


def test_a_reload_brings_the_new_pair_too(server: RunningServer, pair: tuple[Path, Path]) -> None:
    before = serial(server)
    make_certificate(pair[0].parent, "second")
    server.send_signal(signal.SIGHUP)
    server.log.wait_for(exited(slot=0))
    assert serial(server) != before
