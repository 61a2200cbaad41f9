"""Every command reads `realtime.toml` in its directory: address and keys of the server, and what is wrong in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from realtime.cli.main import COMMANDS, run
from realtime.cli.remote import server_address
from realtime.settings import Settings
from tests.support.processes import free_port
from tests.support.server import RunningServer

from .conftest import Run

KEY, SECRET = "a key of sixteen bytes", "a secret of thirty-two bytes, or more"

ARGUMENTS = {
    "publish": ["chat:a", "1"],
    "emit": ["lobby", "said", "1"],
    "bench": ["--seconds", "0.1"],
    "scale": ["2"],
    "drain": ["0"],
    "inspect": ["0"],
}
ARGUMENTS |= {name: ["x"] for name in ("tail", "presence", "where", "history", "disconnect")}


@pytest.fixture
def server(alone: Path) -> Iterator[RunningServer]:
    """A server all of whose settings are in its file."""
    lines = [
        f'bind = "127.0.0.1:{free_port()}"',
        f'api_key = "{KEY}"',
        f'token_hmac_secret = "{SECRET}"',
        f'control = "{alone}/control.sock"',
    ]
    (alone / "realtime.toml").write_text("\n".join(lines))
    with RunningServer(workers=1, cwd=alone, bind=None) as running:
        yield running


def test_address_keys_and_control_socket_are_found_in_the_file(server: RunningServer, realtime: Run) -> None:
    assert json.loads(realtime("status", "--json").stdout)["pid"] == server.pid
    assert realtime("publish", "chat:a", '"hello"').stdout.startswith("published")
    assert json.loads(realtime("rooms", "--json").stdout) == {}
    loaded = realtime("bench", "--secret-from-settings", "--clients", "2", "--seconds", "0.5", "--json")
    assert json.loads(loaded.stdout)["clean"], loaded.stderr
    assert realtime("reload").returncode == 0


def test_a_wrong_key_and_a_wrong_address_are_named_with_their_lines(
    server: RunningServer, realtime: Run, alone: Path
) -> None:
    text = (alone / "realtime.toml").read_text()
    (alone / "realtime.toml").write_text(text.replace(KEY, KEY[::-1]))
    assert realtime("rooms").stderr == (
        f"realtime: {server.url} does not take this key (realtime.toml line 2, api_key)\n"
    )
    (alone / "other.toml").write_text(f'[realtime]\napi_key = "{KEY}"\nurl = "http://127.0.0.1:{free_port()}"\n')
    said = realtime("rooms", "--config", "other.toml").stderr
    assert "(other.toml line 3, url) does not answer: " in said
    assert json.loads(realtime("rooms", "--config", "other.toml", "--url", server.url, "--json").stdout) == {}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_a_wrong_value_is_named_with_file_line_and_key(
    command: str, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (alone / "conf").mkdir()
    (alone / "conf" / "realtime.toml").write_text('# ours\n\n[realtime]\nworkers = "many"\n')
    for options in (["--config", "conf/realtime.toml"], []):
        if not options:
            (alone / "conf" / "realtime.toml").rename(alone / "realtime.toml")
        assert run([command, *ARGUMENTS.get(command, []), *options]) == 2
        file = options[-1] if options else "realtime.toml"
        said = capsys.readouterr().err
        assert said.startswith(f"realtime: {file} line 4, workers: 'many' is not a whole number from 1 to 512"), said


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(), "http://127.0.0.1:8000"),
        (Settings(bind=(":80",)), "http://127.0.0.1:80"),
        (Settings(bind=("unix:/run/x", "0.0.0.0:81")), "http://127.0.0.1:81"),
        (Settings(bind=("[::]:82",)), "http://[::1]:82"),
        (Settings(bind=("[::1]:83",), certfile="a.pem"), "https://[::1]:83"),
        (Settings(url="https://chat.example.org:8443/rt"), "https://chat.example.org:8443/rt"),
    ],
)
def test_the_address_is_url_else_the_first_of_bind(settings: Settings, url: str) -> None:
    assert server_address(settings).url == url


def test_without_an_address_to_connect_to_url_is_asked_for() -> None:
    with pytest.raises(click.UsageError, match=r"can connect to: unix:/run/x, 127\.0\.0\.1:0 .*; give --url"):
        server_address(Settings(bind=("unix:/run/x", "127.0.0.1:0")))


@pytest.mark.parametrize(("old", "new"), [("--client", "--connection"), ("--session", "--stream")])
def test_an_option_that_was_renamed_is_refused_with_its_new_name(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["disconnect", "alice", old, "x"]) == 2
    assert capsys.readouterr().err == (
        f"realtime: No such option: {old}; did you mean {new}? (see `realtime disconnect --help`)\n"
    )
