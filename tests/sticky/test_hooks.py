"""Hooks are called in order, and what they raise reaches nothing but the log and a counter."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest

from sticky.loop import log_lines
from sticky.supervision.hooks import ClusterHooks


def test_all_hooks_of_an_event_are_called_in_order_and_an_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    counters: Counter[str] = Counter()

    def fail(fields: dict[str, Any]) -> None:
        calls.append(f"fail {fields}")
        raise RuntimeError("a bug of the application")

    hooks = ClusterHooks(
        {"online": [fail, lambda fields: calls.append(f"second {fields}")], "exit": [fail]}, counters=counters
    )
    with caplog.at_level(logging.ERROR):
        hooks.run("online", {"slot": 3})
        hooks.run("setup", {})
    assert calls == ["fail {'slot': 3}", "second {'slot': 3}"]
    assert counters == {"hooks_failed": 1}
    assert log_lines.HOOK_FAILED in caplog.text
    assert "a bug of the application" in caplog.text


def test_a_hook_that_is_added_later_is_called() -> None:
    given: dict[str, list[Any]] = {}
    calls: list[dict[str, Any]] = []
    hooks = ClusterHooks(given, counters=Counter())
    given["listening"] = [calls.append]
    hooks.run("listening", {"addresses": []})
    assert calls == [{"addresses": []}]


def test_an_event_that_has_no_description_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="does not describe"):
        ClusterHooks({}, counters=Counter()).run("onlien", {})
