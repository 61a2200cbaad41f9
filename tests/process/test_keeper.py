"""
The loss of a primary: its keeper starts another, which goes on with the same workers, clients, listeners and broker.

Real processes, killed with SIGKILL by the pid that the status reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from sticky.keeper.report import (
    PRIMARY_ADOPTED,
    PRIMARY_LOST,
    PRIMARY_RESTART_DELAYED,
    PRIMARY_STARTED,
    UPGRADE_FAILED,
    UPGRADE_STARTED,
)
from sticky.loop.log_lines import (
    RELOAD_STARTED,
    SERVER_RELEASED,
    SERVER_TAKEN_OVER,
    SIDECAR_EXITED,
    SIDECAR_READY,
    SIGNAL_RECEIVED,
    WORKER_EXITED,
    WORKER_READY,
)
from sticky.process.keeper_link import KEEPER_FOUND, KEEPER_LOST
from tests.support.aio import eventually
from tests.support.client import ProtocolClient
from tests.support.log_lines import PID, pattern
from tests.support.nobody import PYTHON_PATH, python_of_nobody
from tests.support.server import ROOT, RunningServer

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def kill_primary(server: RunningServer) -> None:
    """Kill the primary of today, and wait until the next one has taken over."""
    mark, pid = server.log.mark(), server.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    server.log.wait_for(pattern(PRIMARY_LOST, pid=pid, reason="killed by SIGKILL"), since=mark)
    server.log.wait_for(SERVER_TAKEN_OVER, since=mark)


def workers_of(status: dict[str, Any]) -> dict[int, int]:
    """Return the pid of each slot's worker."""
    return {each["slot"]: each["pid"] for each in status["workers"]}


def listening_inode(server: RunningServer) -> str:
    """Return the kernel's number of the listening socket (proc(5), net/tcp)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = [each[9] for each in lines if each[1].endswith(f":{server.port:04X}") and each[3] == "0A"]
    return inode


class Connects:
    """Connects one after the other in a thread, from `__enter__` to `__exit__`, and has each served."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.served = 0
        self.refused = 0
        self.reset = 0

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), 30) as sock:
                    sock.sendall(REQUEST)
                    answer = sock.recv(4096)
            except ConnectionRefusedError:
                self.refused += 1
            except ConnectionResetError:
                self.reset += 1
            else:
                self.served += answer.startswith(b"HTTP/1.1 200")
                self.reset += not answer

    def __enter__(self) -> Connects:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()


async def chat(clients: list[ProtocolClient], text: str) -> None:
    """Have one client publish, and each get the publication."""
    await clients[0].ask("publish", channel="room", data=text)
    for client in clients:
        assert (await client.push("pub"))["pub"]["data"] == text


def test_a_killed_primary_is_followed_by_another_and_no_client_notices() -> None:
    with RunningServer(None, workers=2) as server:
        server.wait_until_full()
        before, inode = server.status(), listening_inode(server)

        async def go_on() -> None:
            clients = [await ProtocolClient.join(server.websocket_url, f"127.0.8.{n + 1}") for n in range(6)]
            for client in clients:
                await client.ask("subscribe", channel="room")
            await chat(clients, "before")
            for number in range(2):
                await asyncio.to_thread(kill_primary, server)
                await chat(clients, f"after {number}")
            assert [client.closed for client in clients] == [None] * 6, "no client was closed"
            history = await clients[0].ask("history", channel="room", limit=10)
            assert [each["data"] for each in history["publications"]] == ["before", "after 0", "after 1"]
            new = await ProtocolClient.join(server.websocket_url, "127.0.8.9")
            await new.close()
            for client in clients:
                await client.close()

        with Connects(server.port) as connects:
            asyncio.run(go_on())
        after = server.status()
        assert after["pid"] != before["pid"]
        assert workers_of(after) == workers_of(before), "the same processes"
        assert [each["worker_id"] for each in after["workers"]] == [each["worker_id"] for each in before["workers"]]
        assert after["sidecars"] == before["sidecars"], "the same broker"
        assert after["keeper"]["pid"] == before["keeper"]["pid"] == server.keeper_pid
        assert listening_inode(server) == inode, "the same socket"
        assert connects.served
        assert connects.refused == 0
        assert connects.reset <= 2, "at most the connection that a primary was reading when it was killed"
        assert server.log.find_all(WORKER_EXITED) == []
        assert server.stop() == 0
        assert server.log.find_all("Traceback") == []


