"""`realtime doctor`: what it finds, and when it fails."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.cli import doctor
from realtime.cli.doctor import Grade
from realtime.cli.main import run
from realtime.settings import Settings
from tests.support.redis_cluster import RedisCluster
from tests.support.sentinels import Sentinels


@pytest.fixture
def redis_socket(tmp_path: Path) -> Iterator[Path]:
    """A Redis server of this test's own, on a Unix socket."""
    path = tmp_path / "redis.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert any("ready to accept" in line.lower() for line in process.stdout), "redis-server ended"
        yield path
    finally:
        process.terminate()
        process.communicate()


def test_it_lists_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("Python", "System", "Event loop", "WebSocket frames", "Open files", "Broker"):
        assert word in shown


def test_it_can_answer_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["grade"] for each in found} <= {"good", "fair"}
    assert found[0]["check"] == "Python"


@pytest.mark.redis
def test_a_redis_that_answers_is_good(redis_socket: Path) -> None:
    finding = doctor.broker(Settings(redis=f"unix://{redis_socket}"))
    assert finding.grade is Grade.GOOD
    assert "Redis" in finding.found


@pytest.mark.redis
def test_the_nodes_of_a_cluster_are_counted() -> None:
    with RedisCluster() as cluster:
        finding = doctor.broker(Settings(redis=cluster.url))
        assert finding.grade is Grade.GOOD
        assert finding.found.endswith(" on 3 nodes")
        alone = doctor.broker(Settings(redis=f"redis://127.0.0.1:{cluster.masters[0].port}"))
        assert alone.grade is Grade.BAD
        assert "redis+cluster://" in alone.advice


@pytest.mark.redis
def test_the_master_of_sentinels_is_found() -> None:
    with Sentinels() as sentinels:
        assert doctor.broker(Settings(redis=sentinels.url)).grade is Grade.GOOD
        wrong = doctor.broker(Settings(redis=f"{sentinels.url}-of-somebody-else"))
        assert wrong.grade is Grade.BAD
        assert "knows no rooms-of-somebody-else" in wrong.advice


def test_a_redis_that_does_not_answer_fails_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert run(["doctor", "--json", "--redis", f"redis://:hunter2@127.0.0.1:{port}"]) == 1
    [broker] = [each for each in json.loads(capsys.readouterr().out) if each["check"] == "Broker"]
    assert broker["grade"] == "bad"
    assert "does not answer" in broker["advice"]
    assert "hunter2" not in str(broker)


def test_machines_that_share_a_redis_are_told_to_share_a_secret() -> None:
    assert doctor.secret(Settings(redis="redis://db")).grade is Grade.FAIR
    assert doctor.secret(Settings(redis="redis://db", secret="x" * 16)).grade is Grade.GOOD
    assert doctor.secret(Settings()).grade is Grade.GOOD


def test_a_wrong_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--workers", "0"]) == 2
    assert capsys.readouterr().err == "realtime: --workers: '0' is not a whole number from 1 to 512 or auto\n"
