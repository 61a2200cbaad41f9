"""
The hooks of a cluster: what the application's side of the primary has called at each event (see `Cluster`).

Runs in the primary, on its loop: a hook that blocks keeps every client waiting. What a hook raises is logged and
counted here, and never reaches the code that has something to report. Nothing here decides when an event occurs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sticky.loop import log_lines
from sticky.loop.log_lines import log

EVENTS: Final = (
    "setup",
    "listening",
    "reopen_logs",
    "message",
    "fork",
    "online",
    "disconnect",
    "exit",
)
"""As `Cluster` describes them; the last four are a worker's."""


class ClusterHooks:
    """Calls the hooks of each event, in the order in which they were given."""

    def __init__(
        self, hooks: Mapping[str, Sequence[Callable[[dict[str, Any]], object]]], *, counters: dict[str, int]
    ) -> None:
        """
        Args:
            hooks: by event. More may be added to it while the primary runs.
        """
        self._hooks = hooks
        self._counters = counters

    def run(self, event: str, fields: dict[str, Any]) -> None:
        """Call every hook of an event. All of them are called, and none of their errors is raised here."""
        assert event in EVENTS, "an event that Cluster does not describe has no hooks"
        for hook in self._hooks.get(event, ()):
            try:
                hook(fields)
            except Exception:  # noqa: BLE001 - logged with its traceback
                self._counters["hooks_failed"] += 1
                log(logging.ERROR, log_lines.HOOK_FAILED, hook=event, exc_info=True)