def test_connections_that_no_worker_has_are_reset_with_a_killed_primary_and_counted() -> None:
    with RunningServer(None, workers=1) as server:
        for round in (1, 2):
            with contextlib.ExitStack() as stack:
                pending = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30)) for _ in range(5)
                ]
                for each in pending:
                    each.sendall(REQUEST[:20])
                while server.status()["before_head"] < 5:
                    pass  # the status is answered by the loop that accepts
                mark = server.log.mark()
                kill_primary(server)
                server.log.wait_for(pattern(SERVER_TAKEN_OVER, lost=5 * round), since=mark)
                for each in pending:
                    with contextlib.suppress(ConnectionResetError):
                        assert each.recv(100) == b""
        assert server.status()["counters"]["lost_with_primary"] == 10


def test_the_limit_of_connections_of_an_address_goes_on_with_the_next_primary() -> None:
    with RunningServer(None, "--connections-per-address", "2", workers=1) as server:

        async def go_on() -> None:
            clients = [await ProtocolClient.join(server.websocket_url, "127.0.8.1") for _ in range(2)]
            await asyncio.to_thread(kill_primary, server)
            with socket.create_connection(("127.0.0.1", server.port), 30, ("127.0.8.1", 0)) as third:
                third.sendall(REQUEST)
                assert (await asyncio.to_thread(third.recv, 4096)).startswith(b"HTTP/1.1 503")
            await clients[0].close()

            async def is_admitted() -> bool:  # once the worker has reported the end
                with contextlib.suppress(InvalidStatus):
                    await (await ProtocolClient.join(server.websocket_url, "127.0.8.1")).close()
                    return True
                return False

            await eventually(is_admitted, every_s=0.1)
            await clients[1].close()

        asyncio.run(go_on())


def test_crashes_in_a_row_are_followed_by_a_pause() -> None:
    with RunningServer(None, workers=1) as server:
        for _ in range(3):
            kill_primary(server)
        assert len(server.log.find_all(PRIMARY_STARTED)) == 3
        delays = [
            each["delay"] for each in server.log.find_all(pattern(PRIMARY_RESTART_DELAYED, delay_s="(?P<delay>.*)"))
        ]
        assert delays == ["0.5", "1"], "the first one was followed at once"


def test_the_next_primary_does_what_operators_have_asked_of_the_one_before() -> None:
    with RunningServer(None, workers=1) as server:
        mark = server.log.mark()
        server.send_signal(signal.SIGTTIN)
        server.log.wait_for(pattern(WORKER_READY, ready="2/2"), since=mark)
        kill_primary(server)
        assert server.status()["wanted"] == 2
        mark = server.log.mark()
        server.send_signal(signal.SIGHUP)
        server.log.wait_for(RELOAD_STARTED, since=mark)
        server.log.wait_for(WORKER_EXITED, since=mark, times=2)
        status = server.status()
        assert [each["generation"] for each in status["workers"]] == [2, 2]
        kill_primary(server)
        assert server.status()["reload"]["generation"] == 2


def test_a_worker_that_dies_with_its_primary_is_replaced() -> None:
    with RunningServer(None, workers=2) as server:
        server.wait_until_full()
        before, mark = server.status(), server.log.mark()
        lost = workers_of(before)[1]
        os.kill(before["pid"], signal.SIGSTOP)  # it must not see the end of its worker
        os.kill(lost, signal.SIGKILL)
        os.kill(before["pid"], signal.SIGKILL)
        server.log.wait_for(pattern(WORKER_READY, slot=1, ready="2/2"), since=mark)
        after = workers_of(server.status())
        assert after[0] == workers_of(before)[0]
        assert after[1] != lost


def test_a_worker_of_the_primary_before_that_dies_is_replaced_and_the_log_says_how_it_ended() -> None:
    with RunningServer(None, workers=2) as server:
        server.wait_until_full()
        kill_primary(server)
        mark, pids = server.log.mark(), workers_of(server.status())
        os.kill(pids[0], signal.SIGKILL)
        server.log.wait_for(pattern(WORKER_EXITED, slot=0, pid=pids[0], reason="killed by SIGKILL"), since=mark)
        server.log.wait_for(pattern(WORKER_READY, slot=0), since=mark)
        assert workers_of(server.status())[1] == pids[1]


def test_the_broker_of_the_primary_before_ends_last_when_the_server_stops() -> None:
    with RunningServer(None, workers=2) as server:
        server.wait_until_full()
        pids = {server.keeper_pid, *server.children()}
        kill_primary(server)
        os.killpg(server.keeper_pid, signal.SIGTERM)  # to every process at once, as a service manager does
        assert server.wait() == 0
        assert server.log.find_all("the link to the broker is lost|Traceback") == []
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        assert not server.directory.exists()


