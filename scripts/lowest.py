"""
`python scripts/lowest.py`: what `make test-lowest` installs, one requirement a line, for pip.

That is every package that pyproject.toml names for the product, extras included, in the lowest version that it allows:
`>=X` becomes `==X`. What those packages need themselves, pip chooses. The tools of the tests come as they are; what
examples/ is made with is left out, for it needs later versions of the same packages.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

PYPROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"
NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
LOWER: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+(\[[^]]+\])?)\s*>=\s*(?P<version>[^,;\s]+)[^;]*(?P<marker>;.*)?")
TOOLS: Final = (
    *(
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "fakeredis",
        "PyYAML",
        "compose-spec",
        "kosoku",
        "kubernetes-validate",
        "aiohttp",
        "cent",
        "centrifuge-python",
        "python-socketio",
    ),
    "httpx",
)


def pinned(requirement: str) -> str:
    """
    Return a requirement with its lower bound as the only version.

    Raises:
        ValueError: it has none, and so would be tested in its latest version.
    """
    found = LOWER.fullmatch(requirement)
    if found is None:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound")
    return f"{found['name']}=={found['version']}{found['marker'] or ''}"


def lowest(project: dict[str, Any]) -> list[str]:
    """Return the requirements that a parsed pyproject.toml has for the product, pinned, and the tools'."""
    extras = project["project"].get("optional-dependencies", {}).values()
    pins = [pinned(each) for group in (project["project"]["dependencies"], *extras) for each in group]
    tools = [each for each in project["dependency-groups"]["test"] if NAME.match(each)[0] in TOOLS]  # type: ignore[index]
    return [*sorted(pins), *tools]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8")))) + "\n")
