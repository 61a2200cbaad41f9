"""
The command of the local broker's process, and the signal that ends it.

Pure. Used in the primary, which starts the process, and so imports neither the broker nor an event loop.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOCAL_STOP_SIGNAL: Final = signal.SIGUSR1  # from the primary to the local broker's process


def local_command(python: Sequence[str], path: str, memory: int) -> tuple[str, ...]:
    """
    Return the command of the local broker. `sticky.Sidecar` fills in what stands in braces.

    Args:
        python: the interpreter, with its options.
        path: of the broker's socket, in the control directory.
        memory: in bytes, what the broker may keep.
    """
    module = (*python, "-m", "realtime.broker.local_process")
    options = ("--socket", path, "--ready-fd", "{ready_fd}", "--memory", str(memory))
    return (*module, *options, "--orphan", str(Path(path).parent), "{name}", "{terms}")
