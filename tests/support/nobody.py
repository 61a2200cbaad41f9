"""A Python that user nobody may run: the one of the tests can be in somebody's home."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.server import ROOT

PYTHON_PATH = os.pathsep.join([str(ROOT), *(each for each in sys.path if each.endswith("site-packages"))])


def python_of_nobody() -> str:
    """Return its path, for an environment with `PYTHON_PATH`; else skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    env = {"PYTHONPATH": PYTHON_PATH}
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            asked = subprocess.run([python, "-c", "import realtime.worker"], user="nobody", env=env, check=False)
        except PermissionError:
            continue
        if asked.returncode == 0:
            return python
    pytest.skip("user nobody may run no Python here that has what we need")
