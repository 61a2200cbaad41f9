"""
Where a program is that a test starts. Whether the test may be skipped without it is decided by its mark
(`pytest.mark.browser`, …) and tests/conftest.py; here the same rule is kept for what runs before a test does.
"""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import PROGRAMS, REQUIRED, lacks


def require(what: str) -> str:
    """Return the path of what a mark names, such as `redis`; skip the test without it, or fail if required."""
    for program in PROGRAMS[what]:
        if path := shutil.which(program):
            return path
    sentence = lacks(what)
    if what in REQUIRED:
        pytest.fail(f"{sentence}; REALTIME_REQUIRE does not allow to skip it", pytrace=False)
    pytest.skip(sentence)
