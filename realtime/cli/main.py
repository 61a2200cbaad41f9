"""
The command `realtime`: its commands, its version, and how errors end it.

An error is one sentence on standard error: exit status 2 when the command line or a setting is wrong, 1 when something
went wrong later. A traceback means a bug.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import realtime
from realtime.cli.completion import completion
from realtime.cli.doctor import doctor
from realtime.cli.reload import reload
from realtime.cli.serve import serve
from realtime.cli.status import status
from realtime.cli.stop import stop
from realtime.cli.token import token
from realtime.errors import RealtimeError, SettingsError
from sticky.errors import SettingsError as StickySettingsError
from sticky.errors import StickyError

USAGE, FAILED, INTERRUPTED = 2, 1, 130  # 130: what a shell reports for SIGINT


class InOrder(click.Group):
    """Lists its commands as they were added: the ones most used first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in that order."""
        return list(self.commands)


@click.group(
    cls=InOrder,
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


for each in (serve, status, reload, stop, token, doctor, completion):
    command.add_command(each)


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
    except (RealtimeError, StickyError) as error:
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
    return f"{error.format_message().rstrip('.')} (see `{where} --help`)"


def _fail(sentence: str, status: int) -> int:
    click.echo(f"realtime: {sentence}", err=True)
    return status
