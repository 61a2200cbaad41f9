"""Users and groups by name and number; becoming another one is for process tests, which run as root."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

import pytest

from sticky.errors import SettingsError
from sticky.process.privileges import Identity, find

ME = pwd.getpwuid(os.getuid())


def test_without_settings_the_process_stays_as_it_is() -> None:
    assert find(None, None) == Identity(None, None, None)
    before = (os.getuid(), os.getgid(), os.getgroups())
    find(None, None).assume()
    assert (os.getuid(), os.getgid(), os.getgroups()) == before


@pytest.mark.parametrize("user", [ME.pw_name, str(ME.pw_uid)])
def test_a_user_brings_its_own_group(user: str) -> None:
    assert find(user, None) == Identity(ME.pw_uid, ME.pw_gid, ME.pw_name)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_group_overrides_that_of_the_user(by_name: bool) -> None:
    group = next(iter(grp.getgrall()))
    found = find(ME.pw_name, group.gr_name if by_name else str(group.gr_gid))
    assert found == Identity(ME.pw_uid, group.gr_gid, ME.pw_name)


def test_a_number_needs_no_name_as_in_a_container() -> None:
    free = next(number for number in range(54_321, 65_000) if not _exists(number))
    assert find(str(free), None) == Identity(free, None, None)


def _exists(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@pytest.mark.parametrize(
    ("user", "group", "problem"),
    [
        ("no-such-user", None, "user: this machine has no user 'no-such-user'"),
        (None, "no-such-group", "group: this machine has no group 'no-such-group'"),
    ],
)
def test_a_name_that_is_not_there(user: str | None, group: str | None, problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        find(user, group)
    assert str(raised.value) == problem


def in_a_child_that_is_not_root(check: Callable[[], object]) -> int:
    """Call something in a forked process that is another user, where this one is root. Return 0 when all held there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65_534)  # final, so in a child
            check()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_user_that_this_process_is_can_always_be_assumed() -> None:
    def check() -> None:
        before = (os.getuid(), os.getgid())
        Identity(os.getuid(), os.getgid(), "me").assume()
        assert (os.getuid(), os.getgid()) == before

    assert in_a_child_that_is_not_root(check) == 0


def test_only_root_can_become_another_user() -> None:
    def check() -> None:
        with pytest.raises(SettingsError, match="only root can become user daemon, group"):
            Identity(1, os.getgid(), "daemon").assume()

    assert in_a_child_that_is_not_root(check) == 0
