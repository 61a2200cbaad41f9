"""
Imports follow the arrows of the design: down the list of layers, never up. `sticky` has never heard of `realtime`.

Read out of the source, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From top to bottom. What stands in one line may import one another; each may import everything in lines below.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "realtime.__main__",
        "realtime.cli realtime.testing",
        "realtime.loadtest",
        "realtime.worker",
        "realtime.process",
        "realtime.api",
        "realtime.application",
        "realtime.cluster",
        "realtime.protocol",
        "realtime.session",
        "realtime.rooms",
        "realtime.transport",
        "realtime.broker",
        "realtime.auth",
        "realtime.settings",
        "realtime.timing realtime.threads realtime.tasks realtime.surrogates realtime.logs",
        "realtime.json_text realtime.codes",
        "realtime.errors",
        "realtime.own",
    )
)

# The package's own face: it shows what users import, and nothing inside may take that way round.
FACE = "realtime"


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Give each module of a package with its dotted name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Give what a module imports, with the line. `from x import y` gives x.y: y may be a module."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*outer, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def layer(module: str) -> int | None:
    """Give the number of a module's layer from the top, None when it is in no layer."""
    head = ".".join(module.split(".")[:2])
    return next((number for number, names in enumerate(LAYERS) if head in names), None)


def upward(name: str, target: str) -> str | None:
    """Say why `name` must not import `target`, None when it may."""
    if not (target == FACE or target.startswith(f"{FACE}.")):
        return None
    if name.split(".")[0] == "sticky":
        return "sticky never imports realtime"
    if name == FACE:
        return None
    here, there = layer(name), layer(target)
    assert here is not None, f"{name} is in no layer"
    if there is None:
        # realtime.__version__ and its like: the face, which imports everything.
        return None if target in (FACE, f"{FACE}.__version__") else f"{target} is the package's face, or in no layer"
    return f"{target} is above it" if there < here else None


@pytest.mark.parametrize("package", ["sticky", "realtime"])
def test_imports_follow_the_arrows(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {reason}"
        for name, path in modules(package)
        for line, target in imports(name, path)
        if (reason := upward(name, target))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_worker_and_testing_know_a_wire_protocol() -> None:
    folder = "realtime.protocol.centrifuge"
    allowed = {"realtime.worker", "realtime.testing"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for name, path in modules("realtime")
        if name not in allowed and not name.startswith(folder)
        for line, target in imports(name, path)
        if target.startswith(folder)
    ]
    assert not wrong, "what others share with the protocol lies below it: " + ", ".join(wrong)


# Folders in which no module imports itself by way of others, also inside a function or under TYPE_CHECKING.
NO_CYCLES = ("realtime.session", "realtime.protocol", "realtime.cluster", "realtime.api", "realtime.process")


def test_no_module_imports_itself_by_way_of_others() -> None:
    paths = dict(modules("realtime"))
    below = {
        name: {
            module
            for _, target in imports(name, path)
            for module in (target, target.rpartition(".")[0])
            if module in paths and module not in (name, FACE)
        }
        for name, path in paths.items()
    }
    found = []
    for name in below:
        seen, ahead = set[str](), [name]
        while ahead:
            new = below[ahead.pop()] - seen
            seen |= new
            ahead += new
        if name in seen and name.startswith(NO_CYCLES):
            found.append(name)
    assert not found, f"these are in a cycle: {found}"


def test_every_module_of_realtime_has_a_layer() -> None:
    homeless = [name for name, _ in modules("realtime") if name != FACE and layer(name) is None]
    assert not homeless, f"give them a layer in LAYERS: {homeless}"


def test_sticky_needs_the_standard_library_and_msgspec_only() -> None:
    foreign = {
        f"{name}: {target}"
        for name, path in modules("sticky")
        for _, target in imports(name, path)
        if target.split(".")[0] not in {*sys.stdlib_module_names, "sticky", "msgspec"}
    }
    assert not foreign


def test_only_the_settings_read_the_environment() -> None:
    # The worker's end of `sticky` finds its channel by a variable; the cluster hands the whole environment on, unread.
    allowed = {"realtime/settings/sources.py", "sticky/worker.py", "sticky/cluster.py"}
    readers = {
        str(path.relative_to(ROOT))
        for package in ("sticky", "realtime")
        for _, path in modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb")
    }
    assert readers <= allowed, f"only settings read the environment: {sorted(readers - allowed)}"


def test_nothing_is_ever_unpickled() -> None:
    takers = [
        f"{name}:{line}: {target}"
        for package in ("sticky", "realtime")
        for name, path in modules(package)
        for line, target in imports(name, path)
        if target.split(".")[0] in ("pickle", "shelve", "marshal", "dill")
    ]
    assert not takers


@pytest.mark.parametrize(
    ("name", "target", "verdict"),
    [
        ("sticky.accept", "realtime.errors", "sticky never imports realtime"),
        ("realtime.rooms.hub", "realtime.broker.base.Room", None),
        ("realtime.broker.redis", "realtime.rooms.hub.Hub", "realtime.rooms.hub.Hub is above it"),
        ("realtime.cli.serve", "realtime.__version__", None),
        ("realtime.rooms.hub", "realtime.App", "realtime.App is the package's face, or in no layer"),
        ("realtime.settings.fields", "realtime.errors.SettingsError", None),
        ("realtime.errors", "realtime.settings.Settings", "realtime.settings.Settings is above it"),
    ],
)
def test_the_rule_itself(name: str, target: str, verdict: str | None) -> None:
    assert upward(name, target) == verdict
