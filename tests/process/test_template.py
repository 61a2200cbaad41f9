"""
Workers are forked of a template: real servers. What is shown here is what an operator sees: the start, the loss of the
template, a crash, a reload, and the cases in which a worker is executed anew.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sticky.loop.log_lines import TEMPLATE_LOST, WORKER_EXITED, WORKER_READY
from tests.support.log_lines import exited, pattern
from tests.support.server import RunningServer

APP = """
import os
from realtime import App

app = App()
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "forked.py"
    path.write_text(APP)
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    """Ask until it holds; the test's own time limit ends it otherwise."""
    while not holds():
        pass


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def worker(server: RunningServer, slot: int) -> int:
    [found] = [each["pid"] for each in server.status()["workers"] if each["slot"] == slot and each["state"] == "ready"]
    assert isinstance(found, int)
    return found


def template(server: RunningServer) -> int | None:
    found: int | None = server.status()["template"]["pid"]
    return found


def test_workers_are_children_of_the_keeper_and_a_crash_is_followed_by_another(target: Path) -> None:
    with RunningServer(target) as server:
        server.wait_until_full()
        pids = [worker(server, slot) for slot in range(2)]
        assert [parent(pid) for pid in pids] == [server.keeper_pid] * 2
        mark = server.log.mark()
        os.kill(pids[0], signal.SIGKILL)
        server.log.wait_for(pattern(WORKER_EXITED, slot=0, pid=pids[0], reason="killed by SIGKILL"), since=mark)
        server.log.wait_for(pattern(WORKER_READY, slot=0), since=mark)
        assert parent(worker(server, 0)) == server.keeper_pid
        assert worker(server, 1) == pids[1]


def test_a_template_that_is_lost_ends_no_worker_and_is_followed_by_another(target: Path) -> None:
    with RunningServer(target) as server:
        server.wait_until_full()
        first, pids = template(server), [worker(server, slot) for slot in range(2)]
        assert first is not None
        os.kill(first, signal.SIGKILL)
        server.log.wait_for(pattern(TEMPLATE_LOST, pid=first))
        os.kill(pids[0], signal.SIGKILL)
        server.log.wait_for(exited(slot=0))
        wait_until(lambda: server.status()["live"] == [0, 1])
        assert parent(worker(server, 0)) == server.pid, "meanwhile a worker is executed anew"
        wait_until(lambda: template(server) not in (None, first))
        assert worker(server, 1) == pids[1]


def test_a_reload_begins_with_a_new_template(target: Path) -> None:
    with RunningServer(target) as server:
        server.wait_until_full()
        first, before = template(server), worker(server, 0)
        mark = server.log.mark()
        server.send_signal(signal.SIGHUP)
        for slot in range(2):
            server.log.wait_for(exited(slot=slot), since=mark)
        assert template(server) not in (None, first)
        assert worker(server, 0) != before
        assert not server.log.find_all(TEMPLATE_LOST), "the one before was ended, not lost"


@pytest.mark.parametrize("options", [("--start", "spawn"), ("--env", "PYTHONHASHSEED={slot}")], ids=["spawn", "python"])
def test_a_worker_that_needs_an_interpreter_of_its_own_is_executed_anew(target: Path, options: tuple[str, str]) -> None:
    with RunningServer(target, *options, workers=3) as server:
        server.wait_until_full()
        assert parent(worker(server, 2)) == server.pid


def test_without_its_keeper_a_primary_executes_workers_anew_and_knows_how_they_end(target: Path) -> None:
    with RunningServer(target) as server:
        server.wait_until_full()
        primary, inherited = server.status()["pid"], worker(server, 0)
        os.kill(server.keeper_pid, signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: parent(primary) != server.keeper_pid)
        mark = server.log.mark()
        os.kill(inherited, signal.SIGKILL)
        server.log.wait_for(exited(slot=0), since=mark)
        wait_until(lambda: server.status()["live"] == [0, 1])
        executed = worker(server, 0)
        assert parent(executed) == primary
        mark = server.log.mark()
        os.kill(executed, signal.SIGKILL)
        server.log.wait_for(pattern(WORKER_EXITED, slot=0, pid=executed, reason="killed by SIGKILL"), since=mark)


def test_the_server_leaves_no_template_behind(target: Path) -> None:
    with RunningServer(target) as server:
        server.wait_until_full()
        found = template(server)
        assert found is not None
        assert server.stop() == 0
        wait_until(lambda: not Path(f"/proc/{found}").exists())
