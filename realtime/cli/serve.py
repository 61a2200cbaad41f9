"""
`realtime serve`: read the settings, then become the keeper of a server, or a primary that a keeper has started.

The command alone. What the cluster is made of is in launch.py, its first lines in banner.py.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.settings import Settings, resolve


@click.command(cls=GroupedCommand)
@click.argument("target", required=False, metavar="[TARGET]")
@settings_options()
def serve(target: str | None, config: str | None, **given: Any) -> int:
    """
    Serve TARGET on several workers, until TERM or Ctrl-C.

    TARGET is `module:attr` or `path/to/file.py:attr`; `attr` is `app` unless given. It is a `realtime.App` or any ASGI
    application. Without TARGET it is app.py in this directory, else a stock application in which every room is open.

    Every option can also be an environment variable (--ping: REALTIME_PING) or a key in realtime.toml (ping).

    \b
    Examples:
      realtime serve                                      try things out
      realtime serve app:app --workers 4 --bind :8000     on every address
      realtime serve app:app --sticky session             behind proxies that share addresses
      realtime serve app:app --trusted-proxies 10.0.0.0/8 behind a proxy that sets X-Forwarded-For
      realtime serve app:app --redis redis://db:6379      with other machines

    \b
    Signals: TERM, INT drain and stop (again: stop now); QUIT stop now; HUP reload; TTIN, TTOU one worker more, fewer;
    USR2 upgrade.
    """
    # Only now: completing `realtime serve --st` should not load a cluster.
    from realtime.cli.keep import keep, settings_of
    from sticky.process.keeper_link import KeeperLink

    def resolved() -> Settings:
        return resolve({"target": target, **given}, config=config)

    link = KeeperLink.from_environment()
    if link is None and sys.platform == "linux":
        keep(resolved())  # goes on in a child
        link = KeeperLink.from_environment()
    from realtime.cli.launch import launch

    if link is None:
        return launch(resolved())
    try:
        return launch(settings_of(link, resolved), link)
    except Exception as error:
        if link.is_successor:  # the primary serves on, and `realtime upgrade` shows why
            link.unfit(f"{type(error).__name__}: {error}")
        raise
