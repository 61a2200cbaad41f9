"""
What other workers sent and this release cannot read: it is ignored, counted, and logged once for each kind.

Runs in the worker. During a rolling deploy a newer release may send what this one does not know (formats.py, rule 1).
One line says so; a thousand would say no more. It never raises, and never decides what is readable.
"""

from __future__ import annotations

import logging
from typing import Final

from realtime.log_lines import log

IGNORED: Final = "data of another release ignored"

logger = logging.getLogger("realtime.broker")


class Unreadable:
    """Counts what was ignored by this worker. `count` is for `statistics`."""

    __slots__ = ("_known", "count")

    def __init__(self) -> None:
        self.count = 0
        self._known: set[str] = set()

    def note(self, kind: str, why: object) -> None:
        """
        Note one that was ignored.

        Args:
            kind: what it is, as the line names it. There must be few kinds: each costs a line and an entry.
            why: the reason, of which only the first of each kind is logged.
        """
        self.count += 1
        if kind not in self._known:
            self._known.add(kind)
            log(logger, logging.WARNING, IGNORED, kind=kind, reason=why)
