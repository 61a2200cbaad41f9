"""
What a run has found, for a person and for a program.

Pure: an `Outcome` in, a dictionary or something that rich can print out. It also judges: whether the ledger is clean is
decided by the outcome, whether the load client was the limit is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from realtime.loadtest.histogram import Histogram
from realtime.loadtest.outcome import Outcome
from realtime.loadtest.plan import Plan
from realtime.loadtest.plot import BESIDE, NARROW, WIDTH, count, duration, histogram, size

BUSY: Final = 0.85  # of one processor: from here on a single process has no time to spare
# Lateness below 5 ms is noise beside a network. Up to 50 ms it counts only where it is half of the latency: then what
# was measured is mostly this process; above, no latency of the run can be trusted.
LATE_US, VERY_LATE_US = 5_000, 50_000
KINDS_MAX: Final = 8  # kinds of failure that are shown; a server may give each client another reason
FAILED: Final = {
    "reach": ("client", "could not reach the server"),
    "trust": ("client", "did not trust the server's certificate"),
    "secure": ("client", "got no TLS"),
    "handshake": ("client", "got no WebSocket"),
    "connect": ("client", "not admitted"),
    "join": ("client", "not let into the room"),
    "publish": ("publication", "refused"),
    "stay": ("member", "gone"),
}
PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))


def limit(outcome: Outcome) -> str | None:
    """Return how the load client itself was the limit, None when it was not."""
    if not outcome.balance.published:
        return None
    late_us, latency_us = outcome.lateness.percentile_us(0.99), outcome.latency.percentile_us(0.99)
    if outcome.busy >= BUSY:
        how = f"it was busy {min(outcome.busy, 1):.0%} of the time, so what it measured may be its own slowness"
    elif late_us >= LATE_US and (late_us >= VERY_LATE_US or late_us * 2 >= latency_us):
        how = f"its event loop was late by {duration(late_us)} (p99), so that much of the latency may be its own"
    else:
        return None
    return f"the load client itself was the limit: {how}; use fewer --clients, or several machines"


def hint(outcome: Outcome) -> str | None:
    """Return what the numbers do not show, None when there is nothing."""
    if outcome.is_local or not outcome.balance.published:
        return None
    return "all clients have this machine's address: with --sticky ip one worker serves them all"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything in numbers; times are in milliseconds, and null is a time that never came."""
    plan, balance = outcome.plan, outcome.balance
    return {
        "address": str(plan.address),
        "clients": plan.clients,
        "rooms": plan.rooms,
        "rate": plan.rate,
        "seconds": plan.seconds,
        "size": plan.size,
        "members": outcome.members,
        "failures": [
            {"step": each.step, "code": each.code, "reason": each.reason, "count": number}
            for each, number in _most_first(outcome)
        ],
        "connect_ms": _times(outcome.connect),
        "latency_ms": _times(outcome.latency),
        "published": balance.published,
        "refused": balance.refused,
        "expected": balance.expected,
        "delivered": balance.delivered,
        "deliveries_per_s": round(balance.delivered / outcome.published_s, 1),
        "lost": balance.lost,
        "doubled": balance.doubled,
        "reordered": balance.reordered,
        "strange": balance.strange,
        "bytes_in": outcome.bytes_in,
        "bytes_out": outcome.bytes_out,
        "client_busy": round(outcome.busy, 3),
        "client_late_ms": _times(outcome.lateness),
        "client_was_limit": limit(outcome) is not None,
        "interrupted": outcome.is_interrupted,
        "clean": outcome.is_clean,
    }


def _times(durations: Histogram) -> dict[str, float | None]:
    """Return percentiles in milliseconds. JSON has no infinity: null is a time that never came."""
    found = {name: durations.percentile_us(share) for name, share in PERCENTILES} | {"max": durations.worst_us}
    return {name: round(us / 1000, 3) if math.isfinite(us) else None for name, us in found.items()}


def title(plan: Plan) -> Text:
    """Return what is going to be done, in two lines."""
    rooms = f"the room {plan.name_of(0)}" if plan.rooms == 1 else f"{count(plan.rooms)} rooms"
    each = "" if plan.rooms == 1 else " in each"
    load = f"{plan.rate:g} publications a second{each}, {plan.size} B, for {plan.seconds:g} s"
    what = f"{_many(plan.clients, 'client')} in {rooms}; {load}"
    return Text.assemble(("realtime bench", "bold"), f"  {plan.address}\n", (what, "dim"))


