"""
A default stands once, in `Settings`. The parts take it from there.

`sticky` cannot: it knows nothing of `realtime`, and is used without it. Its own defaults have to be the same.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from realtime.settings import Settings, options
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.affinity import AffinitySettings
from sticky.lifetime import Lifetime
from sticky.settings import ClusterSettings

ROOT = Path(__file__).resolve().parents[2]
NAMES = {option.name for option in options()}
OFF = (None, False, "", 0, ())  # what a part does without being told to: no setting's default


def written_defaults(tree: ast.AST) -> Iterator[tuple[int, str, ast.expr]]:
    """Give each default of a field of a class or of a parameter that is called as a setting."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
                    yield each.lineno, each.target.id, each.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs = [
                *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            for argument, default in pairs:
                if default is not None:
                    yield argument.lineno, argument.arg, default


def value_of(expression: ast.expr) -> object:
    """Compute a default that is written as a number, a text, or a calculation with numbers; else None."""
    if isinstance(expression, ast.BinOp):
        left, right = value_of(expression.left), value_of(expression.right)
        if isinstance(left, int) and isinstance(right, int):
            return left**right if isinstance(expression.op, ast.Pow) else left * right
        return None
    try:
        return ast.literal_eval(expression)
    except ValueError:
        return None


def test_no_part_of_realtime_writes_a_default_of_a_setting_again() -> None:
    again = [
        f"{path.relative_to(ROOT)}:{line}: {name} = {ast.unparse(default)}: take Settings.{name}"
        for path in sorted((ROOT / "realtime").rglob("*.py"))
        if "settings" not in path.relative_to(ROOT).parts
        for line, name, default in written_defaults(ast.parse(path.read_text(encoding="utf-8")))
        if name in NAMES
        and value_of(default) not in OFF
        and value_of(default) == getattr(Settings, name)
        and name != "color"  # of the log, which is set up before settings are known, and by tests
    ]
    assert not again, "\n".join(again)


def test_the_defaults_of_sticky_are_those_of_the_settings() -> None:
    # workers: a library starts one; a server one for each processor. The rest is alike, or None there.
    own = {"workers", "sticky", "trusted"}
    for part in (ClusterSettings(), AffinitySettings()):
        for each in dataclasses.fields(part):
            if each.name in NAMES - own:
                assert getattr(part, each.name) == getattr(Settings, each.name), each.name
    assert ClusterSettings().binds == Settings.bind
    assert HeadLimits() == HeadLimits(Settings.head_bytes, Settings.head_headers)
    assert Lifetime().jitter == Settings.max_jitter


def test_the_rule_finds_a_number_that_is_written_again() -> None:
    source = (
        "class Limits:\n    ping_s: float = 25.0\n    size: int = 3\n\ndef f(*, head_bytes: int = 16 * 1024): ...\n"
    )
    found = [(name, value_of(default)) for _, name, default in written_defaults(ast.parse(source))]
    assert found == [("ping_s", 25.0), ("size", 3), ("head_bytes", 16384)]
