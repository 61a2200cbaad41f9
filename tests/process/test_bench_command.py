"""`realtime bench` against real servers of two workers: what it finds, what it prints, and how it is refused."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_tls import make_certificate
from tests.sdk.conftest import SECRET
from tests.support.faulty_server import FaultyServer
from tests.support.processes import free_port
from tests.support.server import DEADLINE_S, ROOT, RunningServer

SMALL = ("--clients", "20", "--seconds", "1", "--connect-rate", "500")
TWO_ROOMS = ("--clients", "8", "--rooms", "2", "--rate", "20", "--seconds", "0.5")

LEFT_BEHIND = rb"closed without a reason|connection reset by peer|failed"  # of a killed worker; "failed" is both

APP = """
from realtime import App, Reject

app = App()


@app.room("chat:{name}")
class Chat:
    async def on_publish(self, conn, name, data):
        return {"from": conn.user, "said": data["text"]}


@app.room("quiet:{name}")
class Quiet:
    async def on_publish(self, conn, name, data):
        raise Reject("silence")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The stock application: every room is open."""
    with RunningServer(workers=2) as server:
        server.wait_until_full()
        yield server


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """An application with rooms of its own, which takes nobody without a token."""
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP)
    with RunningServer(path, workers=2, env={"REALTIME_TOKEN_HMAC_SECRET": SECRET}) as server:
        server.wait_until_full()
        yield server


def environment(**env: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return {**clean, "PYTHONPATH": str(ROOT), **env}


def bench(url: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "realtime", "bench", url, *options]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=DEADLINE_S, env=environment(**env), cwd="/", check=False
    )


def found(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.stderr == ""
    parsed = json.loads(result.stdout)
    assert isinstance(parsed, dict)
    return parsed


def test_a_clean_ledger(server: RunningServer) -> None:
    result = bench(server.url, *SMALL)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "= clean: every client got every publication, in order, once"
    assert "20 clients in the room bench:0" in result.stdout
    assert "▲ p50" in result.stdout
    assert "\x1b" not in result.stdout


def test_the_same_as_one_json_object(server: RunningServer) -> None:
    result = bench(server.url, *SMALL, "--rooms", "4", "--rate", "10", "--size", "512", "--json")
    assert result.returncode == 0
    told = found(result)
    assert told["clean"]
    assert told["members"] == 20
    assert told["published"] == 40
    assert told["expected"] == told["delivered"] == 200
    assert told["lost"] == told["doubled"] == told["reordered"] == told["strange"] == 0
    assert told["bytes_in"] > 200 * 512
    assert told["latency_ms"]["max"] is not None


def test_an_address_where_nobody_is() -> None:
    port = free_port()
    result = bench(f"http://127.0.0.1:{port}", *SMALL)
    assert result.returncode == 1
    assert result.stderr == (
        f"realtime: ws://127.0.0.1:{port}/connection/websocket does not answer (connection refused):"
        " does a server run there?\n"
    )


def test_a_certificate_is_trusted_by_its_file_alone(tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, "here")
    with RunningServer(None, "--certfile", str(certfile), "--keyfile", str(keyfile), workers=1) as server:
        result = bench(server.url, *SMALL)
        assert result.returncode == 1
        assert result.stderr == (
            f"realtime: the certificate of {server.url.replace('https', 'wss')}/connection/websocket is not trusted"
            " (self-signed certificate): name its authority with --cafile\n"
        )
        told = found(bench(server.url, *SMALL, "--cafile", str(certfile), "--json"))
        assert told["clean"]
        assert told["delivered"] == 400
        result = bench(server.url.replace("https", "http"), *SMALL)
        assert result.returncode == 1
        assert "opens no WebSocket" in result.stderr


def test_https_where_http_is_spoken(server: RunningServer) -> None:
    result = bench(server.url.replace("http", "https"), *SMALL)
    assert result.returncode == 1
    assert "does not speak TLS as it should" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_token_where_one_is_needed_it_says_how_to_give_one(strict_server: RunningServer) -> None:
    result = bench(strict_server.url, *SMALL, "--room", "chat:{n}")
    assert result.returncode == 1
    assert "give --token T, or --secret-from-settings" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_room_and_one_that_takes_nothing(strict_server: RunningServer) -> None:
    signed = (*SMALL, "--secret-from-settings")
    result = bench(strict_server.url, *signed, REALTIME_TOKEN_HMAC_SECRET=SECRET)
    assert result.returncode == 1
    assert "does not let clients into bench:0, it says 'unknown channel (102)': name a room" in result.stderr
    result = bench(strict_server.url, *signed, "--room", "quiet:{n}", REALTIME_TOKEN_HMAC_SECRET=SECRET)
    assert result.returncode == 1
    assert "takes no publications in quiet:0, it says 'silence (103)'" in result.stderr


def test_tokens_signed_by_the_settings_and_data_that_the_application_writes_anew(strict_server: RunningServer) -> None:
    options = (*SMALL, "--secret-from-settings", "--room", "chat:{n}", "--json")
    told = found(bench(strict_server.url, *options, REALTIME_TOKEN_HMAC_SECRET=SECRET))
    assert told["clean"]
    assert told["delivered"] == 400


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--clients", "20001"), "--clients: from 1 to 20,000"),
        (("--seconds", "601"), "--seconds: more than 0, at most 600"),
        (("--data", "{}"), "--data: {text} is missing: the text that is measured goes there"),
        (
            ("--cafile", "x"),
            "--cafile: ws://127.0.0.1:1/connection/websocket has no certificate: it is for https and wss",
        ),
        (("--token", "a", "--secret-from-settings"), "--token and --secret-from-settings: one of them is enough"),
        (("--rate", "often"), "Invalid value for '--rate': 'often' is not a valid float"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], sentence: str) -> None:
    result = bench("127.0.0.1:1", *options)
    assert result.returncode == 2
    assert result.stderr == f"realtime: {sentence} (see `realtime bench --help`)\n"


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("none", "= clean: every client got every publication, in order, once"),
        ("lost", "! not clean: 4 deliveries lost"),
        ("doubled", "! not clean: 4 doubled"),
        ("reordered", "! not clean: 4 reordered"),
        ("elsewhere", "! not clean: 4 deliveries lost, 4 strange"),
    ],
)
def test_each_mistake_of_a_server_is_found_and_named(mistake: str, told: str) -> None:
    with FaultyServer(mistake) as server:
        result = bench(server.url, *TWO_ROOMS)
    assert (result.returncode, result.stderr) == (0 if mistake == "none" else 1, "")
    assert result.stdout.splitlines()[-1] == told


def test_a_mistake_in_numbers() -> None:
    with FaultyServer("doubled") as server:
        result = bench(server.url, *TWO_ROOMS, "--json")
    assert result.returncode == 1
    told = found(result)
    assert told["expected"] == told["delivered"] == 80
    assert {name: told[name] for name in ("lost", "doubled", "reordered", "strange")} == {
        "lost": 0,
        "doubled": 4,
        "reordered": 0,
        "strange": 0,
    }
    assert not told["clean"]


class Terminal:
    """`realtime bench` with a terminal as its standard error, where it draws its progress."""

    def __init__(self, url: str, *options: str) -> None:
        self._main, side = pty.openpty()
        argv = [sys.executable, "-m", "realtime", "bench", url, *options]
        env = environment(TERM="xterm-256color")
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=side, env=env, text=True)
        os.close(side)
        self.drawn = b""

    def wait_for(self, pattern: bytes, times: int = 1) -> None:
        """Read until it has drawn what matches, so many times."""
        give_up_at = time.monotonic() + DEADLINE_S
        while len(re.findall(pattern, self.drawn)) < times:
            left_s = max(0.0, give_up_at - time.monotonic())
            assert left_s, self.drawn[-400:]
            assert select.select([self._main], [], [], left_s)[0], self.drawn[-400:]
            self.drawn += os.read(self._main, 4096)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and its standard output."""
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        while select.select([self._main], [], [], 0)[0]:
            try:
                self.drawn += os.read(self._main, 4096)
            except OSError:  # EIO: nobody holds the other side any more
                break
        return self.process.returncode, output

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._main)


