"""
Room options are declared once: what `App.room` accepts, says and documents is what `RoomOptions` has.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from realtime import App
from realtime.broker.base import Retention, Room
from realtime.rooms.options import RoomOptions
from realtime.timing.rate import Rate


def test_the_parameters_of_app_room_are_those_of_the_options() -> None:
    options = list(inspect.signature(RoomOptions).parameters.values())
    itself, name, *others = inspect.signature(App.room).parameters.values()
    assert (itself.name, name.name) == ("self", "name")
    assert others == options
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in others)


def test_every_option_is_documented_once_and_for_users() -> None:
    text = inspect.getdoc(App.room) or ""
    for name in inspect.signature(RoomOptions).parameters:
        assert text.count(f"\n    {name}: ") == 1, name
    assert "Raises:" in text


def test_an_option_that_there_is_not_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match="histroy"):
        App().room("r", histroy=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("declared", "attribute", "value"),
    [
        ({"history": 5}, "retention", Retention(5, 300.0)),
        ({"history": 5}, "recover", True),
        ({"history": 5, "recover": False}, "recover", False),
        ({}, "recover", False),
        ({"presence": True}, "join_leave", True),
        ({"presence": True, "join_leave": False}, "join_leave", False),
        ({"conflate": True}, "conflate", ""),
        ({"conflate": "key"}, "conflate", "key"),
        ({}, "conflate", None),
        ({"rate": "5/s"}, "rate", Rate(5, 1.0)),
        ({"history": 5, "for_others": "history"}, "for_others", frozenset({"history"})),
        ({}, "publish", False),
    ],
)
def test_what_is_declared_is_how_the_room_is_kept(declared: dict[str, Any], attribute: str, value: object) -> None:
    app = App()

    @app.room("r", **declared)
    class R: ...

    kept = app.room_options(Room("r"))
    assert kept is not None
    assert getattr(kept, attribute) == value


def test_handlers_are_part_of_how_a_room_is_kept() -> None:
    app = App()

    @app.room("r")
    class R:
        async def on_publish(self, conn: object, data: object) -> object: ...

        async def on_empty(self) -> None: ...

    kept = app.room_options(Room("r"))
    assert kept is not None
    assert (kept.publish, kept.has_leave_hooks, kept.has_empty_hook) == (True, True, True)
    unseen = kept.unseen()
    assert (unseen.publish, unseen.has_leave_hooks, unseen.has_empty_hook) == (True, False, False)
    assert kept.has_leave_hooks, "the declaration itself is not changed"