def test_a_stop_is_finished_by_the_next_primary() -> None:
    with RunningServer(None, "--drain", "20s", workers=1) as server:
        server.wait_until_full()

        async def hold_a_stop_up() -> None:
            client = await ProtocolClient.join(server.websocket_url)
            worker = workers_of(server.status())[0]
            os.kill(worker, signal.SIGSTOP)  # it cannot drain
            mark, pid = server.log.mark(), server.status()["pid"]
            server.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.log.wait_for, pattern(SIGNAL_RECEIVED, signal="SIGTERM"), since=mark)
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(
                server.log.wait_for, pattern(SIGNAL_RECEIVED, signal="SIGTERM"), since=mark, times=2
            )
            os.kill(worker, signal.SIGCONT)
            assert (await client.wait_closed())[0] == 3001

        asyncio.run(hold_a_stop_up())
        assert server.wait() == 0


def test_a_second_server_with_the_same_control_directory_is_refused(tmp_path: Path) -> None:
    with RunningServer(None, "--control", str(tmp_path / "c.sock"), workers=1) as server:
        done = subprocess.run(
            [sys.executable, "-m", "realtime", "serve", "--bind", "127.0.0.1:0", "--control", str(tmp_path / "c.sock")],
            cwd=ROOT,
            env=server.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert f"a server runs already with the control directory {server.directory}" in done.stderr
        assert server.status()["live"] == [0], "the first one serves on"


@pytest.mark.parametrize("options", [["--user", "no-such-user"], ["--bind", "203.0.113.1:80"]])
def test_a_start_that_fails_ends_the_keeper_with_the_status_of_the_primary(options: list[str]) -> None:
    argv = [sys.executable, "-m", "realtime", "serve", *options]
    env = RunningServer(None).env
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("realtime: ") or "realtime: bind" in done.stderr
    assert PRIMARY_LOST not in done.stderr


def test_a_killed_keeper_changes_nothing_and_the_next_start_takes_over_what_is_there(tmp_path: Path) -> None:
    options = ("--control", str(tmp_path / "c.sock"), "--pid-file", str(tmp_path / "pid"))
    with RunningServer(None, *options, workers=2) as first:
        first.wait_until_full()
        before = first.status()
        second = RunningServer(None, *options, workers=2)
        second.url = first.url

        async def go_on() -> None:
            clients = [await ProtocolClient.join(first.websocket_url, f"127.0.8.{n + 1}") for n in range(4)]
            for client in clients:
                await client.ask("subscribe", channel="room")
            os.kill(first.keeper_pid, signal.SIGKILL)
            await asyncio.to_thread(first.log.wait_for, KEEPER_LOST)
            await chat(clients, "without a keeper")
            second.start()
            await asyncio.to_thread(second.log.wait_for, pattern(PRIMARY_ADOPTED, pid=before["pid"]))
            await asyncio.to_thread(first.log.wait_for, pattern(KEEPER_FOUND, pid=second.keeper_pid))
            await chat(clients, "with another keeper")
            assert second.status()["keeper"]["pid"] == second.keeper_pid
            assert (tmp_path / "pid").read_text() == f"{second.keeper_pid}\n"
            await asyncio.to_thread(kill_primary_of_another_keeper, second)
            await chat(clients, "with another primary")
            assert workers_of(second.status()) == workers_of(before)
            assert second.status()["sidecars"] == before["sidecars"]
            mark = second.log.mark()
            os.kill(workers_of(before)[0], signal.SIGKILL)  # nothing that runs here is its parent
            await asyncio.to_thread(second.log.wait_for, pattern(WORKER_READY, slot=0, ready="2/2"), since=mark)
            assert second.stop() == 0

        asyncio.run(go_on())
        assert not (tmp_path / "pid").exists()
        assert not second.directory.exists()


def kill_primary_of_another_keeper(server: RunningServer) -> None:
    mark, pid = server.log.mark(), server.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    server.log.wait_for(pattern(PRIMARY_LOST, pid=pid), since=mark)
    server.log.wait_for(SERVER_TAKEN_OVER, since=mark)


def test_an_upgrade_closes_and_refuses_nothing_and_has_pending_connections_go_on() -> None:
    with RunningServer(None, workers=2) as server:
        server.wait_until_full()
        before = server.status()

        async def go_on() -> None:
            clients = [await ProtocolClient.join(server.websocket_url, f"127.0.8.{n + 1}") for n in range(6)]
            for client in clients:
                await client.ask("subscribe", channel="room")
            epoch = (await clients[0].ask("history", channel="room"))["epoch"]
            for number in range(3):
                mark, [broker] = server.log.mark(), server.status()["sidecars"]
                await asyncio.to_thread(upgrade, server)
                await asyncio.to_thread(server.log.wait_for, pattern(SIDECAR_READY, pid=PID), since=mark)
                await chat(clients, f"upgrade {number}")
                assert server.status()["sidecars"] != [broker], "the local broker has the code of today, too"
                assert server.log.find_all(pattern(SIDECAR_EXITED)) == []
            history = await clients[0].ask("history", channel="room", limit=10)
            assert [each["data"] for each in history["publications"]] == [f"upgrade {number}" for number in range(3)]
            assert history["epoch"] == epoch, "positions that clients know are still right"
            assert [client.closed for client in clients] == [None] * 6, "no client was closed"
            for client in clients:
                await client.close()

        def upgrade(server: RunningServer) -> None:
            mark, pid = server.log.mark(), server.status()["pid"]
            with socket.create_connection(("127.0.0.1", server.port), 30) as pending:
                pending.sendall(REQUEST[:20])
                while server.status()["before_head"] < 1:
                    pass  # the status is answered by the loop that accepts
                server.send_signal(signal.SIGUSR2)
                server.log.wait_for(pattern(SERVER_RELEASED, pending=r"[1-9]\d*", lost=0), since=mark)
                server.log.wait_for(SERVER_TAKEN_OVER, since=mark)
                pending.sendall(REQUEST[20:])
                assert pending.recv(4096).startswith(b"HTTP/1.1 200")
            assert server.status()["pid"] != pid

        with Connects(server.port) as connects:
            asyncio.run(go_on())
        after = server.status()
        assert workers_of(after) == workers_of(before)
        assert after["counters"]["accepted"] >= connects.served + 6 + 3, "each successor counts on"
        assert connects.served
        assert (connects.refused, connects.reset) == (0, 0)
        assert server.log.find_all(PRIMARY_LOST) == []
        assert server.stop() == 0
        assert server.log.find_all("Traceback") == []


def run_upgrade(server: RunningServer) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "realtime", "upgrade", "--control", str(server.control)]
    return subprocess.run(argv, cwd=ROOT, env=server.env, capture_output=True, text=True, timeout=100)


