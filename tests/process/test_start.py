"""How a start looks: a line before anything is ready, and the reason at the end of one that fails."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from realtime.cli.banner import LISTENING
from tests.support.server import RunningServer

SLOW = """
import pathlib
from realtime import App

pathlib.Path("gate").read_text()  # until the test opens it for writing
app = App()
"""


def failed(server: RunningServer) -> tuple[int, str]:
    """Start a server that cannot start; return its exit status and its last line."""
    server.start()
    try:
        status = server.wait(deadline_s=60)
    finally:
        server.stop()
    return status, server.log.lines[-1]


def test_what_is_started_is_said_before_any_worker_is_ready(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "app.py").write_text(SLOW)
    server = RunningServer("app.py", workers=1, cwd=tmp_path)
    server.start()
    try:
        server.log.wait_for(r"= starting 1 worker of app\.py$")
        with open(tmp_path / "gate", "w"):  # opens when the worker reads it: until then none can be ready
            assert not server.log.find_all(LISTENING.format(address=""))
        server.wait_until_listening()
    finally:
        server.stop()


def test_the_line_of_json_has_what_the_banner_lists(tmp_path: Path) -> None:
    with RunningServer(None, "--log-format", "json", "--allowed-origins", "null", workers=1, cwd=tmp_path) as server:
        line = json.loads(server.log.wait_for(rf".*{LISTENING.format(address='http')}.*")[0])
    assert line["workers"] == "1"
    assert line["clients"].startswith("all may connect: ")
    assert line["origins"] == "pages of null may connect"


def test_an_application_that_cannot_be_imported_is_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("\nimport nothing_of_that_name\n")
    status, line = failed(RunningServer("app.py", workers=2, cwd=tmp_path))
    assert status == 3
    assert "! the server did not start: worker cannot boot slot=" in line
    reason = f": ModuleNotFoundError: No module named 'nothing_of_that_name' ({tmp_path}/app.py, line 2); "
    assert reason in line


def test_an_address_that_is_taken_is_the_last_line_with_its_place_in_the_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "realtime.toml").write_text(f'workers = 1\nbind = "127.0.0.1:{port}"\n')
        status, line = failed(RunningServer(workers=1, cwd=tmp_path, bind=None))
    assert status == 2
    assert line.startswith(f"realtime: bind: cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith(" (realtime.toml line 2, bind)")


@pytest.mark.parametrize("content", [None, "no key"])
def test_a_public_key_that_is_none_is_found_before_anything_starts(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key.pem").write_text(content)
    (tmp_path / "realtime.toml").write_text('token_public_key = "key.pem"\n')
    server = RunningServer(workers=1, cwd=tmp_path)
    status, line = failed(server)
    assert status == 2
    assert line.startswith(f"realtime: realtime.toml line 1, token_public_key: {tmp_path}/key.pem")
    assert not server.log.find_all("= starting")
