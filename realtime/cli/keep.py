"""
Makes the process of `realtime serve` a keeper, and gives the primaries that it starts their settings.

Runs in the command before it becomes the keeper, and in each primary at its start. A primary is the same command again,
which finds its link to the keeper in the environment. After a crash it goes on with the settings of the primary before
it, whatever was written to realtime.toml meanwhile.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from realtime.cli.descriptors import raise_descriptor_limit
from realtime.cli.servers import lock_directory, make_directory
from realtime.settings import Settings
from sticky.keeper.start import become_keeper
from sticky.process.keeper_link import KeeperLink

SETTINGS: Final = "settings"  # the name under which they are kept
PYTHON: Final = (sys.executable, "-P")  # -P: a folder `realtime` in the working directory is not ours

log = logging.getLogger("realtime.serve")


def keep(settings: Settings) -> None:
    """
    Become the keeper of a server with these settings, and return in a child of it: the first primary.

    Raises:
        SettingsError: there is no such user, or the user's runtime directory is not private.
        NoServer: a server runs already with this control directory, or the directory cannot be made.
    """
    directory = make_directory(settings)
    lock = lock_directory(directory)
    raise_descriptor_limit()
    become_keeper((*PYTHON, "-m", "realtime", *sys.argv[1:]), directory=str(directory), lock=lock)


def settings_of(link: KeeperLink, resolve: Callable[[], Settings]) -> Settings:
    """Return the settings of a primary: those of the one before it where that was lost, else those of the command."""
    if link.is_takeover and (data := link.take_bytes(SETTINGS)) is not None:
        try:
            return Settings.from_builtins(msgspec.msgpack.decode(data, type=dict))
        except msgspec.MsgspecError:  # of another version
            log.warning("! the settings of the primary before this one cannot be read: those of the command count")
    return resolve()


def keep_settings(link: KeeperLink, settings: Settings) -> None:
    """Keep the settings for the next primary."""
    link.put_bytes(SETTINGS, msgspec.msgpack.encode(settings.to_builtins()))
    link.set("log", settings.log_format)
