"""
A file in the control directory that names the processes of a server, for a start that finds neither keeper nor primary.

Runs in the primary. While a keeper lives, it has all of this in its memory, and the file is not read. It has a line for
each text that the primary keeps about a worker, a sidecar or what operators have asked for, and one for the start of
each process: the kernel may give its number to another process once it has ended. The file is replaced as a whole.

It is not synced to the disk. After a loss of power none of these processes lives, and a half-written file names no
process whose start agrees.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NAME: Final = "processes"
STARTED: Final = "started:"
WORKER: Final = "worker:"
SIDECAR: Final = "sidecar:"
_PREFIXES: Final = (WORKER, SIDECAR, "wanted", "generation")
_START_FIELD: Final = 19  # of /proc/PID/stat behind the name: the start in clock ticks since the boot (proc(5))


class ProcessRecord:
    """
    The file of one control directory. The directory is its user's own (mode 0700), so no other user writes the file.
    """

    def __init__(self, directory: str) -> None:
        """`directory`: "" for a server without one, which has no file."""
        self._path = os.path.join(directory, NAME) if directory else ""

    @staticmethod
    def has(name: str) -> bool:
        """Return whether the text of this name is a part of the file."""
        return name.startswith(_PREFIXES)

    def write(self, texts: Mapping[str, str]) -> None:
        """Replace the file. One that cannot be written is no reason to stop serving: then nothing can be adopted."""
        if not self._path:
            return
        found = {name: text for name, text in texts.items() if self.has(name)}
        pids = [pid_in(name, text) for name, text in found.items()]
        lines = [f"{name} {text}" for name, text in found.items()]
        lines += [f"{STARTED}{pid} {started}" for pid in pids if pid and (started := start_of(pid))]
        beside = f"{self._path}.new"
        with contextlib.suppress(OSError), open(beside, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.replace(beside, self._path)

    def read(self) -> dict[str, str]:
        """Return the texts, without those of processes that have ended."""
        try:
            lines = Path(self._path).read_text(encoding="utf-8").splitlines() if self._path else []
        except (OSError, UnicodeDecodeError):
            return {}
        texts = {name: text for name, _, text in (line.partition(" ") for line in lines)}
        return {
            name: text
            for name, text in texts.items()
            if self.has(name) and (not (pid := pid_in(name, text)) or texts.get(f"{STARTED}{pid}") == start_of(pid))
        }


def pid_in(name: str, text: str) -> int:
    """Return the process that a kept text is about (deposit.py, sidecars.py); 0 where it is about none."""
    words = text.split(" ")
    at = 1 if name.startswith(WORKER) else 0
    is_process = name.startswith((WORKER, SIDECAR)) and len(words) > at and words[at].isdecimal()
    return int(words[at]) if is_process else 0


def start_of(pid: int) -> str | None:
    """Return when a process was started, in the kernel's words; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_FIELD]
    except (OSError, IndexError):
        return None
