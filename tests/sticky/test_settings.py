"""The settings of a cluster: each value that cannot be used is refused by the name of its field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sticky.errors import NoLiveSlot, NotAWorker, OutOfTurn, SettingsError, StickyError
from sticky.settings import WORKERS_MAX, ClusterSettings


def test_the_defaults_can_be_used() -> None:
    assert ClusterSettings().workers == 1


@pytest.mark.parametrize("workers", [1, WORKERS_MAX])
def test_the_bounds_themselves_can_be_used(workers: int) -> None:
    assert ClusterSettings(workers=workers, heartbeat_s=1.0, hung_s=2.0, connections_per_address=1).workers == workers


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"workers": 0}, "workers: 0 is not from 1 to 512"),
        ({"workers": WORKERS_MAX + 1}, "workers: 513 is not from 1 to 512"),
        ({"binds": ()}, "binds: there is no address to listen on"),
        ({"connections_per_address": 0}, "connections_per_address: no client could connect: it must be at least 1"),
        ({"heartbeat_s": 4.0}, "hung_s: it must be at least twice heartbeat_s, else healthy workers are killed"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        ClusterSettings(**wrong)
    assert str(refused.value) == text


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClusterSettings().workers = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "other", "text"),
    [
        (SettingsError("workers", "too many"), ValueError, "workers: too many"),
        (NoLiveSlot(), LookupError, "no slot is live"),
        (NotAWorker("no channel"), RuntimeError, "not started by a primary: no channel"),
        (OutOfTurn("it is READY twice"), StickyError, "it is READY twice"),
    ],
)
def test_each_error_is_of_one_tree_and_makes_its_sentence(error: Exception, other: type[Exception], text: str) -> None:
    assert isinstance(error, StickyError)
    assert isinstance(error, other)
    assert str(error) == text
