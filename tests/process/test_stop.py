"""
The end of `realtime serve`: by Ctrl-C and TERM, with clients, and by a second Ctrl-C. It leaves nothing.
"""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sticky.loop.log_lines import SERVER_STOPPED, SERVER_STOPPING
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.log_lines import pattern
from tests.support.server import ROOT, Log, RunningServer

SHUTDOWN = 3001


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for everything that the server puts on the disk. Not below tmp_path: too deep for a socket."""
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)
        yield Path(path)


def files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if not each.is_dir()]


def everyone(server: RunningServer) -> set[int]:
    return {server.pid, *server.children()}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_brings_clients_elsewhere_and_leaves_no_process_and_no_file(number: signal.Signals, runtime: Path) -> None:
    with RunningServer(None, "--drain", "3", workers=3, env={"XDG_RUNTIME_DIR": str(runtime)}) as server:
        server.wait_until_full()
        assert {each.name for each in files(runtime)} == {"control.sock", "broker.sock"}
        pids = everyone(server)
        assert len(pids) == 5, "a primary, three workers, the local broker"

        async def be_sent_away() -> None:
            clients = [await ProtocolClient.join(server.websocket_url, f"127.0.7.{n + 1}") for n in range(12)]
            server.send_signal(number)
            for client in clients:
                assert (await client.wait_closed())[0] == SHUTDOWN

        asyncio.run(be_sent_away())
        assert server.wait() == 0
        assert alive(pids) == set()
        assert files(runtime) == []
        assert server.log.find_all("Traceback") == []


@run_async
async def test_a_term_to_all_processes_at_once_is_an_orderly_stop_too() -> None:
    with RunningServer(None, "--drain", "3", workers=3) as server:
        server.wait_until_full()
        clients = [await ProtocolClient.join(server.websocket_url, f"127.0.7.{n + 1}") for n in range(12)]
        for client in clients:
            await client.ask("subscribe", channel="room")
        os.killpg(server.pid, signal.SIGTERM)  # the group that the server was started in, as a service manager does
        for client in clients:
            assert (await client.wait_closed())[0] == SHUTDOWN
        assert server.wait() == 0
        assert server.log.find_all("the link to the broker is lost|Traceback") == []


@run_async
async def test_a_second_ctrl_c_ends_at_once_whatever_the_application_still_does(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import asyncio\n\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http':\n"
        "        raise NotImplementedError(scope['type'])\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'begun', 'more_body': True})\n"
        "    await asyncio.Event().wait()\n"
    )
    with RunningServer(app, "--drain", "600", workers=2) as server:
        server.wait_until_full()
        pids = everyone(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.readuntil(b"begun")
        server.send_signal(signal.SIGINT)
        server.log.wait_for(pattern(SERVER_STOPPING, drain_s=600))
        server.send_signal(signal.SIGINT)
        assert server.wait() == 128 + signal.SIGINT
        assert alive(pids) == set()
        writer.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    for fd in (ours, theirs):
        os.close(fd)


def test_ctrl_c_in_a_terminal_reaches_every_process_and_is_still_one_orderly_stop(
    terminal: tuple[int, int], runtime: Path
) -> None:
    ours, theirs = terminal
    argv = [sys.executable, "-m", "realtime", "serve", "--workers", "2", "--bind", "127.0.0.1:0"]
    # A session leader whose controlling terminal is the pty: only a small program of its own can become that.
    leader = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", leader, *argv],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    log = Log()
    try:
        with os.fdopen(os.dup(ours), "r", encoding="utf-8", errors="replace") as screen:
            lines = iter(screen.readline, "")
            for line in lines:
                log.lines.append(line)
                if "ready=2/2" in line:
                    break
            os.write(ours, b"\x03")
            for line in lines:
                log.lines.append(line)
                if SERVER_STOPPED in line:
                    break
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not log.find_all("Traceback|KeyboardInterrupt|SIGKILL|drain_s=0")
    assert files(runtime) == []
