"""What a server is found by: bound and kept together, given to the next primary, and removed when the server stops."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sticky.errors import SettingsError
from sticky.process.binding import Binding
from sticky.process.keeper_link import KeeperLink
from sticky.settings import ClusterSettings
from tests.support.keeper_end import KeeperEnd

TCP = "127.0.0.1:0"


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperEnd]:
    (tmp_path / "control").mkdir()
    with KeeperEnd(str(tmp_path / "control")) as keeper:
        yield keeper


def bound(keeper: KeeperLink, *binds: str, **settings: Any) -> Binding:
    binding = Binding(ClusterSettings(binds=binds, **settings), keeper)
    binding.bind()
    return binding


def test_every_listener_is_kept_before_the_keeper_becomes_the_user(keeper: KeeperEnd, tmp_path: Path) -> None:
    pid_file = str(tmp_path / "server.pid")
    binding = bound(keeper.link, TCP, f"unix:{tmp_path}/s", pid_file=pid_file)
    lines = keeper.receive()
    assert lines[:3] == [f"PUT listener:0:{TCP}", f"PUT listener:1:unix:{tmp_path}/s", f"SET pid-file {pid_file}"]
    assert lines[3].startswith("BECOME "), "nothing is bound after that, for a port may need privileges"
    assert Path(pid_file).read_text() == f"{os.getpid()}\n", "the keeper's number: the test made the link"
    assert binding.addresses()[0].startswith("127.0.0.1:")
    binding.close(is_released=False)


def test_a_next_primary_listens_on_the_same_sockets(keeper: KeeperEnd, tmp_path: Path) -> None:
    binds = (TCP, f"unix:{tmp_path}/s")
    first = bound(keeper.link, *binds)
    before = first.addresses()
    first.listeners[0].listen()
    with socket.create_connection(first.listeners[0].getsockname()), keeper.successor() as successor:
        first.close(is_released=True)
        second = bound(successor.link, *binds)
        assert second.addresses() == before, "the same port, though it was chosen by the kernel"
        second.listeners[0].setblocking(False)
        second.listeners[0].accept()[0].close()  # a client that connected before waits in the backlog
        second.close(is_released=False)


def test_an_address_that_the_primary_before_had_not_is_bound_anew(keeper: KeeperEnd, tmp_path: Path) -> None:
    bound(keeper.link, f"unix:{tmp_path}/old").close(is_released=True)
    with keeper.successor() as successor:
        binding = bound(successor.link, f"unix:{tmp_path}/new")
        assert binding.addresses() == [f"unix:{tmp_path}/new"]
        assert successor.link.kept.names("listener:") == [f"listener:0:unix:{tmp_path}/old"], "left to be dropped"
        binding.close(is_released=False)


@pytest.mark.parametrize("is_released", [True, False])
def test_the_files_stay_exactly_where_a_successor_has_them(tmp_path: Path, is_released: bool) -> None:
    pid_file, path = tmp_path / "server.pid", tmp_path / "s"
    binding = bound(KeeperLink(), f"unix:{path}", pid_file=str(pid_file))
    assert pid_file.read_text() == f"{os.getpid()}\n", "without a keeper the primary's own"
    binding.close(is_released=is_released)
    assert (path.exists(), pid_file.exists()) == (is_released, is_released)
    assert binding.addresses() == [], "the listeners are closed in any case"


def test_a_server_that_stops_is_not_found_while_it_drains(keeper: KeeperEnd, tmp_path: Path) -> None:
    path = tmp_path / "s"
    binding = bound(keeper.link, f"unix:{path}")
    keeper.receive()
    binding.unlink()
    assert keeper.receive() == [f"DROP listener:0:unix:{path}"]
    assert not path.exists()
    binding.close(is_released=False)


def test_when_one_address_cannot_be_had_none_is_kept(keeper: KeeperEnd, tmp_path: Path) -> None:
    binding = Binding(ClusterSettings(binds=(f"unix:{tmp_path}/s", "256.0.0.1:0")), keeper.link)
    with pytest.raises(SettingsError, match="bind"):
        binding.bind()
    assert not (tmp_path / "s").exists()
    assert keeper.receive() == []
    assert binding.addresses() == []


def test_a_user_that_does_not_exist_is_refused_before_anything_is_bound(keeper: KeeperEnd, tmp_path: Path) -> None:
    binding = Binding(ClusterSettings(binds=(f"unix:{tmp_path}/s",), user="no such user"), keeper.link)
    with pytest.raises(SettingsError, match="no such user"):
        binding.bind()
    assert not (tmp_path / "s").exists()


def test_a_pid_file_that_cannot_be_written_fails_the_start_and_leaves_the_listeners_to_close(tmp_path: Path) -> None:
    settings = ClusterSettings(binds=(f"unix:{tmp_path}/s",), pid_file=str(tmp_path / "missing" / "pid"))
    binding = Binding(settings, KeeperLink())
    with pytest.raises(SettingsError, match="pid_file"):
        binding.bind()
    binding.close(is_released=False)
    assert not (tmp_path / "s").exists()
