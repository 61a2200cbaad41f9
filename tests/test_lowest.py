"""`make test-lowest` installs the lowest versions of what the product needs that pyproject.toml allows."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "lowest.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("requirement", "pin"),
    [
        ("click>=8.2", "click==8.2"),
        ("uvicorn>=0.52.1,<1", "uvicorn==0.52.1"),
        ("fakeredis[lua]>=2.26", "fakeredis[lua]==2.26"),
        ("uvloop>=0.21; sys_platform == 'linux'", "uvloop==0.21; sys_platform == 'linux'"),
    ],
)
def test_a_lower_bound_is_the_only_version(requirement: str, pin: str) -> None:
    assert SCRIPT["pinned"](requirement).replace("; ", ";") == pin.replace("; ", ";")


@pytest.mark.parametrize("requirement", ["click", "click<9", "click~=8.2"])
def test_what_has_none_is_told(requirement: str) -> None:
    with pytest.raises(ValueError, match="has no lower bound"):
        SCRIPT["pinned"](requirement)


def test_every_package_of_the_product_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = [re.split("[<>=]", each)[0] for group in (PROJECT["project"]["dependencies"], *extras) for each in group]
    found = SCRIPT["lowest"](PROJECT)
    assert {each.partition("==")[0] for each in found if "==" in each} == set(named)
    assert any(each.startswith("pytest>=") for each in found)
