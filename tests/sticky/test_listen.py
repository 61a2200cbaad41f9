"""Where the primary listens: every way to write an address, and what cannot be had."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sticky.accept.listen import InheritedSocket, address_of, bind, bind_all, unlink
from sticky.errors import SettingsError


@pytest.mark.parametrize(
    ("address", "family", "host"),
    [
        ("127.0.0.1:0", socket.AF_INET, "127.0.0.1"),
        ("localhost:0", socket.AF_INET, "127.0.0.1"),
        ("[::1]:0", socket.AF_INET6, "[::1]"),
        (":0", socket.AF_INET6, "[::]"),
    ],
)
def test_an_address_is_bound_and_written_with_its_real_port(address: str, family: int, host: str) -> None:
    try:
        sock = bind(address)
    except SettingsError:
        assert family == socket.AF_INET6, "only IPv6 may be missing on a machine"
        pytest.skip("this machine has no IPv6")
    with sock:
        if sock.family != family:
            pytest.skip("this machine has no IPv6, or its localhost is IPv6")
        written, _, port = address_of(sock).rpartition(":")
        assert written == host
        assert int(port) > 0


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("8000", "is not HOST:PORT"),
        ("127.0.0.1:http", "is not HOST:PORT"),
        ("127.0.0.1:65536", "is not HOST:PORT"),
        ("127.0.0.1:", "is not HOST:PORT"),
        ("no.such.host.invalid:80", "is no address of this machine"),
        ("192.0.2.77:0", "cannot listen on 192.0.2.77:0"),
        ("fd://x", "is not fd://N"),
        ("fd://2", "is not fd://N"),
        ("unix:/no/such/directory/s", "cannot listen on unix:/no/such/directory/s"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(address: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem.replace("[", r"\[")):
        bind(address)


def test_an_address_that_another_process_has_is_refused() -> None:
    with bind("127.0.0.1:0") as first:
        first.listen()
        with pytest.raises(SettingsError, match="another process listens there already"):
            bind(address_of(first))


def test_a_unix_socket_is_a_file_that_unlink_removes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind(f"unix:{path}") as sock:
        assert address_of(sock) == f"unix:{path}"
        assert path.is_socket()
        unlink(sock)
        assert not path.exists()
        unlink(sock)  # a second time is no error


def test_the_file_of_a_killed_process_is_replaced_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(f"unix:{path}").close()  # as when it is killed: the file stays
    with bind(f"unix:{path}") as living:
        living.listen()
        with pytest.raises(SettingsError, match="another process listens there already"):
            bind(f"unix:{path}")
        assert path.exists()


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(SettingsError):
        bind(f"unix:{path}")
    assert path.read_text() == "data"


def test_an_inherited_socket_is_used_and_its_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(path))
    with bind(f"fd://{given.detach()}") as sock:
        assert isinstance(sock, InheritedSocket)
        assert not os.get_inheritable(sock.fileno()), "workers do not get it"
        unlink(sock)
        assert path.exists()


def test_an_inherited_descriptor_that_is_no_listener_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(SettingsError, match="is no stream socket"):
            bind(f"fd://{datagrams.fileno()}")
        os.fstat(datagrams.fileno())  # still its owner's
    with pytest.raises(SettingsError, match="was given no such socket"):
        bind(f"fd://{2**19}")


def test_where_one_of_several_addresses_cannot_be_had_none_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(SettingsError):
        bind_all([f"unix:{path}", "nonsense"])
    assert not path.exists()
    bound = bind_all([f"unix:{path}", "127.0.0.1:0"])
    assert [each.family for each in bound] == [socket.AF_UNIX, socket.AF_INET]
    for each in bound:
        each.close()
