"""
What a started process inherits: one descriptor, an environment, no signal that is blocked or of the terminal.

The processes are real and end at once: what the kernel hands on is the subject.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from typing import Any

import pytest

from sticky.supervision.spawn import descriptor_of, spawn

REPORT = """
import json, os, signal, sys
fd = int(sys.argv[1])
terminal = [signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)]
blocked = [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
passed = [int(each) for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")]
defaults = [signal.getsignal(each) is signal.SIG_DFL for each in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1)]
os.write(fd, json.dumps([terminal, blocked, dict(os.environ), passed, defaults]).encode())
"""


def started(env: dict[str, str]) -> tuple[list[Any], int]:
    """Start a process. Return what it found, and the number of the descriptor that it got."""
    ours, theirs = socket.socketpair()
    fd = descriptor_of(theirs)
    pid = spawn([sys.executable, "-S", "-c", REPORT, str(fd)], env, fd)
    assert not theirs.get_inheritable(), "no later process gets it"
    theirs.close()
    with ours:
        found = b"".join(iter(lambda: ours.recv(65536), b""))
    assert os.waitpid(pid, 0) == (pid, 0)
    return json.loads(found), fd


def test_a_process_gets_its_descriptor_and_no_other() -> None:
    other = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 200)  # a number that the new process does not use itself
    [_, _, _, passed, _], fd = started({})
    os.close(other)
    assert fd in passed
    assert other not in passed


def test_a_process_gets_the_environment_that_it_was_given_and_no_more() -> None:
    [_, _, env, _, _], _ = started({"GIVEN": "a value"})
    assert env.pop("GIVEN") == "a value"
    assert "PATH" not in env, "this process has one"


def test_a_process_ignores_the_signals_of_the_terminal_and_blocks_none() -> None:
    [terminal, blocked, _, _, defaults], _ = started({})
    assert terminal == [True, True, True]
    assert blocked == []
    assert defaults == [True, True, True]


def test_the_handlers_and_the_mask_of_this_process_are_as_before() -> None:
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.getsignal(each) for each in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    started({})
    assert before == ([signal.getsignal(each) for each in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_a_program_that_is_not_there_is_an_error_and_changes_nothing() -> None:
    ours, theirs = socket.socketpair()
    before = signal.getsignal(signal.SIGINT)
    with ours, theirs:
        with pytest.raises(FileNotFoundError):
            spawn(["/no/such/program"], {}, theirs.fileno())
        assert not theirs.get_inheritable()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_standard_stream_is_never_handed_down_as_a_channel() -> None:
    class Standard(socket.socket):
        def fileno(self) -> int:
            return 1

    with Standard() as end, pytest.raises(AssertionError, match="standard streams"):
        descriptor_of(end)
