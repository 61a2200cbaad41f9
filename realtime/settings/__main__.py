"""
`python -m realtime.settings > docs/settings.md`: the reference page, made from the settings themselves.

A test compares the page with what this prints.
"""

from __future__ import annotations

import sys

from realtime.settings.fields import GROUPS, Option, options

HEAD = """# Settings

<!-- Made by `python -m realtime.settings > docs/settings.md`. Change realtime/settings/fields.py instead. -->

Every command reads the same settings, in three places. A nearer one wins, as a whole (lists are not joined):

1. the command line: `realtime serve --ping 20s`;
2. the environment: `REALTIME_PING=20s` (an empty variable counts as not set);
3. `realtime.toml` in the directory where the command starts, or the file that `--config` or `REALTIME_CONFIG` names:
   `ping = "20s"`, at the top level or under `[realtime]`. A key that is no setting is an error.

Times are seconds, or have a unit: `500ms`, `25s`, `2m`, `1h`. Sizes are bytes, or have one: `64KiB`, `1MiB`. Several
values are separated by commas, are a list in TOML, and on the command line the option can be repeated. Yes or no has
no value on the command line: `--compression`, `--no-compression`. A secret can come from a file: `--secret-file`,
`REALTIME_SECRET_FILE`, `secret_file`. A wrong value ends the start with a sentence that names it, its source, and what
is allowed.
"""


def page() -> str:
    """Make the whole page."""
    return "\n".join([HEAD, *(_section(group) for group in GROUPS)])


def _section(group: str) -> str:
    rows = [_row(option) for option in options() if option.group == group]
    return "\n".join([f"## {group}", "", "| Setting | Allowed | Default | |", "| --- | --- | --- | --- |", *rows, ""])


def _row(option: Option) -> str:
    names = "<br>".join(f"`{name}`" for name in (option.flag, option.env, option.key))
    cells = [names, option.kind.allowed, option.default_text or "none", option.help]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
