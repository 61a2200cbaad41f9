"""The servers of the SDK tests: four workers of app.py, real processes, listening on ports of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import RunningServer

APP = Path(__file__).with_name("app.py")
SECRET = "a secret of the tests, of 32 bytes or more"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Takes anybody: with a token, or without."""
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
    with RunningServer(APP, "--anonymous", "--drain", "3", workers=4, env=env) as server:
        server.wait_until_full()
        yield server


@pytest.fixture(scope="package")
def cutting_server() -> Iterator[RunningServer]:
    """As `server`, but connections do not move: in a reload every client has to come back."""
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
    options = ("--anonymous", "--drain", "10", "--migrate", "off")
    with RunningServer(APP, *options, workers=4, env=env) as server:
        server.wait_until_full()
        yield server


@pytest.fixture(scope="package")
def strict_server() -> Iterator[RunningServer]:
    """Takes nobody without a token, and pings often."""
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
    with RunningServer(APP, "--no-anonymous", "--ping", "2", "--pong", "1.9", workers=4, env=env) as server:
        server.wait_until_full()
        yield server


@pytest.fixture(scope="package")
def hasty_server() -> Iterator[RunningServer]:
    """Pings more often than the protocol has a word for, which counts whole seconds."""
    with RunningServer(APP, "--anonymous", "--ping", "0.95", "--pong", "0.9", workers=1) as server:
        yield server
