"""
Where the servers of this user keep their sockets, and how another command finds the one that runs.

Each server has a control directory. It is named after `--control`; without that, it stands in the user's runtime
directory and is named after the addresses that are bound. So the next start of the same server finds what a killed one
has left. A server with a port of the kernel's choice (port 0) is found by none: its directory has its process id too.
The directory holds the control socket, the local broker's, locks, and the public keys that workers leave for their
successors. It has mode 0700, and the keeper removes it when the server has stopped. Nothing here sends or reads on a
socket: it only tries whether one accepts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from realtime.errors import RealtimeError
from realtime.settings import Settings, runtime_directory
from sticky.errors import SettingsError as StickySettingsError
from sticky.process import privileges

CONTROL_SOCKET = "control.sock"
BROKER_SOCKET = "broker.sock"
KEYS_FILE = "keys.json"
KEEPER_LOCK = "keeper.lock"
SOCKET_MAX = 107  # bytes of a socket's path (unix(7))
NAME_MAX = 28  # characters of a directory's name, so that its sockets' paths are short enough


class NoServer(RealtimeError):
    """No server runs, or more than one does."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


@contextlib.contextmanager
def own_directory(settings: Settings) -> Iterator[Path]:
    """Make the directory of a server without a keeper, and remove it with all that is in it at the end."""
    path = make_directory(settings)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def make_directory(settings: Settings) -> Path:
    """
    Make the control directory of a server that starts, and return it. One that is there already stays as it is.

    Raises:
        SettingsError: the user's runtime directory is not private, or the directory cannot be made.
    """
    identity = privileges.find(settings.user, settings.group)
    path = control_directory(settings, os.getpid())
    if settings.control is None:
        _remove_left_behind(path.parent)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        where = path if settings.control is None else Path(settings.directory, settings.control)
        problem = f"cannot listen on {where}: the control directory cannot be made ({error.strerror})"
        raise StickySettingsError("control", problem) from error
    if identity.uid is not None:
        with contextlib.suppress(PermissionError):  # the primary reports that only root can become another user
            os.chown(path, identity.uid, -1)
    return path


def control_directory(settings: Settings, pid: int) -> Path:
    """
    Return the control directory of a server, whether it is there or not.

    Args:
        pid: of the server. It counts only where the kernel chooses a port.
    """
    runtime = runtime_directory(uid=privileges.find(settings.user, settings.group).uid)
    if settings.control is None:
        return runtime / directory_name(settings.bind, pid)
    control = Path(settings.directory, settings.control)
    beside = control.with_name(f"{control.name}.d")
    is_short = len(os.fsencode(beside / CONTROL_SOCKET)) <= SOCKET_MAX
    return beside if is_short else runtime / _shortened(str(control))


def directory_name(binds: Sequence[str], pid: int) -> str:
    """Return the name of a server's control directory, from the addresses that it binds."""
    name = re.sub(r"[^A-Za-z0-9.\-]+", "_", "+".join(sorted(binds)))
    if any(re.search(r"(^|:)0$", each) for each in binds):
        return f"{_shortened(name, NAME_MAX - 8)}.{pid}"
    return _shortened(name)


def _shortened(name: str, size: int = NAME_MAX) -> str:
    """Return a name of at most `size` characters, which no other long name has."""
    if len(name) <= size and "/" not in name:
        return name
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def lock_directory(path: Path) -> int:
    """
    Have this process be the keeper of a control directory. The lock lasts as long as the returned descriptor.

    Raises:
        NoServer: another keeper has the directory.
    """
    while True:
        fd = os.open(path / KEEPER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise NoServer(f"a server runs already with the control directory {path}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path / KEEPER_LOCK), os.fstat(fd)):
                return fd
        os.close(fd)  # the keeper before this one has just removed the directory
        path.mkdir(mode=0o700, exist_ok=True)


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
        several = ", ".join(f"{path} (pid {pid_of(path)})" for path in found)
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


def pid_of(path: Path) -> int:
    """Return the pid of the process that listens on this socket (SO_PEERCRED, unix(7)); 0 when it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    return 0


def _remove_left_behind(parent: Path) -> None:
    """Remove directories with the pid of a server that is gone, but not while a process still uses a socket in one."""
    for path in parent.iterdir():
        _, _, pid = path.name.rpartition(".")
        is_of_a_process = re.search(r"(_0\b.*|^[0-9a-f]{16})\.\d+$", path.name) is not None
        gone = is_of_a_process and not Path("/proc", pid).exists()
        if gone and not any(answers(each) for each in path.glob("*.sock")):
            shutil.rmtree(path, ignore_errors=True)
