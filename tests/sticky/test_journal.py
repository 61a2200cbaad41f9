"""
What a worker was doing when it crashed: its primary reads it from shared memory, whatever state that is in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sticky.handoff import journal
from sticky.handoff.journal import ADOPTING, ENTRIES, MESSAGE, NO_MARK, SIZE, Journal, in_flight
from tests.support.fake_poller import FakePoller
from tests.support.server import ROOT


@pytest.fixture
def fd() -> Iterator[int]:
    fd = journal.create()
    assert fd is not None
    yield fd
    os.close(fd)


def test_only_what_is_in_flight_is_read_with_the_connections_of_each_key(fd: int) -> None:
    notes = Journal.from_fd(os.dup(fd))
    marks = [notes.open(key) for key in (b"ca", b"cb", b"cb", b"cc", b"")]
    assert in_flight(fd) == {}
    for mark in marks:
        mark.begin()
    for mark in marks[2:4]:
        mark.end()
    assert in_flight(fd) == {b"ca": 1, b"cb": 2}, "of cb one is idle; cc is idle; and one has no key"
    marks[4].rename(b"cd")
    assert in_flight(fd)[b"cd"] == 1


def test_a_connection_is_in_flight_until_nothing_of_it_is(fd: int) -> None:
    mark = Journal.from_fd(os.dup(fd)).open(b"ca")
    mark.begin(ADOPTING)
    mark.begin()
    mark.begin()
    mark.begin(MESSAGE)
    for bit in (ADOPTING, journal.REQUEST):
        mark.end(bit)
        assert in_flight(fd) == {b"ca": 1}
    mark.end(MESSAGE)
    assert in_flight(fd) == {}


def test_an_entry_is_free_when_its_mark_is_deleted(fd: int) -> None:
    notes = Journal.from_fd(os.dup(fd))
    for _ in range(3):
        for number in range(100):
            notes.open(b"c%d" % number).begin()
        assert in_flight(fd) == {}
    assert notes.open(b"cx").at == 0, "and it is taken again"


def test_what_does_not_fit_is_not_seen_and_does_no_harm(fd: int) -> None:
    notes = Journal.from_fd(os.dup(fd))
    marks = [notes.open(b"cx") for _ in range(ENTRIES + 3)]
    assert marks[-1] is NO_MARK
    for mark in marks[-10:]:
        mark.begin()
        mark.rename(b"cy")
    assert in_flight(fd) == {b"cy": 7}, "and three beyond the table"
    assert NO_MARK.key == b""


def test_what_a_request_began_in_tasks_of_its_own_is_in_flight_for_a_moment(fd: int) -> None:
    timers = FakePoller()
    mark = Journal.from_fd(os.dup(fd), timers).open(b"ca")
    mark.begin()
    mark.end_soon()
    timers.run_for(journal.ENDING_S / 2)
    mark.end_soon()  # another request, meanwhile
    timers.run_for(journal.ENDING_S * 0.75)
    assert in_flight(fd) == {b"ca": 1}
    timers.run_for(journal.ENDING_S)
    assert in_flight(fd) == {}
    assert timers.next_due() is None


def test_whatever_a_worker_makes_of_its_file_the_primary_reads_on(fd: int) -> None:
    os.pwrite(fd, os.urandom(SIZE), 0)
    assert sum(in_flight(fd).values()) <= journal.IN_FLIGHT_MAX
    os.pwrite(fd, b"\xff" * SIZE, 0)
    assert in_flight(fd) == {}, "no length is that"
    with pytest.raises(OSError, match="not permitted"):
        os.truncate(fd, 0)
    with open(os.devnull, "rb") as nothing:
        assert in_flight(nothing.fileno()) == {}
    assert in_flight(-1) == {}


def test_a_worker_without_a_journal_file_notes_nothing() -> None:
    for fd in (None, os.open(os.devnull, os.O_RDONLY)):
        mark = Journal.from_fd(fd).open(b"ca")
        mark.begin()
        mark.end()
        assert mark is NO_MARK


FORKS = """
import os, sys
from sticky.handoff.journal import Journal, in_flight
fd = int(sys.argv[1])
mark = Journal.from_fd(os.dup(fd)).open(b"ca")
mark.begin()
if pid := os.fork():
    os.waitpid(pid, 0)
    print(dict(in_flight(fd)))
else:
    mark.end()
    del mark
    os._exit(0)
"""


def test_a_child_of_a_worker_changes_nothing(fd: int) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", FORKS, str(fd)], pass_fds=[fd], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert asked.stdout == "{b'ca': 1}\n"
