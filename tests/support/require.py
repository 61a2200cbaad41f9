"""
What a test needs beside Python: a program on PATH.

Where it is missing the test is skipped, with one line that says so; in `.ci/run`, which sets `REALTIME_REQUIRE`, it
fails instead, so that nothing goes unproven unseen.
"""

from __future__ import annotations

import os
import shutil

import pytest

PROGRAMS = {
    "redis": ("redis-server",),
    "browser": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "node": ("node",),
    "npm": ("npm",),
}


def require(what: str) -> str:
    """
    Return the path of a program, e.g. `require("node")`. Called at a module's top it stands for all its tests.

    `REALTIME_REQUIRE` holds such names, separated by commas, or `all`: a missing one of them is a failure.
    """
    for program in PROGRAMS[what]:
        if path := shutil.which(program):
            return path
    missing = f"{what}: none of {', '.join(PROGRAMS[what])} is on PATH"
    required = {name.strip() for name in os.environ.get("REALTIME_REQUIRE", "").split(",")}
    if required & {what, "all"}:
        pytest.fail(f"REALTIME_REQUIRE names {missing}", pytrace=False)
    pytest.skip(f"SKIPPED FOR WANT OF {missing}", allow_module_level=True)
