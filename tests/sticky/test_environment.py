"""The real operating system behind the primary's interface: processes that end at once, and their descriptors."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from sticky.handoff.channel import CHANNEL_FD, Channel, ChannelClosed, Received
from sticky.handoff.messages import Ready
from sticky.supervision.environment import OperatingSystem
from tests.support.server import ROOT

SYSTEM = OperatingSystem()
ENV = {"PATH": os.environ.get("PATH", os.defpath)}
WRITES_READY = "import os, sys; os.write(int(sys.argv[1]), b'ready')"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def status_of(pid: int) -> int:
    """Wait for the end of one process. `SYSTEM.reap` would take those of other tests as well."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_worker_finds_its_channel_and_its_end_is_the_end_of_the_channel() -> None:
    before = descriptors()
    code = f"import os, socket; socket.socket(fileno=int(os.environ['{CHANNEL_FD}'])).send(bytes([0x91, 10]))"
    pid, channel = SYSTEM.start_worker([sys.executable, "-c", code], ENV)
    assert isinstance(channel, Channel)
    assert status_of(pid) == 0
    assert channel.receive() == [Received(Ready())]
    with pytest.raises(ChannelClosed):
        channel.receive()
    channel.close()
    assert descriptors() == before


def test_a_sidecar_reports_that_it_serves_by_a_byte() -> None:
    pid, ready = SYSTEM.start_sidecar([sys.executable, "-c", WRITES_READY, "{ready_fd}"], ENV)
    with ready:
        select.select([ready], [], [])
        assert ready.recv(64) == b"ready"
        select.select([ready], [], [])
        assert ready.recv(64) == b"", "and its end is the end of the descriptor"
    assert status_of(pid) == 0


def test_a_program_that_is_not_there_leaves_no_descriptor_behind() -> None:
    before = descriptors()
    for start in (SYSTEM.start_worker, SYSTEM.start_sidecar):
        with pytest.raises(FileNotFoundError):
            start(["no-such-program-at-all"], ENV)
    assert descriptors() == before


def test_a_signal_reaches_a_process_until_it_is_reaped() -> None:
    pid, ready = SYSTEM.start_sidecar(["sleep", "600"], ENV)
    ready.close()
    SYSTEM.send_signal(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        SYSTEM.send_signal(pid, signal.SIGKILL)


def test_a_worker_inherits_its_channel_and_nothing_else() -> None:
    ours, theirs = socket.socketpair()
    pid, channel = SYSTEM.start_worker([sys.executable, "-c", f"import os; os.fstat({theirs.fileno()})"], ENV)
    assert status_of(pid) == 1, "the descriptor is not there"
    for each in (ours, theirs, channel):
        each.close()


REAPING = """
import os, signal
from sticky.supervision.environment import OperatingSystem
system = OperatingSystem()
assert system.reap() is None, "this process has no child"
pid, ready = system.start_sidecar(["sleep", "600"], {"PATH": os.defpath})
assert system.reap() is None, "it has not ended"
system.send_signal(pid, signal.SIGTERM)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
assert system.reap() == (pid, signal.SIGTERM)
assert system.reap() is None
"""


def test_reaping_never_waits_and_takes_each_process_once() -> None:
    subprocess.run([sys.executable, "-c", REAPING], check=True, cwd=ROOT, timeout=60)
