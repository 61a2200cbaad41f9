"""The keeper's view of a primary: lines in order, silence by the clock, and a kill that never meets another process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from sticky.keeper import primary_process
from sticky.keeper.lines import NO_PRIMARY, receive
from sticky.keeper.primary_process import BOOT_S, SILENT_S, PrimaryProcess

NOW = 1000.0


class Linked:
    """A primary process that is none, and its end of the link."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = PrimaryProcess(os.getpid(), ours, now=NOW)

    def received(self) -> list[str]:
        """Return the lines that have come to the primary. Their descriptors are closed."""
        found = []
        while (each := receive(self.sock)) is not None:
            found.append(each[0])
            if each[1] is not None:
                os.close(each[1])
        return found

    def fill(self) -> int:
        """Send lines until one waits. Return how many were sent."""
        count = 0
        while not self.process.waits:
            self.process.send(f"line {count}")
            count += 1
        return count - 1


@pytest.fixture
def linked() -> Iterator[Linked]:
    linked = Linked()
    yield linked
    linked.process.sock.close()
    linked.sock.close()


def test_lines_that_find_no_room_come_later_and_in_order(linked: Linked) -> None:
    sent = linked.fill()
    linked.process.send("the last")
    assert not linked.process.flush(), "there is no room yet"
    lines = linked.received()
    assert len(lines) == sent
    assert linked.process.flush()
    assert not linked.process.waits
    assert [*lines, *linked.received()] == [*(f"line {each}" for each in range(sent + 1)), "the last"]


def test_the_lines_that_wait_are_bounded(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary_process, "OUTBOX_MAX", 3)
    linked.fill()
    for number in range(10):
        linked.process.send(f"more {number}")
    linked.received()
    linked.process.flush()
    assert linked.received()[1:] == ["more 0", "more 1"], "one that reads nothing is silent as well, and is killed"


def test_a_link_that_has_ended_takes_and_gives_nothing(linked: Linked) -> None:
    linked.fill()
    linked.sock.close()
    assert linked.process.receive() is None
    assert linked.process.is_lost
    assert linked.process.flush(), "what waits is given up"
    assert not linked.process.waits
    linked.process.send("RELEASE")


def test_the_end_of_the_link_is_also_seen_by_sending(linked: Linked) -> None:
    linked.sock.close()
    assert not linked.process.is_lost
    linked.process.send("RELEASE")
    assert linked.process.is_lost


def test_a_boot_may_be_silent_for_longer_than_a_primary_that_has_lived(linked: Linked) -> None:
    process = linked.process
    assert process.silent_s(NOW + BOOT_S) == 0.0
    assert process.silent_s(NOW + BOOT_S + 1) == BOOT_S + 1
    process.alive_at = NOW + 5
    assert process.silent_s(NOW + 5 + SILENT_S) == 0.0
    assert process.silent_s(NOW + 5 + SILENT_S + 1) == SILENT_S + 1, "since its last sign of life"


@pytest.mark.parametrize("has_lived", [True, False])
def test_time_in_which_the_keeper_stood_still_is_no_silence(linked: Linked, has_lived: bool) -> None:
    process = linked.process
    if has_lived:
        process.alive_at = NOW
    late = NOW + BOOT_S + 10
    assert process.silent_s(late) > 0
    process.forgive(BOOT_S)
    assert process.silent_s(late) == 0.0


def test_arguments_name_a_primary_or_none(linked: Linked) -> None:
    assert PrimaryProcess.from_arguments(*NO_PRIMARY, now=NOW) is None
    fd = os.dup(linked.process.sock.fileno())
    os.set_inheritable(fd, True)
    found = PrimaryProcess.from_arguments("4711", str(fd), now=NOW)
    assert found is not None
    assert (found.pid, found.sock.fileno(), found.sock.get_inheritable()) == (4711, fd, False)
    linked.sock.send(b"READY")
    assert found.receive() == ("READY", None)
    found.sock.close()


def test_a_process_that_was_reaped_is_never_signalled(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    linked.process.kill()
    linked.process.is_reaped = True
    linked.process.kill()
    assert killed == [(os.getpid(), signal.SIGKILL)], "its number may be another process's by now"


def test_one_that_is_no_child_is_killed_by_its_pidfd(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []

    def gone(pidfd: int, number: int) -> None:
        killed.append((pidfd, number))
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", gone)
    linked.process.pidfd = 77
    linked.process.kill()
    assert killed == [(77, signal.SIGKILL)], "and one that has ended is no error"
