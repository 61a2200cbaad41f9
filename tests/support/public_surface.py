"""
Prints the public names of the release that PYTHONPATH has, one a line: run as a program, also with an older release.

A name is what a user writes: `sticky.Child`, `Connection.client`, `UserHandle.disconnect(client=)`, the setting
`workers`, `realtime disconnect --client`. It imports that release alone, so it never imports from the tests.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil

import realtime
import sticky

MET = {
    "ClientInfo": "user",
    "Connection": "unsubscribe",
    "Page": "publications",
    "Place": "rooms",
    "Position": "epoch",
    "RoomHandle": "publish",
    "TestClient": "subscribe",
    "TestServer": "connect",
    "UserHandle": "is_online",
}
"""Classes that applications meet, also where 0.1 did not export them; each with a member that no namesake has."""


def members(label: str, kind: type) -> set[str]:
    """Return the members of a class, and the parameters of its methods."""
    found = {f"{label}.{name}" for name in dir(kind) if not name.startswith("_")}
    for name, method in vars(kind).items():
        if not name.startswith("_") and inspect.isfunction(method):
            names = list(inspect.signature(inspect.unwrap(method)).parameters)[1:]
            found |= {f"{label}.{name}({each}=)" for each in names}
    return found


def of_realtime() -> set[str]:
    """Return the names of the package, its settings, and its command."""
    found = {f"realtime.{name}" for name in realtime.__all__}
    for module in pkgutil.walk_packages(realtime.__path__, "realtime."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name and hasattr(kind, MET.get(name, "")):
                found |= members(name, kind)
    settings = importlib.import_module("realtime.settings").Settings
    found |= {f"setting {each.name}" for each in dataclasses.fields(settings)}
    for command in importlib.import_module("realtime.cli.main").COMMANDS:
        made = getattr(importlib.import_module(f"realtime.cli.{command}"), command)
        found |= {f"realtime {command} {option}" for each in made.params for option in each.opts}
    return found


def of_sticky() -> set[str]:
    """Return the names of the package below."""
    found = set()
    for name in sticky.__all__:
        found.add(f"sticky.{name}")
        if isinstance(kind := getattr(sticky, name), type):
            found |= members(name, kind)
    return found


if __name__ == "__main__":
    print("\n".join(sorted(of_realtime() | of_sticky())))
