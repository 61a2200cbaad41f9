"""
`sticky` has no import cycle, neither at run time nor under TYPE_CHECKING, and each class name stands for one thing.

Read out of the source, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sticky

FOLDER = Path(sticky.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")}


def imported(module: ast.Module) -> set[str]:
    """Return the modules of `sticky` that a module imports, by their names in the folder."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "sticky":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sticky."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sticky.")}
    return found & set(MODULES)


def sorted_by_imports(graph: dict[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(graph).static_order())


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: imported(module) for name, module in MODULES.items() if name != "__init__"}
    assert len(sorted_by_imports(graph)) == len(graph), "and CycleError names a cycle"


def test_the_check_itself_finds_a_cycle() -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sticky.messages import Decode\n"
    graph = {"channel": imported(ast.parse(hidden)), "messages": imported(ast.parse("from .channel import Kind"))}
    with pytest.raises(CycleError):
        sorted_by_imports(graph)


def test_a_class_name_stands_for_one_class() -> None:
    where = defaultdict(list)
    for name, module in MODULES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(name)
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}
