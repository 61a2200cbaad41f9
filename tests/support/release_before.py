"""
The release before this one, from the history of this repository: its packages in a directory, for a process of its own.

It is the latest tag before this commit, and without any tag the commit that 0.1 was. Where the history is missing, as
in an archive or a shallow clone, the test is skipped and says so. With `git` in REALTIME_REQUIRE, the commit is fetched
from `origin` into a directory of its own; if that fails too, the test fails. The clone itself is never changed.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import REQUIRED
from tests.support.require import require
from tests.support.server import ROOT

FIRST = "2e890012a8041f93bb70ac82feb3c7883993b08d"  # 0.1, which has no tag
PACKAGES = {"realtime", "sticky", "realtime_cluster", "realtime_cluster.py"}  # of which a release has some
FETCH_S = 120


def git(*arguments: str, directory: Path = ROOT, timeout_s: float = 60) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(directory), *arguments], capture_output=True, timeout=timeout_s, check=False
    )


def revision() -> str:
    """Return the commit or tag of the release before."""
    tag = git("describe", "--tags", "--abbrev=0", "HEAD~1")
    return tag.stdout.decode().strip() if tag.returncode == 0 else FIRST


def unpack(directory: Path, wanted: str | None = None) -> Path:
    """
    Write the packages of a release, the one before unless given, into a directory. Return what PYTHONPATH has to be.

    Skips the test where that is impossible, or fails it if it is required.
    """
    require("git")
    wanted = wanted or revision()
    repository = ROOT if git("cat-file", "-e", f"{wanted}^{{commit}}").returncode == 0 else fetch(wanted, directory)
    names = git("ls-tree", "--name-only", wanted, directory=repository).stdout.decode().split()
    archive = git("archive", wanted, *sorted(PACKAGES.intersection(names)), directory=repository)
    assert archive.returncode == 0, archive.stderr.decode()
    target = directory / "before"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(target, filter="data")
    return target


def fetch(wanted: str, directory: Path) -> Path:
    """Fetch one commit into a repository of its own, where the tests of this machine must not be skipped."""
    problem = f"the release before this one, {wanted}, is not in the history of this clone"
    if "git" not in REQUIRED:
        pytest.skip(f"{problem}: git fetch --unshallow")
    origin = git("remote", "get-url", "origin").stdout.decode().strip()
    repository = directory / "fetched"
    repository.mkdir()
    git("init", "--quiet", directory=repository)
    fetched = git("fetch", "--quiet", "--depth", "1", origin, wanted, directory=repository, timeout_s=FETCH_S)
    if fetched.returncode != 0:
        why = fetched.stderr.decode().strip()
        pytest.fail(f"{problem}, nor at {origin or 'any origin'}: {why}; git fetch --unshallow", pytrace=False)
    return repository
