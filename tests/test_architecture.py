"""
Imports follow the arrows of the design: down the list of layers, never up. `sticky` has never heard of `realtime`.

Read out of the source, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import subprocess
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
        "realtime.cli realtime.testing realtime.testing_http realtime.asgi realtime.socketio",
        "realtime.loadtest",
        "realtime.worker",
        "realtime.parts",
        "realtime.process realtime.migration",
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
        "realtime.timing realtime.threads realtime.tasks realtime.surrogates realtime.logs realtime.log_lines",
        "realtime.json_text realtime.codes realtime.close_codes",
        "realtime.errors",
        "realtime.own",
    )
)

STICKY_LAYERS: tuple[str, ...] = (
    "sticky.cluster",
    "sticky.process",
    "sticky.keeper",
    "sticky.supervision",
    "sticky.settings",
    "sticky.accept",
    "sticky.worker",
    "sticky.moving",
    "sticky.handoff",
    "sticky.keys",
    "sticky.heads",
    "sticky.loop",
    "sticky.lifetime",
    "sticky.errors",
)

# All packages of this repository that are installed or that `make bench` runs; circles may not lead through any.
PACKAGES: tuple[str, ...] = ("sticky", "realtime", "realtime_cluster", "benchmarks")

# Class names that occur twice in a package, until they are renamed. The test fails for a name that need not stand here.
NAMES_TWICE: dict[str, frozenset[str]] = {
    "realtime": frozenset(("Connected", "DisconnectCode", "Handler", "PublishRequest", "StreamPosition")),
    "sticky": frozenset(),
}

# Modules of sticky that no test without a process can show, each with its reason.
SHOWN_BY_PROCESSES: dict[str, str] = {
    "sticky.process.privileges": "a process that has become another user stays it: test_privileges.py forks",
    "sticky.supervision.environment": "it is the operating system, which all other tests replace: test_environment.py",
    "sticky.worker.template": "its one task is to fork: test_template_process.py",
}

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


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another in a circle (Tarjan's strongly connected components)."""
    found: list[list[str]] = []
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in numbers:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], numbers[other])
        if lowest[name] == numbers[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in numbers:
            visit(name)
    return found


def test_no_modules_import_one_another_in_a_circle() -> None:
    paths = {name: path for package in PACKAGES for name, path in modules(package)}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        targets = {target if target in paths else target.rpartition(".")[0] for _, target in imports(name, path)}
        # The face imports nothing before it is asked for a name, and is asked for no more than its version inside.
        graph[name] = (targets & paths.keys()) - {name, FACE}
    assert cycles(graph) == []


def test_the_search_for_circles_itself() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "a"}, "d": {"a"}}) == [["a", "b", "c"]]


def class_names(package: str) -> dict[str, list[str]]:
    """Give the places of each class of a package by its name. Private ones belong to their module and may recur."""
    found: dict[str, list[str]] = {}
    for _, path in modules(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


@pytest.mark.parametrize("package", sorted(NAMES_TWICE))
def test_a_class_name_occurs_once_in_a_package(package: str) -> None:
    twice = {name: places for name, places in class_names(package).items() if len(places) > 1}
    wrong = [f"{name}: {', '.join(places)}" for name, places in twice.items() if name not in NAMES_TWICE[package]]
    assert not wrong, "one word for one thing:\n" + "\n".join(wrong)
    over = NAMES_TWICE[package] - twice.keys()
    assert not over, f"these occur once now: take them out of NAMES_TWICE: {sorted(over)}"


def test_transports_know_no_parameter_and_no_path_of_a_wire_protocol() -> None:
    folders = ("realtime.transport", "realtime.process", "realtime.asgi", "realtime.session", "realtime.rooms")
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for name, path in modules("realtime")
        if name.startswith(folders)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith(("cf_", "/connection/", "/emulation", "/uni_", "centrifuge"))
    ]
    assert not wrong, "they ask the protocol (`read_parameters`, `Endpoints`): " + ", ".join(wrong)


def test_the_folders_of_sticky_import_downwards_only() -> None:
    number = {name: at for at, name in enumerate(STICKY_LAYERS)}
    wrong = []
    for name, path in modules("sticky"):
        here = number.get(".".join(name.split(".")[:2]))
        assert name == "sticky" or here is not None, f"{name} is in no layer: give it one in STICKY_LAYERS"
        for line, target in imports(name, path):
            there = number.get(".".join(target.split(".")[:2]))
            if here is not None and there is not None and there < here:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {target} is above it")
    assert not wrong, "\n".join(wrong)


SYSTEM = "sticky.supervision.environment.OperatingSystem"


