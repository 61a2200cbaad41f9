"""
Finds the application that TARGET names.

Runs in the worker, at boot, and imports what a user wrote; the primary never does. Every way in which this fails for a
person's reason ends in a `TargetError` with a sentence; an error inside the user's code keeps its traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, runtime_checkable

from realtime.application.app import Application, stock_app
from realtime.application.asgi import WRAP, is_asgi, is_factory, is_wsgi
from realtime.application.source import did_you_mean, place_of
from realtime.errors import TargetError

ATTRIBUTE: Final = "app"
OWN: Final = ("realtime", "sticky")
FILE_MODULE: Final = "__realtime_app__"  # where the file's own name means another module

logger = logging.getLogger("realtime.target")


def load_target(target: str | None, directory: Path, *, factory: bool = False) -> Application:
    """
    Return the application that TARGET names, or the stock application for None.

    Args:
        target: `module:attr` or `path/to/file.py:attr`; `attr` is `app` unless given. `attr()` calls it, and serves
            what it returns.
        directory: where relative files and modules are looked for.
        factory: `attr` is called, as if `attr()` were written.

    Raises:
        TargetError: it names nothing that can be served.
        DeclarationError: the application declares something that cannot work.
        Exception: what the user's module raised while it was imported.
    """
    if target is None and factory:
        raise TargetError("--factory", "it needs a TARGET, such as app:create")
    if target is None:
        return stock_app()
    name, _, attribute = target.partition(":")
    put_on_path(directory)
    is_file = name.endswith(".py") or "/" in name
    module = _load_file(target, directory / name) if is_file else _load_module(target, name)
    path = attribute or ATTRIBUTE
    is_called = factory or path.endswith("()")
    value = _attribute(target, module, path.removesuffix("()"))
    app = _as_app(target, _make(target, value) if is_called else value)
    app.check()
    return app


def put_on_path(directory: Path) -> None:
    """
    Let modules be imported from a directory, without harm to anybody else's imports.

    It comes behind the standard library: a file `json.py` there is never taken for the module of that name. It comes
    before what is installed, as if a file in it had been run; but behind that too where it has something called
    `realtime` or `sticky`, which the processes of `run_cpu` would import in place of ours.
    """
    text = str(directory)
    if text in sys.path:
        return
    if _has_namesake(directory):
        logger.warning("= %s has something called realtime or sticky: installed packages go before its modules", text)
        sys.path.append(text)
        return
    library = Path(sysconfig.get_path("stdlib"))
    behind = [at for at, each in enumerate(sys.path, 1) if _is_library(Path(each), library)]
    sys.path.insert(max(behind, default=0), text)


def _has_namesake(directory: Path) -> bool:
    """Say whether something there is called as a package of ours, and is none."""
    if directory.resolve() == Path(__file__).resolve().parents[2]:
        return False  # a clone of this project
    return any((directory / name).exists() for own in OWN for name in (own, f"{own}.py"))


def _is_library(path: Path, library: Path) -> bool:
    """Say whether an entry of the path is the standard library's: the directory, its extensions, or its archive."""
    is_archive = path.parent == library.parent and path.suffix == ".zip"
    return is_archive or path in (library, library / "lib-dynload")


def _load_file(target: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(target, f"there is no file {path}")
    put_on_path(path.parent)  # its neighbours, as if it had been run
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(target, f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _run(target, lambda: spec.loader.exec_module(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module_name(path: Path) -> str:
    """
    Return the name by which its neighbours, and processes of `run_cpu`, import a file, so that there is one application
    and not two. A file that has the name of another module gets one that is imported nowhere.
    """
    name = path.stem
    is_free = name.isidentifier() and name not in sys.modules and name not in sys.stdlib_module_names
    return name if is_free else FILE_MODULE


def _load_module(target: str, name: str) -> ModuleType:
    found: list[ModuleType] = []
    try:
        _run(target, lambda: found.append(importlib.import_module(name)))
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there; something that it imports is not
        raise TargetError(target, f"there is no module {error.name!r} (a file is written as path/to/file.py)") from None
    return found[0]


def _run(target: str, load: Any) -> None:
    try:
        load()
    except SyntaxError as error:
        line = (error.text or "").rstrip()
        raise TargetError(target, f"{error.filename}, line {error.lineno}: {error.msg}\n    {line.strip()}") from None


def _attribute(target: str, module: ModuleType, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            names = [each for each in vars(module) if not each.startswith("_")]
            hint = did_you_mean(name, names)
            raise TargetError(target, f"{module.__file__ or module.__name__} has no `{name}`{hint}") from None
    return value


def _make(target: str, factory: Any) -> Any:
    """Call a factory, and return what it made."""
    if isinstance(factory, Application) or not callable(factory):
        raise TargetError(target, f"a {type(factory).__name__} is no factory: leave out --factory, or the parentheses")
    if inspect.iscoroutinefunction(factory):
        raise TargetError(target, f"{place_of(factory)}: a factory is a plain function, and not a coroutine")
    if not is_factory(factory):
        raise TargetError(
            target, f"{place_of(factory)}: a factory is called without arguments, and this one needs some"
        )
    return factory()


@runtime_checkable
class ApplicationMaker(Protocol):
    """What stands for an application without being one, such as a `socketio.ASGIApp`."""

    def as_application(self) -> Application:
        """Return the application."""


def _as_app(target: str, value: Any) -> Application:
    """Return the application; a bare ASGI callable becomes one that has it at its root."""
    if isinstance(value, Application):
        return value
    if isinstance(value, ApplicationMaker):
        return value.as_application()
    if not is_asgi(value):
        raise TargetError(target, _why_not(target, value))
    app = Application()
    app.mount("/", value)
    app.is_bare = True  # so that its routes come before those of the server that can do without
    return app


def _why_not(target: str, value: Any) -> str:
    """Return why a value cannot be served, and what would be right."""
    kind = type(value).__name__
    if is_wsgi(value):
        return f"{_place(value)}this is a WSGI application; {WRAP}"
    if is_factory(value):
        name = target if ":" in target else f"{target}:{ATTRIBUTE}"
        return f"{_place(value)}this is a factory, and no application; write {name}() or --factory"
    if callable(value):
        return f"{_place(value)}this is no ASGI application: it is not called as app(scope, receive, send)"
    return f"a {kind} is neither a realtime.App nor an ASGI application"


def _place(value: Any) -> str:
    where = place_of(value)
    return f"{where}: " if where else ""
