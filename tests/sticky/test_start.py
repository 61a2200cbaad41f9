"""
What the first primary, which is forked from the command, has in common with every later one.

Only what needs no process: tests/process/test_keeper.py shows the fork, the keeper's command and its arguments.
"""

from __future__ import annotations

import ast
import os
import socket
import sys
from pathlib import Path

import pytest

from sticky.keeper import start
from sticky.keeper.lines import DIRECTORY, KEEPER_FD
from sticky.process.keeper_start import socket_from_environment

NO_LINK = 1_000_000  # no descriptor: what is tested does not use it


@pytest.fixture(autouse=True)
def as_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the environment and the search path of the tests' process afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "path", ["the working directory", "/lib"])


def test_it_finds_its_link_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    start._be_primary(theirs.detach(), "/run/a")
    assert sorted(os.environ) == [DIRECTORY, KEEPER_FD]
    found = socket_from_environment()
    assert found is not None
    with ours, found[0] as link:
        assert found[1] == "/run/a"
        ours.send(b"START first")
        assert link.recv(100) == b"START first"


def test_it_imports_no_file_of_the_working_directory_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    start._be_primary(NO_LINK, "/run/a")
    assert sys.path == (["the working directory"] if sys.flags.safe_path else []) + ["/lib"]


@pytest.mark.parametrize(("pid", "is_kept"), [(os.getppid(), False), (1 + os.getppid(), True)])
def test_a_watchdog_of_its_parent_is_not_its_own(monkeypatch: pytest.MonkeyPatch, pid: int, is_kept: bool) -> None:
    monkeypatch.setattr(os, "environ", {"WATCHDOG_PID": str(pid), "WATCHDOG_USEC": "1000"})
    start._be_primary(NO_LINK, "/run/a")
    assert ("WATCHDOG_PID" in os.environ) is is_kept
    assert os.environ["WATCHDOG_USEC"] == "1000"


def test_the_program_of_the_keeper_is_a_file_that_can_be_read_as_one() -> None:
    assert Path(start.PROGRAM).name == "keeper.py"
    tree = ast.parse(Path(start.PROGRAM).read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)
