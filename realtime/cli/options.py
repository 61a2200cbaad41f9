"""
Makes click's options out of `Settings`, so that every option is written down once.

Values are handed on as they were typed: `realtime.settings` parses them, so that a wrong one gets the same sentence
from the command line, the environment and the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, TypeVar

import click

from realtime.settings import CONFIG_ENV, GROUPS, Option, options
from realtime.settings.fields import COMMANDS
from realtime.settings.kinds import Choice, Flag

NAMES_WIDTH = 36  # columns of `--help` for the names; a longer name has its text on the next line
_OWN = "Options"  # the heading of what a command has beside the settings

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that knows under which heading `--help` lists it."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose `--help` lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading, beginning with what has none."""
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in (_OWN, *GROUPS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections[getattr(parameter, "group", _OWN)].append(record)
        longest = max(len(names) for records in sections.values() for names, _ in records)
        width = min(longest, NAMES_WIDTH)
        for group, records in sections.items():
            if records:
                with formatter.section(group):  # one column for all: the eye goes down it
                    formatter.write_dl([(names.ljust(width), text) for names, text in records], col_max=width)


# Settings that mean something else to a command that is no server: the sentence, and the default.
ABOUT: Final[dict[str, dict[str, Any]]] = {
    "user": {"help": "The user that the server became (its --user), if another than yours."},
    "url": {"help": "Where the server is."},
    "own_prefix": {"help": "The path below which the server's own paths are (its --own-prefix).", "shown": ""},
    "api_key": {"help": "A key of its API.", "shown": ""},
}


def settings_options(only: Collection[str] | None = None) -> Callable[[F], F]:
    """
    Decorate a command with an option for each setting of `only`, and `--config`. Without `only`: for each that has a
    meaning to `realtime serve`, but TARGET, which is an argument.

    The command gets them by the settings' names: hand them to `resolve()` as they are.
    """
    made: list[Callable[[Any], Any]] = []
    for option in _of_serve() if only is None else _of_client(set(only)):
        made += _click_options(option)
    made.append(
        click.option(
            "--config",
            cls=GroupedOption,
            group="Operation",
            metavar="FILE",
            help=f"The file of settings (also {CONFIG_ENV}).  [default: realtime.toml, if it is here]",
        )
    )

    def decorate(function: F) -> F:
        for each in reversed(made):
            function = each(function)
        return function

    return decorate


def _of_serve() -> list[Option]:
    return [each for each in options() if each.name != "target" and each.group != COMMANDS]


def _of_client(names: Collection[str]) -> list[Option]:
    """Return these options as a command has them that is no server."""
    found = [each for each in options() if each.name in names]
    return [replace(each, **ABOUT.get(each.name, {})) for each in found]


def _click_options(option: Option) -> list[Callable[[Any], Any]]:
    """
    Return the decorators of one setting: two for a secret, which can be in a file.

    None has a default of click's. An option that was not given must not hide what the environment or the file says.
    """
    help_text = option.help
    if option.default_text:
        help_text += f"  [default: {option.default_text}]"
    declared = [option.flag, *([f"-{option.short}"] if option.short else []), option.name]
    common: dict[str, Any] = {"cls": GroupedOption, "group": option.group, "default": None}
    if isinstance(option.kind, Flag):
        off = f"--no-{option.flag.removeprefix('--')}"
        return [click.option(f"{option.flag}/{off}", option.name, help=help_text, **common)]
    if option.secret:
        in_file = [f"{option.flag}-file", f"{option.name}_file"]
        seen = " On the command line every user of this machine can see it."
        return [
            click.option(*declared, metavar="TEXT", help=help_text + seen, **common),
            click.option(*in_file, metavar="FILE", help="The same, from a file.", **common),
        ]
    if isinstance(option.kind, Choice):
        common["shell_complete"] = _words(option.kind.words)
    return [click.option(*declared, metavar=option.kind.metavar, multiple=option.many, help=help_text, **common)]


def _words(words: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Complete one of a few words."""
    return lambda ctx, parameter, typed: [word for word in words if word.startswith(typed)]
