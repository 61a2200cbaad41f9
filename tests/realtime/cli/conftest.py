"""What the tests of the command line share: an empty place for each, and the command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0  # only a hang reaches it

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty directory, with a runtime directory of its own and without anybody's settings."""
    for name in [name for name in os.environ if name.startswith("REALTIME_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    # Not below tmp_path: that is too deep for a socket, and then servers of other tests would be found.
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp") as runtime:
        monkeypatch.setenv("TMPDIR", runtime)
        yield place


@pytest.fixture
def realtime() -> Run:
    """Run `realtime …` as a process, to its end."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "realtime", *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            check=False,
        )

    return run
