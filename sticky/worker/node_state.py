"""
What the primary has told this worker of the whole server: whether new clients should come.

Used in a worker, whose answers to a load balancer's probes are made of it. It asks nothing and decides nothing. A
primary of an older version sends nothing of it, and then new clients always should come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NodeState:
    """The server, as its primary described it last."""

    __slots__ = ("is_stopping", "reasons")

    def __init__(self) -> None:
        self.reasons: tuple[str, ...] = ()
        """Why no new client should come; nothing while they should."""
        self.is_stopping = False
        """Whether the whole server ends, or will soon. A worker that only is replaced drains without it."""

    def learn(self, about: Mapping[str, Any]) -> None:
        """
        Note what the primary sent with a READINESS event.

        Raises:
            LookupError, TypeError: it is none.
        """
        self.reasons = tuple(map(str, about["reasons"]))
        self.is_stopping = bool(about["stopping"])
