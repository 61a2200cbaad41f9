"""
Where settings come from: command line > environment (`REALTIME_*`) > `realtime.toml` > default.

Runs once, in the process of the command line; workers get the result. It reads the environment and one file, and never
anything else. Each value remembers its source, so that a wrong one is named where a person will look for it.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realtime.errors import SettingsError
from realtime.settings.fields import Option, Settings, options
from realtime.settings.kinds import PartError
from realtime.settings.relations import check_relations

CONFIG_ENV = "REALTIME_CONFIG"
CONFIG_FILE = "realtime.toml"
TABLE = "realtime"
RUNTIME_MAX = 84  # bytes: of the 107 that a socket's path may have (unix(7)), `/1234567/control.sock` takes 21
ALIKE = 0.7  # difflib's ratio from which a wrong name is taken for a slip: "wokers" is one, "server" is not "secret"


@dataclass(frozen=True)
class Given:
    """A value as one source has it, and the words that name the source."""

    value: object
    source: str


def resolve(
    command_line: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    config: str | None = None,
) -> Settings:
    """
    Put the settings together and check them, each and all together.

    Args:
        command_line: option name -> what was given there; None and () count as not given. A secret may come as
            `NAME_file` instead, the path of a file that holds it.
        environ: the environment, the process's own unless given.
        directory: where `realtime.toml` is looked for, and relative paths begin; the current one unless given.
        config: another file than `realtime.toml`; it must then exist. `REALTIME_CONFIG` does the same.

    Raises:
        SettingsError: a value is wrong. The error names it, its source, and what is allowed.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    # The nearest source last: it replaces what the others gave. Values are parsed only then, so that a wrong one in the
    # file does no harm where the environment has a right one.
    given = _from_file(directory, config, environ)
    given |= _from_environment(environ)
    given |= _from_command_line(command_line or {})

    values: dict[str, Any] = {}
    for option in options():
        if option.name in given:
            values[option.name] = _parsed(option, given[option.name])
    sources = {name: given[name].source for name in values}
    if environ.get("NO_COLOR") and "color" not in values:  # no-color.org: set and not empty
        values["color"], sources["color"] = "never", "NO_COLOR"
    settings = Settings(**values, sources=sources, directory=str(directory))
    check_relations(settings)
    return settings


def misspelt(environ: Mapping[str, str] | None = None) -> list[str]:
    """
    Return a sentence for each `REALTIME_*` variable that is no setting but looks like one.

    They are warnings, where an unknown key of the file is an error: the environment belongs to others as well, and a
    variable that no setting resembles may be theirs.
    """
    prefix = "REALTIME_"
    names = [CONFIG_ENV] + [name for option in options() for name in _names(option, option.env, "_FILE")]
    known = [name.removeprefix(prefix) for name in names]
    found = []
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith(prefix) and name not in names:
            near = difflib.get_close_matches(name.removeprefix(prefix), known, 1, ALIKE)
            if near:
                found.append(f"{name} is not a setting and was ignored; did you mean {prefix}{near[0]}?")
    return found


