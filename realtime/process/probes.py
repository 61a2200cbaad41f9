"""
The answers to `/livez` and `/readyz`, by which a load balancer or an orchestrator decides about this node.

Runs in the worker. It answers from what it knows already: what the primary said of the server (sticky's `NodeState`),
and what the broker's link reported last. So an answer waits for nothing. While no worker is ready, the primary gives
the answer itself, in the same form (sticky/handoff/probes.py).

| path      | asks                              | 503                                                            |
|-----------|-----------------------------------|----------------------------------------------------------------|
| `/livez`  | shall this node be restarted?     | never from a worker: one that answers is alive                 |
| `/readyz` | shall new clients be sent here?   | the server stops; degraded, if `ready_when_degraded` is off    |

A node whose broker is away is degraded. By default it stays ready: all nodes share a Redis, so its outage would take
every node out of the balancer at once, and clients that are connected would have nowhere to return to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from realtime.transport.probe_paths import LIVE
from sticky.handoff import probes
from sticky.worker.node_state import NodeState

ALIVE: Final = "alive"
READY: Final = "ready"
DEGRADED: Final = "degraded"


class BrokerStatistics(Protocol):
    """What tells how the broker is: the hub."""

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot; `broker` in it has the `link` and what `refuses` writes."""


def readiness(unready: Sequence[str], fault: str | None, *, ready_when_degraded: bool) -> tuple[int, str, list[str]]:
    """
    Decide about a node: return the HTTP status, the word for it, and the reasons.

    Args:
        unready: why the primary wants no new clients.
        fault: what is wrong with the broker, if anything is.
        ready_when_degraded: whether a node with such a fault is ready.
    """
    reasons = [*unready, *([] if fault is None else [fault])]
    if unready or (fault is not None and not ready_when_degraded):
        return 503, probes.UNREADY, reasons
    return 200, READY if fault is None else DEGRADED, reasons


def broker_fault(statistics: dict[str, Any]) -> str | None:
    """Return what is wrong with the broker, by its statistics; None where it is well."""
    if statistics.get("link") != "up":
        return f"the broker is away ({statistics.get('kind', 'unknown')})"
    return "the broker takes no writes" if statistics.get("refuses") else None


class Probes:
    """Answers the probes of one process. Without a node, a process alone, which never is about to stop."""

    def __init__(
        self,
        node: NodeState | None = None,
        broker: BrokerStatistics | None = None,
        *,
        ready_when_degraded: bool = True,
    ) -> None:
        """
        Args:
            node: what the primary says of the server.
            broker: asked at each probe for readiness; None where it cannot be away.
            ready_when_degraded: whether a node without its broker is ready.
        """
        self._node = node or NodeState()
        self._broker = broker
        self._ready_when_degraded = ready_when_degraded

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return HTTP status and body for `/livez` or `/readyz`."""
        if path == LIVE:
            return 200, probes.body(ALIVE, [])
        fault = None if self._broker is None else broker_fault(self._broker.statistics()["broker"])
        status, word, reasons = readiness(self._node.reasons, fault, ready_when_degraded=self._ready_when_degraded)
        return status, probes.body(word, reasons)
