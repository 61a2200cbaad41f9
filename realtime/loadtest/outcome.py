"""
What a run has found: `Live` while it goes on, `Outcome` when it has ended.

Pure: facts, without a clock and without a terminal. What shows them never reads the run itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from realtime.loadtest.errors import Failure
from realtime.loadtest.histogram import Histogram
from realtime.loadtest.ledger import Balance
from realtime.loadtest.plan import Plan


@dataclass(frozen=True, slots=True)
class Live:
    """
    What a progress bar shows.

    Attributes:
        step: "connecting", "publishing" or "settling".
        done, of: clients that are members; or seconds.
        elapsed_s: since the step began.
        failures: by kind, so far.
        per_s, p50_us, p99_us: deliveries, and latencies, since the last tick.
    """

    step: str
    done: float
    of: float
    elapsed_s: float
    failures: dict[str, int]
    per_s: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a run has found.

    Attributes:
        plan: what was asked for.
        members: clients that were in their rooms when publishing began.
        failures: how clients failed, and what the server answered to publications.
        balance: the ledger.
        connect: durations from when a client was due to connect until it was in its room.
        latency: durations from when a publication was due until a client had it; lost ones are in it as missed.
        lateness: how late this process did what it had to do at a time.
        busy: the share of one processor that this process used while it published.
        published_s: how long was published.
        bytes_in, bytes_out: of all connections, on the inside of TLS.
        is_interrupted: it was ended early.
        is_local: the server was reached over the loopback network, from an address for each client.
    """

    plan: Plan
    members: int
    failures: dict[Failure, int]
    balance: Balance
    connect: Histogram
    latency: Histogram
    lateness: Histogram
    busy: float
    published_s: float
    bytes_in: int
    bytes_out: int
    is_interrupted: bool
    is_local: bool

    @property
    def is_clean(self) -> bool:
        """Whether all went as it should: every client joined, stayed, and got every publication once and in order."""
        return self.balance.is_clean and not self.failures and self.balance.published > 0
