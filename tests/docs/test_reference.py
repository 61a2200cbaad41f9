"""
The reference is never stale: its pages are what the code says, and every public name has a docstring that names its
parameters, says what it returns, and what it raises.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from realtime import codes
from scripts.reference import HEADS, INTERNAL, PAGES, REFERENCE, is_documented, public, returned_types
from tests.docs.pages import DOCS, ROOT, name


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_reference_is_what_the_code_says(page: str) -> None:
    assert (REFERENCE / page).read_text() == PAGES[page]().rstrip("\n") + "\n", "python scripts/reference.py"


def documented() -> Iterator[tuple[str, Any]]:
    """Give every public class and function, and the public methods of the classes, by name."""
    for package in HEADS:
        values = {each: value for each, value in public(package).items() if is_documented(value)}
        values |= {each.__name__: each for each in returned_types(package)}
        for label, value in values.items():
            yield f"{package}.{label}", value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    is_public = not method.startswith("_") and method not in INTERNAL.get(label, ())
                    if is_public and (inspect.isfunction(function) or isinstance(function, (property, classmethod))):
                        yield f"{package}.{label}.{method}", function


DOCUMENTED = list(documented())
FUNCTIONS = [(label, value) for label, value in DOCUMENTED if inspect.isfunction(value)]


def docstring(value: Any) -> str:
    return inspect.cleandoc(getattr(value, "__func__", value).__doc__ or "")  # a property has that of its getter


@pytest.mark.parametrize(("label", "value"), DOCUMENTED)
def test_every_public_name_has_a_docstring(label: str, value: Any) -> None:
    assert docstring(value), label
    if inspect.isclass(value) and not issubclass(value, enum.Enum):
        assert not docstring(value).startswith(f"{value.__name__}("), f"{label}: that is what dataclasses makes"


@pytest.mark.parametrize(("label", "function"), FUNCTIONS)
def test_a_docstring_names_every_parameter(label: str, function: Callable[..., Any]) -> None:
    said = docstring(function)
    for parameter in inspect.signature(function).parameters:
        if parameter not in ("self", "cls", "function"):  # what a decorator gets is the handler
            assert re.search(rf"\b{parameter}\b", said, re.IGNORECASE), f"{label}: it does not name `{parameter}`"


@pytest.mark.parametrize(("label", "function"), FUNCTIONS)
def test_each_entry_of_its_arguments_is_one_parameter(label: str, function: Callable[..., Any]) -> None:
    arguments = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring(function), re.MULTILINE)
    entries = re.findall(r"^    (\S[^:\n]*):", arguments[1], re.MULTILINE) if arguments else []
    unknown = [each for each in entries if each.lstrip("*") not in inspect.signature(function).parameters]
    assert not unknown, f"{label}: the site cannot be made of {unknown}"


@pytest.mark.parametrize(("label", "function"), FUNCTIONS)
def test_a_docstring_says_what_is_returned(label: str, function: Callable[..., Any]) -> None:
    returned = inspect.unwrap(function).__annotations__.get("return")
    if returned not in ("None", None, "F", "NoReturn", "Any") and not label.endswith(tuple(DECORATORS)):
        assert re.search(r"\b(Returns?|Say|Count|Make|Sign|Give)\b|\breturns?\b", docstring(function)), label


DECORATORS = ("App.on_connect", "App.on_disconnect", "App.on_message", "App.rpc", "App.room", "App.every")


@pytest.mark.parametrize(("label", "function"), FUNCTIONS)
def test_a_docstring_says_what_is_raised(label: str, function: Callable[..., Any]) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            said = docstring(function)
            assert "Raises:" in said, label
            assert node.exc.func.id in said.partition("Raises:")[2], f"{label}: {node.exc.func.id}"


def rows(heading: str) -> dict[tuple[int, str], str]:
    """Return the third cell of each row in a section of codes.md, by its code and its text."""
    text = (REFERENCE / "codes.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (\d+) \| `([^`]*)` \| (\w+) \|", text, re.MULTILINE)
    return {(int(code), message): third for code, message, third in found}


def yes(value: bool) -> str:
    return "yes" if value else "no"


def test_every_code_has_its_row() -> None:
    made = vars(codes).values()
    errors = {(each.code, each.message): yes(each.temporary) for each in made if isinstance(each, codes.ErrorCode)}
    ends = {(each.code, each.reason): yes(each.reconnects) for each in made if isinstance(each, codes.DisconnectCode)}
    left = {
        (each.code, each.reason): yes(each.code >= 2500) for each in made if isinstance(each, codes.UnsubscribeCode)
    }
    assert rows("Errors") == errors
    assert rows("Disconnects") == ends
    assert rows("Unsubscribes") == left


def test_every_member_of_the_javascript_client_is_on_its_page() -> None:
    types = re.sub(r"/\*\*.*?\*/", "", (ROOT / "realtime/client/realtime.d.ts").read_text(), flags=re.DOTALL)
    page = (REFERENCE / "javascript.md").read_text()
    code_and_headings = re.findall(r"`([^`]*)`|^#+ (.*)$", page, re.MULTILINE)
    named = {word for found in code_and_headings for text in found for word in re.findall(r"\w+", text)}
    members = set(re.findall(r"^  (?:readonly )?(\w+)[?<(:]", types, re.MULTILINE)) - {"constructor"}
    exported = set(re.findall(r"^export (?:interface|class|type) (\w+)", types, re.MULTILINE)) - {"Json", "Publication"}
    internal = {"conn_info", "chan_info", "user"}  # of ClientInfo, which the types describe
    assert (members | exported) - internal <= named, sorted((members | exported) - internal - named)


def test_the_settings_page_and_the_fault_table_have_their_place_in_the_site() -> None:
    for page in (DOCS / "settings.md", DOCS / "faults.md"):
        assert page.exists(), name(page)
