"""
The command `realtime`, once it is certain that the package of that name is ours.

Runs in every process that the command starts as itself. It imports the package only after the check: what another
distribution has overwritten fails in ways that no one would understand.
"""

from __future__ import annotations

import sys

from realtime_cluster import problem


def main() -> None:
    """Be the command `realtime`. Ends with status 1, and a sentence, where the package is not ours."""
    wrong = problem()
    if wrong is not None:
        sys.exit(f"realtime: {wrong}")
    from realtime.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
