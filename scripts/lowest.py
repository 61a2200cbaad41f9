"""
`python scripts/lowest.py`: the lowest versions that pyproject.toml allows, one requirement a line, for pip.

Takes the dependencies, the extras and the group `test`. `>=X` becomes `==X`; what has no lower bound is left as it is.
Only what pyproject.toml names is pinned: what those packages need themselves, pip chooses.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

PYPROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
LOWER: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+(?:\[[^\]]+\])?)\s*>=\s*(?P<version>[^,;\s]+)[^;]*(?P<marker>;.*)?")


def pinned(requirement: str) -> str:
    """Return a requirement with its lower bound as the only version."""
    found = LOWER.fullmatch(requirement)
    return f"{found['name']}=={found['version']}{found['marker'] or ''}" if found else requirement


def lowest(project: dict[str, Any]) -> list[str]:
    """Return the requirements of a parsed pyproject.toml, pinned."""
    extras = project["project"].get("optional-dependencies", {})
    named = [project["project"]["dependencies"], *extras.values(), project["dependency-groups"]["test"]]
    return sorted({pinned(each) for group in named for each in group if isinstance(each, str)})


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8")))) + "\n")
