"""
Make the pages of docs/reference/ that follow from the code: `python scripts/reference.py`.

The Python pages list each name of `__all__` with the first sentence of its docstring. Where a page says `:::`, the site
adds the whole docstring (mkdocstrings). The pages of the command line and of the HTTP API are complete as they are.
`--check` changes nothing, and ends with status 1 where a page is not what it should be. A test does the same.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import click

ROOT: Final = Path(__file__).resolve().parents[1]
REFERENCE: Final = ROOT / "docs" / "reference"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

MADE: Final = "<!-- Made by `python scripts/reference.py`. Change that file, or the docstrings, instead. -->"
INTERNAL: Final = {
    "App": (
        "bind", "hub", "hears_ends", "event_loop", "startup", "shutdown", "room_options", "connect", "disconnect",
        "subscribe", "publish", "accepts", "empty", "lost", "leave", "rpc_call", "message",
    ),
    "Connection": ("describe", "snapshot", "restore", "event_loop"),
    "AsyncServer": ("as_application",),
    "ASGIApp": ("as_application",),
    "AsyncNamespace": ("takes",),
    "RoomHandle": ("event_loop",),
    "UserHandle": ("event_loop",),
    "AffinitySettings": ("to_builtins", "from_builtins"),
    "Lifetime": ("draw", "ended"),
    "Mark": ("begin", "end", "rename"),
}  # fmt: skip
"""Public methods, by class, that the server calls and an application does not: the reference leaves them out."""

WITH_INHERITED: Final = ("AsyncServer",)
"""Classes that are written in two halves, of which an application sees one."""

HEADS: Final = {
    "realtime": (
        "python.md",
        "Python: realtime",
        "Everything that an application imports from `realtime`. Methods of `App`, `Connection`, rooms and users work\n"
        "[in any thread](../guide/messages.md#coroutines-threads-and-processes).",
    ),
    "realtime.testing": (
        "testing.md",
        "Python: realtime.testing",
        "An application inside a test. The [guide](../guide/testing.md) shows how to use it.",
    ),
    "realtime.socketio": (
        "socketio.md",
        "Python: realtime.socketio",
        "`AsyncServer` and what belongs to it, as python-socketio has it. What differs is in\n"
        "[From Socket.IO](../from-socketio.md#an-application-of-python-socketio).",
    ),
    "realtime.socketio.exceptions": (
        "socketio-exceptions.md",
        "Python: realtime.socketio.exceptions",
        "The errors of [realtime.socketio](socketio.md), by the names that python-socketio has for them.",
    ),
    "sticky": (
        "sticky.md",
        "Python: sticky",
        "`sticky` is the primary and the handing over of connections, without rooms. It supervises any command's\n"
        "workers. It needs the standard library and msgspec alone.\n"
        "[examples/echo](../../examples/echo/server.py) is a server in 30 lines.",
    ),
}


def public(package: str) -> dict[str, Any]:
    """Return what a package offers, by name."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


def first_sentence(text: str | None) -> str:
    """Return the first sentence of a docstring, in one line and without its full stop."""
    paragraph = " ".join((inspect.cleandoc(text or "")).partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph + " ", maxsplit=1)[0].rstrip(". ")


def is_documented(value: Any) -> bool:
    """Say whether a public name has a docstring of its own: classes and functions have, constants have not."""
    return inspect.isclass(value) or inspect.isfunction(value)


def python_page(package: str) -> str:
    """Return the page of a package: a table of its names, then each name for mkdocstrings."""
    _, title, introduction = HEADS[package]
    rows, blocks = [], []
    for name, value in public(package).items():
        if not is_documented(value):
            kind = "The version, as text" if name == "__version__" else f"`{getattr(value, '__name__', name)}`, a type"
            rows.append(f"| `{name}` | {kind} |")
            continue
        rows.append(f"| [`{name}`](#{package}.{name}) | {first_sentence(value.__doc__).replace('|', chr(92) + '|')} |")
        hidden = "|".join(INTERNAL.get(name, ()))
        options = f'\n    options:\n      filters: ["!^_", "!^({hidden})$"]' if hidden else ""
        if name in WITH_INHERITED:
            options += "\n      inherited_members: true"
        blocks.append(f"::: {package}.{name}{options}\n")
    table = "\n".join(["| Name | What it is |", "| --- | --- |", *rows])
    returned = returned_types(package)
    if returned:
        blocks.append("## What methods return and handlers get\n")
        blocks.append("These types are not imported by applications: methods return them, and handlers get them.\n")
        for each in returned:
            hidden = "|".join(INTERNAL.get(each.__name__, ()))
            filters = f', filters: ["!^_", "!^({hidden})$"]' if hidden else ""
            blocks.append(f"::: {each.__module__}.{each.__qualname__}\n    options: {{heading_level: 3{filters}}}\n")
    return "\n".join([f"# {title}\n", MADE, "", introduction, "", table, "", *blocks])


def returned_types(package: str) -> list[type]:
    """Return the classes of ours that a package's public names lead to, and that `__all__` does not have."""
    offered = public(package)
    found: dict[str, type] = {}
    waiting = [value for value in offered.values() if inspect.isclass(value)]
    while waiting:
        for each in _named_by(waiting.pop(), offered):
            ours = each.__module__.partition(".")[0] in ("realtime", "sticky")
            if ours and each not in offered.values() and each.__name__ not in found:
                found[each.__name__] = each
                waiting.append(each)
    return [found[name] for name in sorted(found)]