def starts_processes(name: str, path: Path) -> bool:
    """Return whether a test file starts a process, or forks: by itself, or with what tests/support has for it."""
    starters = ("subprocess", "multiprocessing", "tests.support.edge", "tests.support.processes", SYSTEM)
    helpers = {target for _, target in imports(name, path) if target.startswith("tests.support.server.")}
    return (
        any(f"{target}.".startswith(tuple(f"{each}." for each in starters)) for _, target in imports(name, path))
        or bool(helpers - {"tests.support.server.ROOT"})
        or any(
            isinstance(node, ast.Attribute) and node.attr == "fork"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    )


def without_unit_test(names: set[str], tests: list[tuple[str, Path]]) -> set[str]:
    """Return which modules no test file imports that starts no process."""
    tested = set()
    for name, path in tests:
        if not starts_processes(name, path):
            tested |= {each for _, target in imports(name, path) for each in (target, target.rpartition(".")[0])}
    return names - tested


def unit_tests() -> list[tuple[str, Path]]:
    return [(name, path) for name, path in modules("tests/sticky") if path.name.startswith("test_")]


def test_each_module_of_sticky_has_a_test_without_a_process() -> None:
    names = {name for name, path in modules("sticky") if path.name != "__init__.py"}
    found = without_unit_test(names, unit_tests())
    missing = found - SHOWN_BY_PROCESSES.keys()
    assert not missing, f"no file of tests/sticky without a process imports {sorted(missing)}"
    over = SHOWN_BY_PROCESSES.keys() - found
    assert not over, f"these have a test without a process now: take them out of SHOWN_BY_PROCESSES: {sorted(over)}"


def test_the_search_for_missing_unit_tests_itself(tmp_path: Path) -> None:
    def test_file(name: str, text: str) -> tuple[str, Path]:
        path = tmp_path / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        return name, path

    tests = [
        test_file("test_a", "from sticky.keys.a import A"),
        test_file("test_b", "import sticky.keys.b"),
        test_file("test_c", "import subprocess\nfrom sticky.keys import c"),
        test_file("test_d", "import os\nfrom sticky.keys.d import D\nos.fork()"),
        test_file("test_e", "from sticky.keys.e import E\nfrom tests.support.server import ROOT"),
        test_file("test_f", "from sticky.keys.f import F\nfrom tests.support.server import ROOT, Server"),
        test_file("test_g", "from sticky.keys import g\nfrom tests.support.edge import Edge"),
    ]
    names = {f"sticky.keys.{letter}" for letter in "abcdefgh"}
    assert without_unit_test(names, tests) == {f"sticky.keys.{letter}" for letter in "cdfgh"}
    assert without_unit_test(names, tests[1:]) == {f"sticky.keys.{letter}" for letter in "acdfgh"}


def test_only_what_joins_the_parts_of_a_process_knows_a_wire_protocol() -> None:
    folder = "realtime.protocol.centrifuge"
    allowed = {"realtime.parts", "realtime.testing", "realtime.testing_http"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {target}"
        for name, path in modules("realtime")
        if name not in allowed and not name.startswith(folder)
        for line, target in imports(name, path)
        if target.startswith(folder)
    ]
    assert not wrong, "what others share with the protocol lies below it: " + ", ".join(wrong)


def test_every_module_of_realtime_has_a_layer() -> None:
    homeless = [name for name, _ in modules("realtime") if name != FACE and layer(name) is None]
    assert not homeless, f"give them a layer in LAYERS: {homeless}"


def test_no_file_is_above_450_lines() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for package in ("sticky", "realtime")
        for _, path in modules(package)
    }
    assert {name: size for name, size in sizes.items() if size > 450} == {}


@pytest.mark.parametrize("name", ["realtime/rooms/hub.py", "realtime/protocol/centrifuge/commands.py"])
def test_a_registry_and_a_table_stay_below_300_lines(name: str) -> None:
    # What is to be decided belongs to the room's machine, and to the session.
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 300


def test_no_part_is_set_after_its_construction() -> None:
    excuses = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("sticky", "realtime")
        for _, path in modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert) and isinstance(node.msg, ast.Constant) and "was set" in str(node.msg.value)
    ]
    assert not excuses, "give the part to the constructor"


def test_sticky_needs_the_standard_library_and_msgspec_only() -> None:
    foreign = {
        f"{name}: {target}"
        for name, path in modules("sticky")
        for _, target in imports(name, path)
        if target.split(".")[0] not in {*sys.stdlib_module_names, "sticky", "msgspec"}
    }
    assert not foreign


@pytest.mark.parametrize(
    ("process", "module", "others"),
    [
        ("the command", "realtime.cli.keep", {"asyncio", "redis", "realtime.session", "sticky.process.primary"}),
        ("the primary", "realtime.cli.launch", {"asyncio", "redis", "realtime.session", "sticky.worker.worker"}),
        ("the local broker", "realtime.broker.local_process", {"redis", "realtime.session", "sticky.process.primary"}),
        ("a worker", "realtime.worker", {"redis", "sticky.process.primary", "sticky.supervision", "sticky.keeper"}),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_process_loads_nothing_that_only_another_process_needs(process: str, module: str, others: set[str]) -> None:
    # Each process of each server pays for it, at every start and reload.
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert module in loaded.split()
    assert not others & set(loaded.split()), f"{process} does not need them"


def test_the_load_client_imports_nothing_of_the_server() -> None:
    own = "realtime.loadtest"
    foreign = {
        f"{name}:{line}: {target}"
        for name, path in modules("realtime")
        if name.startswith(own)
        for line, target in imports(name, path)
        if target.split(".")[0] in ("realtime", "sticky") and not target.startswith(f"{own}.")
    }
    assert not foreign


def test_only_the_settings_read_the_environment() -> None:
    # The worker's end of `sticky` finds its channel by a variable; the cluster hands the whole environment on, unread.
    # So does the keeper, and a primary finds its link to the keeper by a variable.
    allowed = {
        "realtime/settings/sources.py",
        "sticky/worker/boot.py",
        "sticky/worker/template.py",
        "sticky/cluster.py",
    }
    allowed |= {"sticky/keeper/keeper.py", "sticky/keeper/start.py", "sticky/process/keeper_start.py"}
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
        ("sticky.accept.acceptor", "realtime.errors", "sticky never imports realtime"),
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
