"""
The units of docs/deploying/systemd.md, and a test that plays the manager for them.

The manager here does what systemd does by these units: it listens on the socket and passes it on, has a notify socket,
reloads by HUP, stops by TERM to the main process alone, and starts the service anew when that was killed.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.cli.serve import serve
from realtime.settings import Settings, resolve
from realtime.settings.quantities import Seconds
from sticky.loop.log_lines import SERVER_LISTENING
from sticky.supervision.readiness import LAME_DUCK
from sticky.supervision.supervisor import KILL_GRACE_S
from tests.docs.pages import DOCS, blocks
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.probing import probe
from tests.support.server import RunningServer
from tests.support.service_manager import ServiceManager

GUIDE = DOCS / "deploying" / "systemd.md"
LISTEN_FD = 3  # the first that systemd passes (sd_listen_fds(3))


def unit(kind: str) -> configparser.ConfigParser:
    """Return the guide's unit of a kind, `service` or `socket`."""
    [text] = [block for block in blocks(GUIDE, "ini") if f"/chat.{kind}\n" in block]
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names are case-sensitive
    found.read_string(text)
    return found


def service() -> configparser.SectionProxy:
    return unit("service")["Service"]


def arguments() -> list[str]:
    """Return what the unit's command line gives to `realtime serve`."""
    words = shlex.split(service()["ExecStart"])
    assert words[1] == "serve"
    return words[2:]


def settings(directory: Path) -> Settings:
    given = serve.make_context("serve", arguments()).params
    return resolve(given, environ={}, directory=directory, config=given.pop("config"))


def test_the_unit_leaves_the_others_alone_and_has_time_for_the_stop(tmp_path: Path) -> None:
    found, of_server = service(), settings(tmp_path)
    assert found["Type"] == "notify-reload"
    assert "ExecReload" not in found, "the type sends HUP by itself"
    assert found["KillMode"] == "process", "workers outlive a main process that was killed"
    assert found["Restart"] in ("on-failure", "always")
    stop_s = Seconds(0, 86_400).parse(found["TimeoutStopSec"])
    assert stop_s >= of_server.lame_duck_s + of_server.drain_s + KILL_GRACE_S
    assert of_server.bind == (f"fd://{LISTEN_FD}",)
    assert "ListenStream" in unit("socket")["Socket"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on PATH")
def test_systemd_can_read_the_units(tmp_path: Path) -> None:
    for kind in ("service", "socket"):
        text = next(block for block in blocks(GUIDE, "ini") if f"/chat.{kind}\n" in block)
        text = text.replace(service()["ExecStart"].split()[0], "/bin/true")  # it has to be there
        (tmp_path / f"chat.{kind}").write_text(text)
    argv = ["systemd-analyze", "verify", str(tmp_path / "chat.service")]
    said = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60).stderr
    complaints = [line for line in said.splitlines() if str(tmp_path) in line]
    older = "Failed to parse service type, ignoring: notify-reload"  # before version 253
    assert [line for line in complaints if older not in line] == []


class Service:
    """The unit's main process, as the manager starts it."""

    def __init__(self, manager: ServiceManager, listener: socket.socket, *more: str) -> None:
        # What a test cannot have: the unit's application, its log, and descriptor 3, which pytest's runner may use.
        words = [each for each in arguments() if each != "app.py"]
        at = words.index(f"fd://{LISTEN_FD}")
        words[at] = f"fd://{listener.fileno()}"
        env = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "20000000", "LISTEN_FDS": "1"}
        self.server = RunningServer(None, *words, *more, workers=2, bind=None, env=env, pass_fds=(listener.fileno(),))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


def test_the_manager_learns_of_start_reload_lame_duck_and_end(manager: ServiceManager, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with Service(manager, listener, "--lame-duck", "600s").server as server:
        assert "READY" in manager.next(), "systemctl start returns now"
        server.log.wait_for("worker ready .*ready=2/2")
        old = set(server.children())

        before_usec = time.monotonic_ns() // 1000
        server.send_signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")  # READY comes again for each worker that is ready
        assert set(reloading) == {"RELOADING", "MONOTONIC_USEC"}, "both in one message (sd_notify(3))"
        assert before_usec <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        ready = manager.next()
        assert (ready["READY"], ready["STATUS"]) == ("1", "2 of 2 workers serve")
        assert len(set(server.children()) - old) >= 2, "systemctl reload returns when every worker is new"

        server.send_signal(signal.SIGTERM)
        assert manager.wait_for("STOPPING") == {"STOPPING": "1", "STATUS": LAME_DUCK}
        assert probe(port)[0] in (200, 503), "it serves on"
        server.send_signal(signal.SIGHUP)
        server.log.wait_for("signal received signal=SIGHUP", times=2)
        server.send_signal(signal.SIGTERM)
        assert manager.next() == {"STOPPING": "1", "STATUS": "stopping"}, "nothing was reloaded in between"
        assert server.wait() == 0


def test_the_watchdog_is_answered(manager: ServiceManager, listener: socket.socket) -> None:
    running = Service(manager, listener).server
    running.env["WATCHDOG_USEC"] = "200000"
    with running:
        for _ in range(3):
            manager.wait_for("WATCHDOG")


@run_async
async def test_a_killed_main_process_leaves_the_workers_and_the_next_one_serves_the_same_socket(
    manager: ServiceManager, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    url = f"ws://127.0.0.1:{port}/connection/websocket"
    with Service(manager, listener, "--orphan-grace", "600s").server as first:
        assert "READY" in await asyncio.to_thread(manager.next)
        client = await ProtocolClient.join(url, "127.0.43.1")
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait(30)
        early = asyncio.create_task(ProtocolClient.join(url, "127.0.43.2"))  # it waits in the kernel
        with Service(manager, listener, "--orphan-grace", "600s").server as second:
            second.log.wait_for(SERVER_LISTENING)
            late = await asyncio.wait_for(early, 60)
            assert await late.ask("unsubscribe", channel="room") == {}
            assert await client.ask("unsubscribe", channel="room") == {}, "its worker serves on"
            await late.close()
            await client.close()