def _named_by(owner: type, names: dict[str, Any]) -> Iterator[type]:
    """Give the classes that the methods of a class return, and those of its fields where it is a plain structure."""
    for method, value in vars(owner).items():
        hidden = method.startswith("_") or (method in INTERNAL.get(owner.__name__, ()) and method != "describe")
        if inspect.isfunction(value) and not hidden:
            function = inspect.unwrap(value)
            hints = typing.get_type_hints(function, {**function.__globals__, **names})
            yield from _classes(hints.get("return"))
    if dataclasses.is_dataclass(owner) or hasattr(owner, "__struct_fields__"):
        for hint in typing.get_type_hints(owner).values():
            yield from _classes(hint)


def _classes(hint: Any) -> Iterator[type]:
    """Walk through an annotation, and give the classes in it."""
    if inspect.isclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def command_page() -> str:
    """Return the page of the command line: each command with its help, arguments and options."""
    from realtime.cli.main import command

    context = click.Context(command, info_name="realtime", **command.context_settings)
    lines = [
        "# Command line\n",
        MADE,
        "",
        "`realtime COMMAND --help` shows the same. Every option of `serve` is a [setting](../settings.md), with a",
        "variable and a key in `realtime.toml`.",
        "",
    ]
    names = command.list_commands(context)
    for name in names:
        found = cast(click.Command, command.get_command(context, name))
        lines += _command(click.Context(found, info_name=name, parent=context), found)
    return "\n".join(lines)


def _command(context: click.Context, command: click.Command) -> Iterator[str]:
    yield f"## realtime {context.info_name}\n"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        verbatim = paragraph.startswith("\b\n")
        heading, _, rest = paragraph.removeprefix("\b\n").partition("\n")
        if verbatim and rest:
            body = "\n".join(line.removeprefix("  ") for line in rest.splitlines())
            yield f"{heading}\n\n```text\n{body}\n```\n"
        else:
            yield f"{_escaped(paragraph.removeprefix(chr(8)).strip())}\n"
    rows = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None
    ]
    yield "| Option | |\n| --- | --- |"
    for names, text in rows:
        if names.endswith("--help"):  # click makes this option once for each command, with the names of that moment
            names = ", ".join(context.help_option_names)
        # In a table, GitHub ends a cell at `|`, also inside of code; the site would show the backslash of `\\|`.
        shown = f"<code>{names.replace('|', '&#124;')}</code>" if "|" in names else f"`{names}`"
        yield f"| {shown} | {_escaped(' '.join(text.split()))} |"
    yield ""


def _escaped(text: str) -> str:
    """Return text in which neither `|` nor `<` nor `*` has a meaning in Markdown, outside of code."""
    pieces = re.split(r"(`[^`]*`)", text)
    made = [piece if piece.startswith("`") else re.sub(r"([|<*\[\]])", r"\\\1", piece) for piece in pieces]
    return "".join(made)


def api_page() -> str:
    """Return the page of the HTTP API: each method with the fields of its request and of its result."""
    from realtime.api.methods import Methods
    from realtime.api.openapi import describe

    description = describe(Methods(cast(Any, None), cast(Any, None), cast(Any, None)), "/api")
    schemas = description["components"]["schemas"]
    lines = [
        "# HTTP API\n",
        MADE,
        "",
        "`POST /api/METHOD` with the key in `X-API-Key`, and a JSON object with these fields. The answer is",
        '`{"result": …}` or `{"error": {"code", "message"}}`. The [guide](../guide/http-api.md) says how to use it.',
        "`GET /api/openapi.json` has the same as OpenAPI 3.1. Times are Unix time in seconds.",
        "",
    ]
    requests = set()
    for path, operation in description["paths"].items():
        body = operation["post"]["requestBody"]["content"]["application/json"]["schema"]
        answer = operation["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        requests.add(_name(body))
        lines += _method(path, _name(body), _name(answer["properties"]["result"]), schemas)
    lines.append("## Shapes\n")
    for name, schema in schemas.items():
        if name not in requests and schema.get("properties"):
            lines += [f"### {name}\n", *_about(schema), *_fields(schema), ""]
    return "\n".join(lines)


def _method(path: str, request: str, result: str, schemas: dict[str, Any]) -> Iterator[str]:
    yield f"## {path.rsplit('/', 1)[1]}\n"
    yield f"`POST {path}`\n"
    yield from _about(schemas[request])
    if schemas[request].get("properties"):
        yield from _fields(schemas[request])
    else:
        yield "It has no fields."
    yield ""
    empty = not schemas[result].get("properties")
    yield "The result is empty.\n" if empty else f"The result is [{result}](#{result.lower()}).\n"


def _about(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("description"):
        yield inspect.cleandoc(schema["description"]) + "\n"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", ()))
    yield "| Field | Type | |\n| --- | --- | --- |"
    for name, field in schema["properties"].items():
        default = field.get("default")
        note = "" if default in (None, "", [], {}) else f"default `{json.dumps(default)}`"
        yield f"| `{name}` | {_type(field)} | {'required' if name in required else note} |"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"[{_name(field)}](#{_name(field).lower()})"
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    kind = str(field.get("type", "any JSON"))
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind)


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


PAGES: Final[dict[str, Callable[[], str]]] = {
    **{name: partial(python_page, package) for package, (name, _, _) in HEADS.items()},
    "command-line.md": command_page,
    "http-api.md": api_page,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them with `--check`."""
    stale = []
    for name, make in PAGES.items():
        path, text = REFERENCE / name, make().rstrip("\n") + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"docs/reference: {', '.join(stale)}: not what the code says; run `python scripts/reference.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