def as_text(outcome: Outcome, columns: int) -> RenderableType:
    """Return the tables, the plot and the verdict, for a terminal of so many columns."""
    parts: list[RenderableType] = [_figures(outcome), Text()]
    if outcome.balance.published:
        parts += [_latencies(outcome), Text()]
    if plot := histogram(outcome.latency, width=min(WIDTH, max(NARROW, columns - BESIDE))):
        parts += [*plot, Text()]
    parts += [Text.assemble(("! ", style), sentence) for sentence, style in _remarks(outcome)]
    return Group(*parts, verdict(outcome))


def _figures(outcome: Outcome) -> Table:
    """Return the counts, and mark in red those that should be zero."""
    balance, plan = outcome.balance, outcome.plan
    per_s = balance.delivered / outcome.published_s
    p50, p99 = (duration(outcome.connect.percentile_us(share)) for share in (0.5, 0.99))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("connected", count(outcome.members), f"of {count(plan.clients)}   p50 {p50}   p99 {p99}")
    refused = Text(f"{count(balance.refused)} refused", _bad(balance.refused))
    table.add_row("published", count(balance.published), refused)
    table.add_row("deliveries", count(balance.delivered), f"{count(per_s)} a second")
    faults = Text("  ").join(
        Text(f"{name} {count(number)}", _bad(number))
        for name, number in (("doubled", balance.doubled), ("reordered", balance.reordered))
    )
    table.add_row("lost", Text(count(balance.lost), _bad(balance.lost)), faults)
    table.add_row("bytes", size(outcome.bytes_in), f"received, {size(outcome.bytes_out)} sent")
    return table


def _bad(number: int) -> str:
    return "bold red" if number else ""


def _latencies(outcome: Outcome) -> Table:
    """Return the percentiles. A lost delivery counts as infinite: a run with losses shows ∞ and not a good number."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("latency", style="dim")
    for name in (*(name for name, _ in PERCENTILES), "max"):
        table.add_column(name, justify="right")
    found = [outcome.latency.percentile_us(share) for _, share in PERCENTILES] + [outcome.latency.worst_us]
    table.add_row("since due", *[Text(duration(us), "bold red" if math.isinf(us) else "bold") for us in found])
    return table


def _remarks(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Give the sentences below the tables with their colours: failures first, then doubts about the numbers."""
    for failure, number in _most_first(outcome)[:KINDS_MAX]:
        what, how = FAILED[failure.step]
        yield f"{_many(number, what)} {how}: {failure.kind}", "red"
    if (more := len(outcome.failures) - KINDS_MAX) > 0:
        yield f"and {_many(more, 'other kind')} of failure; --json has them all", "red"
    if outcome.balance.strange:
        yield f"{_many(outcome.balance.strange, 'delivery')} in a room that nothing of the kind was published in", "red"
    if (sentence := limit(outcome)) is not None:
        yield sentence, "yellow"
    if (sentence := hint(outcome)) is not None:
        yield sentence, "dim"


def _most_first(outcome: Outcome) -> list[tuple[Any, int]]:
    """Return the failures, the most frequent first; those alike in number in an order that does not change."""
    return sorted(outcome.failures.items(), key=lambda each: (-each[1], each[0].step, each[0].kind))


def verdict(outcome: Outcome) -> Text:
    """Return in one line whether the ledger is clean."""
    early = "ended early; " if outcome.is_interrupted else ""
    if outcome.is_clean:
        return Text.assemble(
            ("= ", "green"), early, ("clean", "bold green"), ": every client got every publication, in order, once"
        )
    if not outcome.balance.published and not outcome.failures:
        return Text.assemble(("! ", "yellow"), early, "nothing was published")
    return Text.assemble(("! ", "red"), early, ("not clean", "bold red"), f": {_faults(outcome)}")


def _faults(outcome: Outcome) -> str:
    """Name what makes a run not clean. Refused publications have a number of their own, and are no failed clients."""
    balance = outcome.balance
    failed = sum(number for each, number in outcome.failures.items() if each.step != "publish")
    found = (
        (balance.lost, f"{_many(balance.lost, 'delivery')} lost"),
        (balance.doubled, f"{count(balance.doubled)} doubled"),
        (balance.reordered, f"{count(balance.reordered)} reordered"),
        (balance.strange, f"{count(balance.strange)} strange"),
        (balance.refused, f"{_many(balance.refused, 'publication')} refused"),
        (failed, f"{_many(failed, 'client')} failed"),
    )
    return ", ".join(text for number, text in found if number)


def _many(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{count(number)} {what.removesuffix('y') + 'ies' if what.endswith('y') else what + 's'}"
