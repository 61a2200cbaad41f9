"""The commands that talk to a server that runs: status, reload, scale, stop; and what they say when there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sticky.loop.log_lines import WORKER_READY
from tests.support.log_lines import exited, pattern
from tests.support.server import RunningServer

from .conftest import ROOT, Run


@pytest.fixture
def app(alone: Path) -> Path:
    path = alone / "app.py"
    path.write_text("from realtime import App\n\napp = App()\n")
    return path


@pytest.fixture
def server(app: Path) -> Iterator[RunningServer]:
    with RunningServer(app, workers=2, cwd=app.parent) as running:
        running.wait_until_full()
        yield running


def test_status_shows_every_worker_and_what_went_wrong(server: RunningServer, realtime: Run) -> None:
    said = realtime("status").stdout
    assert f"primary {server.pid} listens on 127.0.0.1:{server.port}" in said
    assert [line.split()[0] for line in said.splitlines()[3:5]] == ["0", "1"]
    assert said.count("local, up") == 2
    assert len(said.splitlines()) == 5, "nothing went wrong"
    found = json.loads(realtime("status", "--json").stdout)
    assert found["live"] == [0, 1]
    assert found["pid"] == server.pid


def test_a_reload_is_waited_for(server: RunningServer, realtime: Run) -> None:
    before = json.loads(realtime("status", "--json").stdout)["workers"]
    done = realtime("reload")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "2 of 2 workers are new")
    after = [each for each in json.loads(realtime("status", "--json").stdout)["workers"] if each["state"] == "ready"]
    assert len(after) == 2
    assert not {each["pid"] for each in before} & {each["pid"] for each in after}


def test_a_reload_that_fails_says_why_and_what_goes_on(app: Path, server: RunningServer, realtime: Run) -> None:
    app.write_text("import nothing_of_that_name\n")
    done = realtime("reload")
    assert done.returncode == 1
    assert "the new code fails to start, and the old workers keep serving" in done.stderr
    assert "nothing_of_that_name" in done.stderr
    assert "the last reload was given up" in realtime("status").stdout


def test_drain_replaces_the_worker_of_one_slot(app: Path, server: RunningServer, realtime: Run) -> None:
    before = pids(realtime)
    assert realtime("drain", "1").stdout == "slot 1 has another worker\n"
    after = pids(realtime)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert realtime("drain", "7").stderr == "realtime: slot 7 has no worker that serves\n"
    app.write_text("import nothing_of_that_name\n")
    assert realtime("drain", "1").returncode == 1
    assert pids(realtime) == after


def pids(realtime: Run) -> dict[int, int]:
    found = json.loads(realtime("status", "--json").stdout)["workers"]
    return {each["slot"]: each["pid"] for each in found if each["state"] == "ready"}


def test_status_can_be_watched(server: RunningServer, realtime: Run) -> None:
    argv = [sys.executable, "-m", "realtime", "status", "--json", "--watch"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as watch:
        assert watch.stdout is not None
        assert [json.loads(watch.stdout.readline())["pid"] for _ in range(2)] == [server.pid] * 2
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 130


def test_scale_starts_and_retires_workers(server: RunningServer, realtime: Run) -> None:
    assert realtime("scale", "3").stdout == "from 2 to 3 workers\n"
    server.log.wait_for(pattern(WORKER_READY, slot=2, ready="3/3"))
    assert realtime("scale", "1").stdout == "from 3 to 1 workers\n"
    server.log.wait_for(exited(slot=2))
    wrong = realtime("scale", "0")
    assert wrong.returncode == 2
    assert "0 is not in the range 1<=x<=512" in wrong.stderr


@pytest.mark.parametrize("options", [[], ["--now"]])
def test_stop_returns_when_the_server_is_gone(options: list[str], server: RunningServer, realtime: Run) -> None:
    assert realtime("stop", *options).stdout == f"stopped (primary {server.pid})\n"
    assert server.wait() == 0


@pytest.mark.parametrize("command", ["status", "reload", "stop"])
def test_without_a_server_it_is_said(command: str, realtime: Run) -> None:
    done = realtime(command)
    assert (done.returncode, done.stderr) == (
        1,
        "realtime: no server of this user runs here; `realtime serve` starts one\n",
    )


@pytest.mark.parametrize("control", ["nowhere/control.sock", "d" * 100])  # with the directory before it too long
def test_a_control_socket_that_cannot_be_is_told(realtime: Run, app: Path, control: str) -> None:
    done = realtime("serve", str(app), "--bind", "127.0.0.1:0", "--control", control)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("realtime: control: cannot listen on /")


def test_of_two_servers_one_has_to_be_named(server: RunningServer, realtime: Run, app: Path) -> None:
    control = app.parent / "other.sock"
    with RunningServer(app, "--control", str(control), workers=1, cwd=app.parent) as other:
        named = json.loads(realtime("status", "--json", "--control", str(control)).stdout)
        assert named["pid"] == other.pid
        with RunningServer(app, workers=1, cwd=app.parent) as third:
            done = realtime("status")
            assert done.returncode == 1
            assert "several servers run: choose one with --control PATH out of " in done.stderr
            assert f"(pid {third.pid})" in done.stderr
