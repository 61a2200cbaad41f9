"""Each test of events, namespaces and rooms runs twice: with tasks that begin at once, and in the next turn."""

from __future__ import annotations

import pytest

from realtime.tasks import Lazily
from tests.realtime.protocol.socketio import in_process
from tests.support.eager import EAGERLY


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test that serves clients run in both ways."""
    if "IOWorker" in vars(metafunc.module):
        metafunc.parametrize("begins", ["later", "at once"], indirect=True)


@pytest.fixture(autouse=True)
def begins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose how tasks begin."""
    way = Lazily() if getattr(request, "param", "") == "later" else EAGERLY
    monkeypatch.setattr(in_process, "BEGIN", way)
