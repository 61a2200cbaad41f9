"""
Where the servers of this user keep their sockets, and how another command finds the one that runs.

Each primary has a directory of its own, named after its process id, inside the user's runtime directory. It holds the
control socket, the local broker's, and the public keys that workers leave for their successors. It has mode 0700, and
goes when the primary ends. What a killed primary left behind is removed by the next one that starts. Nothing here sends
or reads on a socket: it only tries whether one accepts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from realtime.errors import RealtimeError
from realtime.settings import Settings, runtime_directory
from sticky.process import privileges

CONTROL_SOCKET = "control.sock"
BROKER_SOCKET = "broker.sock"
KEYS_FILE = "keys.json"


class NoServer(RealtimeError):
    """No server runs, or more than one does."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


@contextlib.contextmanager
def own_directory(settings: Settings) -> Iterator[Path]:
    """Make this process's directory, and remove it with all that is in it at the end."""
    identity = privileges.find(settings.user, settings.group)
    parent = runtime_directory(uid=identity.uid)
    _remove_left_behind(parent)
    path = parent / str(os.getpid())
    shutil.rmtree(path, ignore_errors=True)  # of an earlier process with our number, which is gone
    path.mkdir(mode=0o700)
    if identity.uid is not None:
        with contextlib.suppress(PermissionError):  # the primary reports that only root can become another user
            os.chown(path, identity.uid, -1)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def control_socket(settings: Settings) -> Path:
    """
    Return the control socket of the server that runs: the configured one, else the only one there is.

    Raises:
        NoServer: none answers, or several do. Its text has the next step.
    """
    if settings.control is not None:
        path = Path(settings.directory, settings.control)
        if not answers(path):
            raise NoServer(f"no server answers at {path} ({settings.source('control')})")
        return path
    directory = runtime_directory(uid=privileges.find(settings.user, settings.group).uid)
    found = [path for path in sorted(directory.glob(f"*/{CONTROL_SOCKET}")) if answers(path)]
    if not found:
        raise NoServer("no server of this user runs here; `realtime serve` starts one")
    if len(found) > 1:
        several = ", ".join(f"{path} (pid {path.parent.name})" for path in found)
        raise NoServer(f"several servers run: choose one with --control PATH out of {several}")
    return found[0]


def answers(path: Path) -> bool:
    """Return whether a process listens on this socket."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.settimeout(2)
            with contextlib.suppress(OSError):
                probe.connect(str(path))
                return True
    return False


def _remove_left_behind(parent: Path) -> None:
    """Remove directories whose primary is gone, but not while an orphaned worker still uses a socket in one."""
    for path in parent.iterdir():
        gone = path.name.isdecimal() and not Path("/proc", path.name).exists()
        if gone and not any(answers(each) for each in path.glob("*.sock")):
            shutil.rmtree(path, ignore_errors=True)