def test_the_command_upgrades_to_the_settings_of_today_or_says_why_not(tmp_path: Path) -> None:
    config = tmp_path / "realtime.toml"
    config.write_text("ping = '20s'\n")
    with RunningServer(None, "--config", str(config), workers=1) as server:
        before = server.status()
        config.write_text("ping = 'never'\n")
        done = run_upgrade(server)
        assert done.returncode == 1
        assert done.stderr.startswith("realtime: nothing was replaced, and the server serves on: SettingsError: ")
        assert "ping" in done.stderr
        assert server.status()["pid"] == before["pid"]
        kill_primary(server)  # a crash is no upgrade: the settings of before count
        pid = server.status()["pid"]
        config.write_text("ping = '15s'\n")
        assert run_upgrade(server).stdout == f"upgraded (primary {pid} -> {server.status()['pid']})\n"
        assert workers_of(server.status()) == workers_of(before)


def test_a_successor_that_is_killed_changes_nothing() -> None:
    with RunningServer(None, workers=1) as server:
        before, mark = server.status(), server.log.mark()
        server.send_signal(signal.SIGUSR2)
        started = server.log.wait_for(pattern(UPGRADE_STARTED, pid=r"(?P<successor>\d+)"), since=mark)
        os.kill(int(started["successor"]), signal.SIGKILL)
        server.log.wait_for(UPGRADE_FAILED, since=mark)
        assert server.status()["pid"] == before["pid"]
        assert server.status()["upgrade"]["failed"]


def test_keeper_and_every_primary_become_the_user_of_the_settings_for_good() -> None:
    python, nobody = python_of_nobody(), pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="nobody-") as directory:
        os.chmod(directory, 0o777)
        options = ("--user", "nobody", "--control", f"{directory}/c.sock")
        env = {"PYTHONPATH": PYTHON_PATH, "TMPDIR": directory, "XDG_RUNTIME_DIR": ""}
        with RunningServer(None, *options, workers=1, env=env, python=python) as server:
            server.wait_until_full()
            kill_primary(server)
            after = server.status()
            for pid in (server.keeper_pid, after["pid"], *workers_of(after).values()):
                ids = Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[:4]
                assert ids == [str(nobody.pw_uid)] * 4
            with socket.create_connection(("127.0.0.1", server.port), 30) as client:
                client.sendall(REQUEST)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
            os.kill(server.keeper_pid, signal.SIGKILL)
            server.log.wait_for(KEEPER_LOST)
            os.kill(after["pid"], signal.SIGKILL)
            with RunningServer(None, *options, workers=1, env=env, python=python) as second:
                assert workers_of(second.status()) == workers_of(after), "root adopts what serves as another user"
                assert second.stop() == 0
            assert not second.directory.exists()
