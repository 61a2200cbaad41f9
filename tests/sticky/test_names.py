"""Each class name in `sticky` stands for one class."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import sticky

FOLDER = Path(sticky.__file__).parent


def test_a_class_name_stands_for_one_class() -> None:
    where = defaultdict(list)
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(path.name)
    assert len(where) > 50
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}
