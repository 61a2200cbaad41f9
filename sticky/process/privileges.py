"""
Changes the user of the process, once all that needs privileges is done.

Runs in the primary, between binding its addresses and starting anything. The change is final: nothing of the primary or
of a worker runs as root afterwards. It never reads settings, and never changes a file's owner.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from sticky.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group as numbers; None leaves what the process has."""

    uid: int | None
    gid: int | None
    name: str | None  # of the user, by which its other groups are found

    def assume(self) -> None:
        """
        Change the user and the groups of this process, for good.

        Raises:
            SettingsError: this process may not.
        """
        try:
            # Groups first: a process that is not root any more cannot change them (setgroups(2)). It would keep root's.
            if self.gid is not None and os.getgid() != self.gid:
                os.setgid(self.gid)
            if self.name is not None and self.gid is not None and os.geteuid() == 0:
                os.initgroups(self.name, self.gid)
            elif self.gid is not None and os.geteuid() == 0:
                os.setgroups([self.gid])
            if self.uid is not None and os.getuid() != self.uid:
                os.setuid(self.uid)
        except PermissionError as error:
            raise SettingsError(
                "user", f"only root can become user {self.name or self.uid}, group {self.gid}"
            ) from error


def find(user: str | None, group: str | None) -> Identity:
    """
    Find a user and a group by name or number. A user alone brings its own group.

    Raises:
        SettingsError: there is none.
    """
    uid = gid = name = None
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        except KeyError:
            if not user.isdecimal():
                raise SettingsError("user", f"this machine has no user {user!r}") from None
            uid = int(user)
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise SettingsError("group", f"this machine has no group {group!r}") from None
    return Identity(uid, gid, name)
