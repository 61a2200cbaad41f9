"""
The control directory, as far as the keeper uses it: its socket, the lock of the primary, and the end of all files.

Runs in the keeper, which holds the keeper's lock of the directory. It reads no file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket

from sticky.keeper.lines import KEEPER_SOCKET, PRIMARY_LOCK


class ControlDirectory:
    """One control directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def listen(self) -> socket.socket:
        """Open the socket at which a primary of an earlier keeper connects. The caller owns it."""
        path = os.path.join(self.path, KEEPER_SOCKET)
        if os.path.lexists(path):
            os.unlink(path)  # the caller has the keeper's lock, so no other listens there
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        os.chown(path, self.owner, -1, follow_symlinks=False)  # it may be a link of that user by now
        listener.listen(1)
        return listener

    @property
    def owner(self) -> int:
        """The user that the server becomes, or is."""
        return os.stat(self.path).st_uid

    def become(self, uid: str, gid: str, *groups: str) -> None:
        """
        Change the user of this process for good, as the primary did: nothing goes on as root that need not. What this
        process has made in the directory is the user's from then on.
        """
        if os.geteuid() == 0:
            for name in os.listdir(self.path):
                with contextlib.suppress(FileNotFoundError):  # the primary writes a file beside, and then renames it
                    os.chown(os.path.join(self.path, name), int(uid), int(gid), follow_symlinks=False)
            os.setgroups([int(each) for each in groups])
            os.setgid(int(gid))
            os.setuid(int(uid))

    def primary_lives(self) -> bool:
        """Return whether a primary has its lock of this directory."""
        fd = os.open(os.path.join(self.path, PRIMARY_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def remove(self, pid_file: str) -> None:
        """Remove the directory and the pid file, which nothing uses any more."""
        names = [os.path.join(self.path, name) for name in os.listdir(self.path)]
        for each in [pid_file, *names]:
            try:
                os.unlink(each)
            except OSError:
                continue  # gone, or not ours any more since the user was changed
        try:
            os.rmdir(self.path)
        except OSError:
            return


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end (SO_PEERCRED, unix(7))."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[0:4], "little"), int.from_bytes(credentials[4:8], "little")
