"""
What README.md says is run: its tour, its commands, its links. The pages of docs/ have their tests in tests/docs/.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections import Counter
from pathlib import Path

import pytest

import realtime
from realtime.cli.bench import bench
from realtime.cli.main import COMMANDS
from realtime.cli.serve import serve
from tests.support.chromium import Chromium
from tests.support.server import ROOT, RunningServer

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docker" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tour_is_the_application_in_the_examples() -> None:
    [tour] = blocks(README, "python")
    assert tour == (ROOT / "examples" / "tour" / "app.py").read_text()
    assert sum(bool(line.strip()) for line in tour.splitlines()) <= 15


def test_every_serve_and_bench_line_in_the_pages_is_understood() -> None:
    seen: Counter[str] = Counter()
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["realtime"]:
                    assert words[1] in COMMANDS
                    if words[1] in ("serve", "bench"):
                        {"serve": serve, "bench": bench}[words[1]].make_context(words[1], words[2:])
                        seen[words[1]] += 1
    assert seen["serve"] >= 3
    assert seen["bench"] >= 3


def test_the_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(README, "sh"):
        assert set(re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)) <= targets


def test_the_source_layout_names_every_file() -> None:
    text = README.read_text().partition("## The source, in reading order")[2]
    named = set(re.findall(r"`([\w./]+)`", text))
    for package in ("sticky", "realtime"):
        for path in sorted((ROOT / package).iterdir()):
            if path.name.startswith("__") or path.name == "py.typed":
                continue
            found = f"{path.name}/" if path.is_dir() else path.name
            assert any(each == found or each.startswith(found) for each in named), f"{package}/{found} is not named"


def test_every_signal_in_the_table_is_one_that_the_primary_knows() -> None:
    page = ROOT / "docs" / "signals.md"
    table = page.read_text().partition("## Signals")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`([A-Z0-9]+)`", cell)}
    assert named == {"TERM", "INT", "QUIT", "HUP", "TTIN", "TTOU"}
    assert all(hasattr(signal, f"SIG{name}") for name in named)


@pytest.mark.browser
def test_the_tour_as_a_browser_sees_it() -> None:
    [line] = [
        line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("realtime serve")
    ]
    words = shlex.split(line)
    target, options = words[2], words[3:]
    assert (target, options) == ("app.py", ["--workers", "4", "--sticky", "session"])
    [script] = blocks(README, "js")
    with (
        RunningServer(target, *options[2:], workers=4, cwd=ROOT / "examples" / "tour") as server,
        Chromium() as browser,
    ):
        page = browser.page(server.url)
        page.evaluate("window.said = []; console.log = (...words) => window.said.push(words.join(' '))")
        page.evaluate(f"(async () => {{ {script} }})()")
        page.wait_for("window.said.some((line) => /^guest-[0-9a-f]{6}, by worker [0-3]: hello$/.test(line))")


def test_what_readme_installs_without_a_clone_is_the_wheel_of_this_version() -> None:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("pip install")]
    assert f"pip install realtime_cluster-{realtime.__version__}-py3-none-any.whl" in lines
    assert any(line.startswith("pip install git+") for line in lines)
