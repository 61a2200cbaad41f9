"""What each signal asks of the primary: the table at the head of sticky/process/signal_actions.py, line by line."""

from __future__ import annotations

import signal

import pytest

from sticky.process.primary_state import PrimaryState
from sticky.process.signal_actions import SIGNALS, TERMINAL, act


class Asked:
    """A primary that notes what it is asked, and does nothing of it."""

    wanted = 4

    def __init__(self, state: PrimaryState) -> None:
        self.state = state
        self.calls: list[str] = []

    def stop(self) -> None:
        self.calls.append("stop")

    def stop_now(self, status: int) -> None:
        self.calls.append(f"stop now with {status}")

    def reload(self) -> bool:
        self.calls.append("reload")
        return True

    def upgrade(self) -> bool:
        self.calls.append("upgrade")
        return False

    def scale(self, workers: int) -> None:
        self.calls.append(f"scale to {workers}")

    def reopen_logs(self) -> None:
        self.calls.append("reopen logs")


def asked(number: signal.Signals, state: PrimaryState = PrimaryState.SERVING) -> list[str]:
    primary = Asked(state)
    act(primary, number)
    return primary.calls


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (signal.SIGTERM, "stop"),
        (signal.SIGINT, "stop"),
        (signal.SIGQUIT, "stop now with 131"),
        (signal.SIGHUP, "reload"),
        (signal.SIGTTIN, "scale to 5"),
        (signal.SIGTTOU, "scale to 3"),
        (signal.SIGUSR1, "reopen logs"),
        (signal.SIGUSR2, "upgrade"),
    ],
)
def test_each_signal_has_one_action(number: signal.Signals, call: str) -> None:
    assert asked(number) == [call]


@pytest.mark.parametrize("state", [PrimaryState.STARTING, PrimaryState.SERVING, PrimaryState.LAME_DUCK])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_orderly_until_the_drain_has_begun(number: signal.Signals, state: PrimaryState) -> None:
    assert asked(number, state) == ["stop"], "the primary knows whether a lame duck ends or begins with it"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_more_during_the_drain_ends_the_server_at_once(number: signal.Signals, status: int) -> None:
    assert asked(number, PrimaryState.STOPPING) == [f"stop now with {status}"]


def test_the_end_of_a_child_is_left_to_the_primary() -> None:
    assert signal.SIGCHLD in SIGNALS, "it is handled, but by reaping"
    assert asked(signal.SIGCHLD) == []


def test_every_handled_signal_but_that_one_does_something() -> None:
    assert all(asked(number) for number in SIGNALS if number is not signal.SIGCHLD)
    assert set(TERMINAL) < set(SIGNALS), "what a terminal sends is ignored only where the keeper passes it on"