def test_clients_of_a_server_here_come_from_many_addresses() -> None:
    with RunningServer(None, "--sticky", "ip", workers=2) as server:
        server.wait_until_full()
        with Terminal(server.url, *SMALL, "--seconds", "600") as terminal:
            terminal.wait_for(b"publishing")
            connections = [each["connections"] for each in server.status()["workers"]]
    assert sum(connections) >= 20
    assert all(connections), "addresses belong to workers: those of many clients to each"


def test_ctrl_c_ends_it_and_what_was_seen_is_shown(server: RunningServer) -> None:
    with Terminal(server.url, "--clients", "20", "--seconds", "600", "--json") as terminal:
        terminal.wait_for(b"publishing")
        terminal.process.send_signal(signal.SIGINT)
        status, output = terminal.end()
    told = json.loads(output)
    assert status == 0
    assert told["interrupted"]
    assert told["clean"]
    assert told["published"] > 0
    assert terminal.drawn.endswith(b"\r\x1b[2K\x1b[?25h"), "the line is gone, the cursor is back"


def test_ctrl_c_before_anything_is_published_is_an_interruption(server: RunningServer) -> None:
    with Terminal(server.url, "--clients", "1000", "--connect-rate", "1") as terminal:
        terminal.wait_for(b"of 1\xe2\x80\xaf000")
        terminal.process.send_signal(signal.SIGINT)
        status, output = terminal.end()
    assert status == 130
    assert output.splitlines()[-1] == "! ended early; nothing was published"


def test_a_worker_that_dies_shows_in_the_ledger() -> None:
    with RunningServer(workers=2) as server:
        server.wait_until_full()
        with Terminal(server.url, *SMALL, "--seconds", "600", "--json") as terminal:
            terminal.wait_for(b"publishing")
            os.kill(server.status()["workers"][0]["pid"], signal.SIGKILL)
            terminal.wait_for(LEFT_BEHIND, times=2)  # between two lines several publications are due
            terminal.process.send_signal(signal.SIGINT)
            status, output = terminal.end()
    told = json.loads(output)
    assert status == 1
    assert not told["clean"]
    assert told["lost"] > 0
    assert sum(each["count"] for each in told["failures"] if each["step"] == "stay") > 0


def test_a_server_that_ends_ends_the_run() -> None:
    with RunningServer(workers=2) as server:
        server.wait_until_full()
        with Terminal(server.url, *SMALL, "--seconds", "600") as terminal:
            terminal.wait_for(b"publishing")
            server.stop(signal.SIGQUIT)
            status, output = terminal.end()
    assert status == 1
    assert b"Traceback" not in terminal.drawn
    assert "! not clean: " in output.splitlines()[-1]
    assert "20 clients failed" in output.splitlines()[-1]
