"""`realtime bench` against real servers of two workers: what it finds, what it prints, and how it is refused."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.conftest import SECRET
from tests.support.processes import free_port
from tests.support.server import DEADLINE_S, ROOT, RunningServer

SMALL = ("--clients", "20", "--seconds", "1", "--connect-rate", "500")

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
    assert result.stdout.splitlines()[-1] == "= clean: everybody got everything, in order, once"
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


def test_clients_of_a_server_here_come_from_many_addresses(server: RunningServer) -> None:
    before = {each["slot"]: each["given"] for each in server.status()["workers"] if "given" in each}
    found(bench(server.url, *SMALL, "--json"))
    after = {each["slot"]: each["given"] for each in server.status()["workers"] if "given" in each}
    assert all(after[slot] > before[slot] for slot in before)


def test_an_address_where_nobody_is() -> None:
    port = free_port()
    result = bench(f"http://127.0.0.1:{port}", *SMALL)
    assert result.returncode == 1
    assert result.stderr == (
        f"realtime: ws://127.0.0.1:{port}/connection/websocket does not answer (connection refused):"
        " does a server run there?\n"
    )


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
        (("--token", "a", "--secret-from-settings"), "--token and --secret-from-settings: one of them is enough"),
        (("--rate", "often"), "Invalid value for '--rate': 'often' is not a valid float"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], sentence: str) -> None:
    result = bench("127.0.0.1:1", *options)
    assert result.returncode == 2
    assert result.stderr == f"realtime: {sentence} (see `realtime bench --help`)\n"


def test_ctrl_c_ends_it_and_what_was_seen_is_shown(server: RunningServer) -> None:
    argv = [sys.executable, "-m", "realtime", "bench", server.url, "--clients", "20", "--seconds", "600", "--json"]
    main, side = pty.openpty()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=side, env=environment(), text=True) as process:
        os.close(side)
        drawn = b""
        while b"publishing" not in drawn:  # the line of progress, on what is a terminal
            drawn += os.read(main, 4096)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE_S)
        os.close(main)
    told = json.loads(output)
    assert told["interrupted"]
    assert told["clean"]
    assert told["published"] > 0
    assert process.returncode == 0


def test_a_worker_that_dies_shows_in_the_ledger(tmp_path: Path) -> None:
    with RunningServer(workers=2) as server:
        server.wait_until_full()
        argv = [sys.executable, "-m", "realtime", "bench", server.url, *SMALL, "--seconds", "600", "--json"]
        main, side = pty.openpty()
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=side, env=environment(), text=True) as process:
            os.close(side)
            drawn = b""
            while b"publishing" not in drawn:
                drawn += os.read(main, 4096)
            os.kill(server.status()["workers"][0]["pid"], signal.SIGKILL)
            while b"closed" not in drawn:
                drawn += os.read(main, 4096)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=DEADLINE_S)
            os.close(main)
    told = json.loads(output)
    assert process.returncode == 1
    assert not told["clean"]
    assert told["lost"] > 0
    assert sum(each["count"] for each in told["failures"] if each["step"] == "stay") > 0
