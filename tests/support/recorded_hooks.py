"""Hooks of a cluster that only note that they were called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sticky.supervision.hooks import EVENTS, ClusterHooks


def recorded_hooks(calls: list[tuple[str, dict[str, Any]]], counters: dict[str, int]) -> ClusterHooks:
    """Return hooks for all events. Each appends its event and the fields to `calls`."""

    def recorder(event: str) -> Callable[[dict[str, Any]], None]:
        return lambda fields: calls.append((event, fields))

    return ClusterHooks({event: [recorder(event)] for event in EVENTS}, counters=counters)
