"""Commands of the control socket: what each has the primary do, and what is answered to requests that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sticky.keys.hashing import Slot
from sticky.process import commands
from sticky.process.control import PendingAnswer


class Recorder:
    """Everything that a command needs of a primary; it notes what was asked of it. Slot 0 is served."""

    def __init__(self) -> None:
        self.done: list[tuple[str, object]] = []
        self.stops = False
        self.on_answer: Callable[[str], None] = lambda text: None

    def statistics(self) -> dict[str, Any]:
        return {"pid": 1}

    def reload(self) -> bool:
        self.done.append(("reload", None))
        return not self.stops

    def scale(self, workers: int) -> None:
        self.done.append(("scale", workers))

    def drain(self, slot: Slot) -> bool:
        self.done.append(("drain", slot))
        return slot == 0

    def inspect(self, slot: Slot, on_answer: Callable[[str], None]) -> bool:
        self.on_answer = on_answer
        return slot == 0

    def stop(self) -> None:
        self.done.append(("stop", None))

    def stop_now(self, status: int) -> None:
        self.done.append(("stop_now", status))


@pytest.mark.parametrize(
    ("request_", "answer", "done"),
    [
        ({"command": "status"}, {"pid": 1}, []),
        ({"command": "reload"}, {"ok": True}, [("reload", None)]),
        ({"command": "scale", "workers": 3}, {"ok": True}, [("scale", 3)]),
        ({"command": "drain", "slot": 0}, {"ok": True}, [("drain", 0)]),
        ({"command": "drain", "slot": 9}, {"error": "slot 9 has no worker that serves"}, [("drain", 9)]),
        ({"command": "inspect", "slot": 9}, {"error": "slot 9 has no worker that serves"}, []),
        ({"command": "stop"}, {"ok": True}, [("stop", None)]),
        ({"command": "stop", "now": True}, {"ok": True}, [("stop_now", 0)]),
    ],
)
def test_what_a_command_does(request_: dict[str, Any], answer: object, done: object) -> None:
    primary = Recorder()
    assert commands.answer(primary, request_) == answer
    assert primary.done == done


def test_a_server_that_stops_is_not_reloaded_and_says_so() -> None:
    primary = Recorder()
    primary.stops = True
    assert commands.answer(primary, {"command": "reload"}) == {"error": "the server stops: it is not reloaded any more"}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "no such command: None"),
        ({"command": "nonsense"}, "no such command: 'nonsense'"),
        ({"command": ["status"]}, "no such command: ['status']"),
        ({"command": "scale"}, "scale needs `workers`, an integer"),
        ({"command": "scale", "workers": "3"}, "scale needs `workers`, an integer"),
        ({"command": "scale", "workers": True}, "scale needs `workers`, an integer"),
        ({"command": "drain", "slot": 0.5}, "drain needs `slot`, an integer"),
        ({"command": "inspect"}, "inspect needs `slot`, an integer"),
    ],
)
def test_a_request_that_is_wrong_changes_nothing(request_: dict[str, Any], error: str) -> None:
    primary = Recorder()
    assert commands.answer(primary, request_) == {"error": error}
    assert primary.done == []


def test_a_long_name_is_cut_in_the_answer() -> None:
    answer = commands.answer(Recorder(), {"command": "x" * 10_000})
    assert isinstance(answer, dict)
    assert len(answer["error"]) < 150


def test_an_inspection_is_answered_later() -> None:
    primary = Recorder()
    answer = commands.answer(primary, {"command": "inspect", "slot": 0})
    assert isinstance(answer, PendingAnswer)
    found: list[dict[str, Any]] = []
    answer.when_resolved(found.append)
    primary.on_answer("3 tasks")
    primary.on_answer("a second answer")
    assert found == [{"text": "3 tasks"}]
