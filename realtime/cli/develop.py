"""
The sidecar process of `--reload`: watches files, reads keys from the terminal, and asks the primary to act.

Runs in a process of its own, `python -m realtime.cli.develop --control PATH DIRECTORY …`, a child of the primary. It
asks over the control socket, as `realtime reload` does, so the primary goes on when it fails. If the new code fails to
start, the error is shown and the old workers keep serving. It outlives its primary when another one follows, after an
upgrade or a crash: what is written meanwhile is not missed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TextIO

from watchfiles import Change, PythonFilter, watch

from realtime import logs
from realtime.cli.status import show
from sticky.process.control import ControlFailed, send_request

CHECK_MS: Final = 500  # between two checks whether the primary is still there
FOLLOW_S: Final = 20.0  # for the next primary, where this one has ended
KEYS: Final = "keys, each with Enter: r reload · d stacks (d 2: of slot 2) · s status · q quit"

logger = logging.getLogger("realtime.develop")


class TerminalKeys:
    """What a developer types into the terminal of the server."""

    def __init__(self, control: str) -> None:
        self._control = control

    def read(self, stream: TextIO) -> None:
        """Read lines until there are no more. Runs in a thread of its own."""
        for line in stream:
            word, *rest = line.split() or [""]
            try:
                self._act(word, rest)
            except ControlFailed as error:
                print(error, file=sys.stderr)

    def _act(self, word: str, rest: list[str]) -> None:
        if word == "r":
            self._ask("reload")
        elif word == "s":
            show(self._ask("status"))
        elif word == "q":
            self._ask("stop")
        elif word == "d" and all(each.isdecimal() for each in rest):
            slots = [int(each) for each in rest] or self._ask("status")["live"]
            for slot in slots:
                print(f"slot {slot}\n{self._ask('inspect', slot=slot)['text']}", file=sys.stderr)
        elif word:
            print(KEYS, file=sys.stderr)

    def _ask(self, command: str, **fields: Any) -> dict[str, Any]:
        return send_request(self._control, {"command": command, **fields})


def watch_files(control: str, directories: Iterable[str], parent: int) -> int | None:
    """
    Ask for a reload whenever a Python file changes. Return the parent where the watch ends by itself, and None where
    the primary is gone and no other one follows.
    """
    changes = watch(*directories, watch_filter=PythonFilter(), yield_on_timeout=True, rust_timeout=CHECK_MS)
    for changed in changes:
        if os.getppid() != parent:  # what is written meanwhile is among the next changes
            found = next_parent(control)
            if found is None:
                return None
            parent = found
        if changed:
            logger.info("= changed: %s", named(changed))
            try:
                send_request(control, {"command": "reload"})
            except ControlFailed as error:
                logger.warning("! %s", error)
    return parent


def next_parent(control: str) -> int | None:
    """
    Return the process that is the parent now, when a primary has followed the one that has ended. None where none has.
    """
    give_up_at = time.monotonic() + FOLLOW_S
    while time.monotonic() < give_up_at:
        parent = os.getppid()
        try:
            send_request(control, {"command": "status"})
        except ControlFailed:
            time.sleep(CHECK_MS / 1000)
        else:
            return parent
    return None


def named(changed: set[tuple[Change, str]]) -> str:
    """Name the files that changed, the first few of them."""
    names = sorted(os.path.relpath(path) for _, path in changed)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def main() -> None:
    """Run the process until the primary is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--log", nargs=3, required=True, metavar=("LEVEL", "FORM", "COLOR"))
    parser.add_argument("--no-keys", action="store_true")
    parser.add_argument("directories", nargs="+")
    given = parser.parse_args()
    level, form, color = given.log
    logs.set_up("develop", level=level, form=form, color=color)
    parent: int | None = os.getppid()
    directories = [each for each in given.directories if Path(each).is_dir()]
    logger.info("= watching %s", ", ".join(directories))
    os.write(given.ready_fd, b"!")
    if not given.no_keys and sys.stdin is not None and sys.stdin.isatty():
        print(KEYS, file=sys.stderr)
        threading.Thread(target=TerminalKeys(given.control).read, args=(sys.stdin,), daemon=True).start()
    while directories and parent is not None:
        parent = watch_files(given.control, directories, parent)
        time.sleep(CHECK_MS / 1000)


if __name__ == "__main__":
    main()
