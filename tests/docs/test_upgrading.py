"""The page about upgrading from 0.1 has every public name of 0.1 that is gone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import public_surface
from tests.support.release_before import FIRST, unpack
from tests.support.server import ROOT

PAGE = ROOT / "docs" / "upgrading-from-0.1.md"


def surface(path: Path) -> set[str]:
    """Return the public names of the packages in a directory."""
    env = {**os.environ, "PYTHONPATH": str(path)}
    argv = [sys.executable, "-P", str(Path(public_surface.__file__))]
    done = subprocess.run(argv, cwd=path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.git
def test_every_public_name_of_0_1_that_is_gone_is_on_the_page(tmp_path: Path) -> None:
    gone = surface(unpack(tmp_path, FIRST)) - surface(ROOT)
    assert {"Connection.client", "sticky.Child", "UserHandle.disconnect(client=)"} <= gone, "so it finds what is gone"
    old = " ".join(row.split("|")[1] for row in PAGE.read_text().splitlines() if row.startswith("|"))
    written = {name: name.replace("Connection.", "conn.") for name in gone if not name.startswith("Child.")}
    missing = [name for name, text in written.items() if not re.search(rf"`{re.escape(text)}(?!\w)", old)]
    assert not missing, "names of 0.1 that the page does not have"
