"""The parts of the keeper: what it keeps, the lines of its link, what it says, and that no callback ends it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sticky.keeper.directory import ControlDirectory
from sticky.keeper.keeper import Keeper
from sticky.keeper.lines import LinkClosed, receive, send
from sticky.keeper.report import KEEPER_FAILED, Report
from sticky.keeper.store import NAMES_MAX, Store

Pair = tuple[socket.socket, socket.socket]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_line_and_its_descriptor_arrive_together(pair: Pair) -> None:
    read, write = os.pipe()
    assert send(pair[0], "PUT pipe", write)
    os.close(write)
    received = receive(pair[1])
    assert received is not None
    line, fd = received
    assert line == "PUT pipe"
    assert fd is not None
    os.write(fd, b"x")
    assert os.read(read, 1) == b"x"
    os.close(fd)
    os.close(read)
    assert receive(pair[1]) is None, "nothing more has come"


def test_packets_that_are_no_lines_harm_nothing(pair: Pair) -> None:
    before = open_descriptors()
    socket.send_fds(pair[0], [b"PUT two"], [0, 1])
    assert receive(pair[1]) == ("?", None)
    pair[0].send(b"x" * 100_000)
    assert receive(pair[1]) == ("?", None)
    pair[0].send(b"\xff\xfe")
    assert receive(pair[1]) is not None
    assert open_descriptors() == before
    pair[0].close()
    with pytest.raises(LinkClosed):
        receive(pair[1])


def test_a_name_has_one_descriptor_and_a_dropped_one_is_closed() -> None:
    before, store = open_descriptors(), Store()
    for _ in range(3):
        assert store.put("a", os.dup(0))
    assert store.set("a", "text of a")
    assert open_descriptors() == before + 1
    assert [line for line, _ in store.messages()] == ["FACT a text of a", "KEPT a"]
    store.drop("a")
    store.drop("a")
    assert (len(store), store.text("a"), open_descriptors()) == (0, "", before)


def test_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NAMES_MAX > 512 * 3 * 2, "a reload of the most workers there can be"
    monkeypatch.setattr("sticky.keeper.store.NAMES_MAX", 1)
    before, store = open_descriptors(), Store()
    assert store.put("a", os.dup(0))
    assert not store.put("b", os.dup(0))
    assert store.put("a", os.dup(0)), "a name that is there is replaced"
    store.clear()
    assert open_descriptors() == before


def test_a_line_of_the_log_is_json_where_the_others_are(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report("")
    report.as_json = True
    report.log("error", "primary lost", pid=7, reason='a "quoted"\nreason')
    fields = json.loads(capfd.readouterr().err)
    assert fields["message"].startswith("primary lost pid=7 reason=")
    assert (fields["primary_pid"], fields["reason"], fields["pid"]) == (7, 'a "quoted"\nreason', os.getpid())


def test_whatever_a_callback_raises_the_keeper_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keeper = Keeper(["primary"], {}, directory=ControlDirectory(str(tmp_path)), report=Report(""))
    keeper._guard(lambda: int("no number"), on_failed=lambda: [][0])
    said = capfd.readouterr().err
    assert said.count(KEEPER_FAILED) == 2, "its own failure, and that of what should have closed it"
    assert "ValueError" in said
    assert "IndexError" in said


def test_a_file_that_goes_while_the_directory_changes_hands_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").touch()
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: ["processes.new", *real(path)])  # renamed since it was listed
    ControlDirectory(str(tmp_path)).become("0", "0", *map(str, os.getgroups()))
    assert (tmp_path / "kept").exists(), "where this process is no root, nothing changes hands"
