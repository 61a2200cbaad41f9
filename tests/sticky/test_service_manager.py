"""What a service manager receives, over its own kind of socket (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sticky.process.service_manager import VARIABLES, ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10.0)
        yield sock


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_each_change_is_one_message(manager: socket.socket) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    service.ready("2 of 2 workers serve")
    assert lines(manager) == ["READY=1", "STATUS=2 of 2 workers serve"]
    service.reloading()
    first, second = lines(manager)
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert int(second.partition("=")[2]) > 0
    service.stopping()
    assert lines(manager) == ["STOPPING=1", "STATUS=stopping"]
    service.alive()
    assert lines(manager) == ["WATCHDOG=1"]


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"sticky-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.settimeout(10.0)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert lines(sock) == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "/no/such/socket", "@no-such-name-at-all"])
def test_without_a_listening_manager_nothing_happens(address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address})
    service.ready("text")
    service.stopping()


def test_its_variables_are_taken_out_so_that_workers_do_not_get_them() -> None:
    environment = {"PATH": "/bin", **dict.fromkeys(VARIABLES, "1")}
    ServiceManager(environment)
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("variables", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_answered_twice_in_its_time_where_it_means_this_process(
    variables: dict[str, str], watchdog_s: float
) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/s", **variables}).watchdog_s == watchdog_s
    assert ServiceManager(dict(variables)).watchdog_s == 0.0, "without a socket there is no watchdog"
