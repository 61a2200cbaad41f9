"""
The command `realtime`: its commands, its version, and how errors end it.

An error is one sentence on standard error: exit status 2 when the command line or a setting is wrong, 1 when something
went wrong later. A traceback means a bug.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

import realtime
from realtime.errors import RealtimeError, SettingsError
from realtime.loadtest.errors import LoadError
from sticky.errors import SettingsError as StickySettingsError
from sticky.errors import StickyError

USAGE, FAILED, INTERRUPTED = 2, 1, 130  # 130: what a shell reports for SIGINT


COMMANDS = (
    "serve",
    "status",
    "reload",
    "upgrade",
    "scale",
    "drain",
    "inspect",
    "stop",
    "publish",
    "emit",
    "tail",
    "rooms",
    "presence",
    "where",
    "history",
    "disconnect",
    "token",
    "bench",
    "doctor",
    "completion",
)  # the ones most used first


# Options that had another name, by command. The old one is refused, with the new one in the error.
RENAMED: Final = {("disconnect", "--client"): "--connection", ("disconnect", "--session"): "--stream"}


class CommandGroup(click.Group):
    """Finds each command in the module of its name, when it is asked for: `realtime stop` has no use for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in our order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module, which holds it under the same name."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"realtime.cli.{cmd_name}"), cmd_name)
        assert isinstance(found, click.Command)
        return found


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    realtime.__version__, prog_name="realtime", message=f"%(prog)s %(version)s (Python {platform.python_version()})"
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """
    Serve a realtime Python application on all cores: sticky connections, rooms, presence, history, recovery.

    \b
    Examples:
      realtime serve                               app.py here, or a stock application to try things out
      realtime serve --sticky ip app:app           every client keeps its worker
      realtime serve --redis redis://db app:app    this machine and every other one with the same Redis
      realtime status                              what runs, and how it is
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status. Any error that is no bug has become a sentence."""
    try:
        result = command.main(arguments, prog_name="realtime", standalone_mode=False)
    except click.UsageError as error:
        return _fail(_sentence(error), USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (SettingsError, StickySettingsError) as error:
        return _fail(str(error), USAGE)
    except (RealtimeError, StickyError, LoadError) as error:
        return _fail(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # `realtime status | head`
        sys.stderr.close()
        return FAILED
    return result if isinstance(result, int) else 0


def _sentence(error: click.UsageError) -> str:
    """Say what is wrong and where to read on."""
    where = error.ctx.command_path if error.ctx else "realtime"
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        now = RENAMED.get((error.ctx.info_name or "", error.option_name))
        if now is not None:
            return f"No such option: {error.option_name}; did you mean {now}? (see `{where} --help`)"
    return f"{error.format_message().rstrip('.')} (see `{where} --help`)"


def _fail(sentence: str, status: int) -> int:
    click.echo(f"realtime: {sentence}", err=True)
    return status
