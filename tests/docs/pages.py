"""The pages of the documentation, as the tests of this folder read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of these languages."""
    found = re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [str(each) for each in found]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and the site make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-").lower()


def anchors(page: Path) -> set[str]:
    """Return every anchor of a page: its headings, what it names by `<a id>`, and what the site makes of `:::`."""
    text = page.read_text()
    prose = FENCE.sub("", text)
    headings = {slug(each) for each in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)}
    return headings | set(re.findall(r'<a id="([^"]+)"', text)) | set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))


def links(page: Path) -> list[tuple[str, str]]:
    """Return target and anchor of each link into the repository."""
    prose = FENCE.sub("", page.read_text())
    found = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", prose)
    return [(target, anchor) for target, anchor in found if "://" not in target and not target.startswith("mailto:")]


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, and takes no notice of its Python tags."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def configuration() -> dict[str, Any]:
    """Return mkdocs.yml."""
    found = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)
    assert isinstance(found, dict)
    return found


def navigation() -> set[Path]:
    """Return the pages that the site's navigation names."""

    def walk(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for each in entries for page in walk(each)]

    return {DOCS / page for page in walk(configuration()["nav"])}
