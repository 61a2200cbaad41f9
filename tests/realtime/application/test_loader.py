"""A file that is served is one module: for its neighbours, and for the processes that compute."""

from __future__ import annotations

import importlib
import sys
import uuid
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from realtime.application.loader import load_target
from realtime.errors import TargetError
from tests.support.aio import run_async_for


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module's name that nobody has. What is put on the path goes with the test."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    return f"served_{uuid.uuid4().hex}"


def test_its_neighbours_import_the_application_that_is_served(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("from realtime import App\napp = App()\n")
    (tmp_path / f"{name}_views.py").write_text(f"from {name} import app\n")
    app = load_target(f"{name}.py", tmp_path)
    assert importlib.import_module(f"{name}_views").app is app


def test_a_file_with_the_name_of_a_standard_module_hides_it_from_nobody(tmp_path: Path, name: str) -> None:
    (tmp_path / "quopri.py").write_text("from realtime import App\napp = App()\n")
    sys.modules.pop("quopri", None)
    load_target("quopri.py", tmp_path)
    assert "quopri" not in sys.modules


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("app = 1 +\n")
    with pytest.raises(TargetError, match="line 1"):
        load_target(f"{name}.py", tmp_path)
    assert name not in sys.modules


@run_async_for(60)
async def test_its_functions_compute_in_other_processes_also_after_one_has_died(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(
        "import os\nfrom realtime import App\napp = App()\n"
        "def double(number):\n    return 2 * number\n"
        "def die():\n    os._exit(1)\n"
    )
    app = load_target(f"{name}.py", tmp_path)
    served = sys.modules[name]
    try:
        assert await app.run_cpu(served.double, 21) == 42
        with pytest.raises(BrokenProcessPool):
            await app.run_cpu(served.die)
        assert await app.run_cpu(served.double, 4) == 8
    finally:
        await app.shutdown()
