"""How a primary finds its keeper: the link from the environment, the deposit, and the lock against a second one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sticky.errors import SettingsError
from sticky.keeper.directory import ControlDirectory
from sticky.keeper.lines import DIRECTORY, KEEPER_FD, send
from sticky.process import keeper_start
from sticky.process.keeper_start import PREPARE, lock, receive_deposit, socket_from_environment
from sticky.supervision.deposit import Kept

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_the_link_is_taken_out_of_the_environment(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.dup(pair[1].fileno())
    os.set_inheritable(fd, True)
    monkeypatch.setenv(KEEPER_FD, str(fd))
    monkeypatch.setenv(DIRECTORY, "/run/a")
    found = socket_from_environment()
    assert found is not None
    with found[0] as sock:
        assert (sock.fileno(), found[1]) == (fd, "/run/a")
        assert not sock.get_inheritable(), "no worker keeps the keeper's link open"
    assert KEEPER_FD not in os.environ, "no child of this process takes it for its own"
    assert DIRECTORY not in os.environ


@pytest.mark.parametrize("text", [None, "", "three", "-1"])
def test_without_a_number_there_is_no_keeper(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEEPER_FD, raising=False)
    if text is not None:
        monkeypatch.setenv(KEEPER_FD, text)
    assert socket_from_environment() is None


def test_a_number_that_is_no_socket_is_an_error_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null") as file:
        monkeypatch.setenv(KEEPER_FD, str(file.fileno()))
        with pytest.raises(SettingsError, match="the link to the keeper cannot be used"):
            socket_from_environment()


def test_the_deposit_is_all_that_comes_before_the_start(pair: Pair) -> None:
    keeper, primary = pair
    read, write = os.pipe()
    send(keeper, "FACT wanted 4")
    send(keeper, "FACT title two words")
    send(keeper, "KEPT pipe", write)
    send(keeper, "LATER of a later version")
    send(keeper, "START again")
    send(keeper, "SIGNAL SIGHUP")
    os.close(write)
    kept = Kept()
    assert receive_deposit(primary, kept, 10) == "again"
    assert kept.texts == {"wanted": "4", "title": "two words"}
    assert list(kept.fds) == ["pipe"]
    os.write(kept.fds["pipe"], b"x")
    assert os.read(read, 1) == b"x"
    assert primary.recv(100) == b"SIGNAL SIGHUP", "what follows the start is left for the loop"
    os.close(kept.fds["pipe"])
    os.close(read)


def test_a_successor_is_stopped_before_anything_is_kept(pair: Pair) -> None:
    keeper, primary = pair
    send(keeper, "PREPARE")
    send(keeper, "FACT wanted 4")
    kept = Kept()
    assert receive_deposit(primary, kept, 10) == PREPARE
    assert kept.texts == {}, "it waits until its code is loaded"


def test_a_keeper_that_is_gone_ends_the_start(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(SettingsError, match="cannot be used"):
        receive_deposit(pair[1], Kept(), None)


def test_a_keeper_that_sends_nothing_ends_the_start(pair: Pair) -> None:
    with pytest.raises(SettingsError, match="the keeper has sent nothing"):
        receive_deposit(pair[1], Kept(), 0)


def test_a_second_primary_of_a_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_start, "LOCK_S", 0)
    before = len(os.listdir("/proc/self/fd"))
    held = lock(str(tmp_path))
    assert not os.get_inheritable(held), "a worker that lives on must not hold it"
    with pytest.raises(SettingsError, match="another primary holds"):
        lock(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before + 1, "the refused one has left nothing open"
    assert ControlDirectory(str(tmp_path)).primary_lives()
    os.close(held)
    assert not ControlDirectory(str(tmp_path)).primary_lives()
    os.close(lock(str(tmp_path)))