def runtime_directory(environ: Mapping[str, str] | None = None, *, uid: int | None = None) -> Path:
    """
    Give the directory for a user's sockets, private to the user (mode 0700); make it when it is not there.

    It is `$XDG_RUNTIME_DIR/realtime`, else `$TMPDIR/realtime-UID` with /tmp for TMPDIR; a path that is too long for a
    socket in it is not taken. Only root can make another user's (`uid`), and has none in the first.

    Raises:
        SettingsError: another user owns it or can write to it, so a socket in it could be that user's.
    """
    environ = os.environ if environ is None else environ
    xdg = environ.get("XDG_RUNTIME_DIR", "")
    own = uid is None or uid == os.geteuid()
    owner = os.geteuid() if uid is None else uid
    xdg_is_usable = own and xdg and os.access(xdg, os.W_OK | os.X_OK)
    places = [Path(xdg, "realtime")] if xdg_is_usable else []
    places += [Path(tmp, f"realtime-{owner}") for tmp in (environ.get("TMPDIR"), "/tmp") if tmp]  # noqa: S108 - checked below
    path = next((each for each in places if len(os.fsencode(each)) <= RUNTIME_MAX), places[-1])
    try:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if not own:
                os.chown(path, owner, -1)
        found = path.lstat()
    except OSError as error:
        raise SettingsError("control", str(path), f"the runtime directory cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError("control", str(path), "the runtime directory must be its user's own, with mode 0700")
    return path


def _from_command_line(values: Mapping[str, object]) -> dict[str, Given]:
    found = {}
    for option in options():
        for name, flag in zip(_names(option, option.name, "_file"), _names(option, option.flag, "-file"), strict=True):
            value = values.get(name)
            if value is None or value == ():
                continue
            found[option.name] = _read_secret(option, value, flag) if name != option.name else Given(value, flag)
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    found = {}
    for option in options():
        for name in _names(option, option.env, "_FILE"):
            value = environ.get(name, "")
            if value:  # an empty variable is how compose files say "not set"
                found[option.name] = _read_secret(option, value, name) if name != option.env else Given(value, name)
    return found


def _from_file(directory: Path, config: str | None, environ: Mapping[str, str]) -> dict[str, Given]:
    chosen, source = (config, "--config") if config else (environ.get(CONFIG_ENV), CONFIG_ENV)
    shown = chosen or CONFIG_FILE
    path = directory / shown
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if chosen:
            raise SettingsError("config", source, f"there is no file {chosen!r}") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError("config", shown, f"cannot be read: {why}") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError("config", shown, f"is not TOML: {error}") from None
    return _from_table(shown, text, table)


def _from_table(file: str, text: str, table: Mapping[str, Any]) -> dict[str, Given]:
    """Read the keys of a file, at the top level or under [realtime]. A key that is no setting is an error."""
    inner = table.get(TABLE)
    pairs = [("", key, value) for key, value in table.items() if not (key == TABLE and isinstance(value, dict))]
    pairs += [(TABLE, key, value) for key, value in inner.items()] if isinstance(inner, dict) else []
    by_key = {name: option for option in options() for name in _names(option, option.key, "_file")}
    found: dict[str, Given] = {}
    for section, key, value in pairs:
        where = f"{file} line {_line_of(section, key, text)}, {key}"
        name = key.replace("-", "_")
        if name not in by_key:
            near = difflib.get_close_matches(name, by_key, 1, ALIKE)
            raise SettingsError(key, where, "there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
        option = by_key[name]
        if option.name in found:
            raise SettingsError(option.name, where, f"it is set twice; first in {found[option.name].source}")
        found[option.name] = _read_secret(option, value, where) if name != option.key else Given(value, where)
    return found


def _names(option: Option, name: str, suffix: str) -> tuple[str, ...]:
    """Give the names under which a source may hold an option: a secret may come as a file that holds it."""
    return (name, name + suffix) if option.secret else (name,)


def _read_secret(option: Option, path: object, source: str) -> Given:
    try:
        return Given(Path(str(path)).read_text(encoding="utf-8").strip(), source)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(option.name, source, f"{str(path)!r} cannot be read: {why}") from None


def _parsed(option: Option, given: Given) -> Any:
    try:
        return option.kind.parse(given.value)
    except ValueError as error:
        value = error.part if isinstance(error, PartError) else given.value
        shown = "the value" if option.secret else repr(value)
        detail = f" ({error})" if str(error) else ""
        raise SettingsError(option.name, given.source, f"{shown} is not {option.kind.allowed}{detail}") from None


def _line_of(section: str, key: str, text: str) -> int:
    """
    Find the line of a key, at the top level or in a section; tomllib does not return it. For a form that is not looked
    for, such as `realtime.ping`, it is the first line. A text of several lines that holds
    `key =` may win: the number is for the eyes of a person.
    """
    name = rf"[\"']?{re.escape(key)}[\"']?"
    pattern = re.compile(rf"\s*{name}\s*[=.]|\s*\[+\s*{name}\s*[\].]")
    within = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*[\"']?([^\]\"'.]+)", line)
        if (within == section or header is not None) and pattern.match(line):
            return number
        within = header[1].strip() if header is not None else within
    return 1
