"""
Names that clash: what lies in the working directory, and another distribution with a package of our name.

Real processes. The environment in which two distributions are installed is a folder on PYTHONPATH: a copy of ours, and
over it what the other one would write. Nothing of the other one is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import ROOT, RunningServer

APP = """
from realtime import App
import neighbour
app = App()
app.room("open:{name}", open=True)

@app.rpc("where")
async def where(conn, data):
    import json, queue, statistics, xmlrpc.client  # also what is imported late
    compute = await app.run_cpu(neighbour.double, 21)
    return {"modules": [each.__file__ for each in (json, queue, statistics)], "double": compute}
"""
TRAPS = (
    "json",
    "queue",
    "statistics",
    "types",
    "random",
    "selectors",
    "email",
    "socket",
    "asyncio",
    "struct",
    "tomllib",
)


@pytest.mark.parametrize("folder", [True, False], ids=["beside a folder realtime", "without"])
@run_async
async def test_names_in_the_working_directory_do_no_harm(tmp_path: Path, folder: bool) -> None:
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name}.py of the working directory was imported')\n")
    for name in ("realtime", "sticky") if folder else ():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the folder was imported')\n")
    (tmp_path / "neighbour.py").write_text("def double(number):\n    return 2 * number\n")
    (tmp_path / "app.py").write_text(APP)
    server = RunningServer("app.py", workers=1, cwd=tmp_path)
    server.argv[1:1] = ["-P"]  # as the installed command is started
    with server:
        server.wait_until_full()
        client = await ProtocolClient.join(server.websocket_url)
        found = (await client.ask("rpc", method="where", data=None))["data"]
        assert found["double"] == 42
        assert [each for each in found["modules"] if each.startswith(str(tmp_path))] == []
        await client.close()
        assert server.log.find_all("RuntimeError") == []


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A place for packages with ours in it."""
    place = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("realtime", "realtime_cluster", "sticky"):
        shutil.copytree(ROOT / name, place / name, ignore=ignore)
    return place


def install_the_other(site: Path) -> None:
    (site / "realtime" / "__init__.py").write_text("from realtime.version import __version__\n")
    (site / "realtime" / "version.py").write_text("__version__ = '2.34.1'\n")
    note_the_other(site)


def note_the_other(site: Path) -> None:
    notes = site / "realtime-2.34.1.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: realtime\nVersion: 2.34.1\n")


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1", "COLUMNS": "400"}
    argv = [sys.executable, "-P", *arguments]
    return subprocess.run(argv, cwd=site.parent, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["doctor", "serve", "--version"])
def test_the_command_says_that_another_distribution_has_overwritten_ours(site: Path, command: str) -> None:
    install_the_other(site)
    done = python(site, "-m", "realtime_cluster", command)
    assert done.returncode == 1
    assert "'realtime' 2.34.1" in done.stderr
    assert "pip uninstall realtime; pip install --force-reinstall --no-deps realtime-cluster" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "what", ["realtime.testing", "realtime.application.app", "realtime.worker", "realtime.__main__"]
)
def test_importing_says_it_too(site: Path, what: str) -> None:
    install_the_other(site)
    done = python(site, "-c", f"import {what}")
    assert done.returncode == 1
    assert "ImportError: the package 'realtime'" in done.stderr
    assert "pip uninstall realtime" in done.stderr


def test_removing_the_other_one_removes_files_of_ours_and_the_command_says_so(site: Path) -> None:
    (site / "realtime" / "__init__.py").unlink()
    done = python(site, "-S", "-m", "realtime_cluster", "doctor")  # and no other place is looked through
    assert done.returncode == 1
    assert "has lost its __init__.py" in done.stderr
    assert "pip install --force-reinstall --no-deps realtime-cluster" in done.stderr


def test_doctor_warns_while_both_are_installed_and_ours_is_whole(site: Path) -> None:
    note_the_other(site)
    done = python(site, "-m", "realtime_cluster", "doctor")
    [line] = [each for each in done.stdout.splitlines() if each.startswith("Package")]
    assert "'realtime' 2.34.1 beside it" in line
    assert "pip uninstall realtime" in line
    assert python(site, "-c", "from realtime import App; App()").returncode == 0


def test_doctor_finds_our_package_alone(site: Path) -> None:
    done = python(site, "-m", "realtime_cluster", "doctor")
    [line] = [each for each in done.stdout.splitlines() if each.startswith("Package")]
    assert "good" in line
