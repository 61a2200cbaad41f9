"""
The keys whose hosted connections stay with this worker while it drains beside its successor.

Used in a worker, on its event loop. Such connections cannot move. A client that has one expects its other requests to
meet the same process, so new hosted requests of its key come here as long as it has a connection here. The primary
learns of these keys, and of their ends (key_report.py). It decides nothing about which connections are hosted.
"""

from __future__ import annotations

from collections.abc import Iterable

from sticky.keys.hashing import Key
from sticky.worker.key_report import KeyReport
from sticky.worker.routes import Routes


class Staying:
    """The keys that stay, from the begin of the drain to its end."""

    def __init__(self, routes: Routes, key_report: KeyReport, *, is_heard: bool) -> None:
        """
        Args:
            is_heard: whether the primary knows the report; that of the release before does not.
        """
        self._routes = routes
        self._key_report = key_report
        self._is_heard = is_heard
        self.is_over = False
        """Whether every further handoff has to go to another worker."""

    def keep(self, keys: Iterable[Key]) -> None:
        """
        Have new connections of these keys come here, except those of `ClusterSettings.own_paths`: each as long as it
        has a live connection here. Call `end` when the drain has ended.
        """
        assert not self.is_over, "a worker drains once"
        if self._is_heard and self._routes.keys.stay(keys):
            self.report()

    def report(self) -> None:
        """Report all keys that stay now: also to a primary that has followed another one."""
        if not self.is_over:
            self._key_report.stay(self._routes)

    def end(self) -> None:
        """Reject what comes from now on: this worker is about to end."""
        self.is_over = True
