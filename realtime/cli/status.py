"""
`realtime status`: what runs, and how it is, as a table or as JSON.

Asks the primary over the control socket, once; the primary has the statistics of its workers, and asks none of them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import click

from realtime.cli.options import GroupedCommand, settings_options
from realtime.cli.servers import control_socket
from realtime.settings import resolve
from sticky.process.control import send_request

# What the primary counted that an operator should know of, and the words for it.
TROUBLES = {
    "died": "workers died",
    "hung": "workers hung",
    "boots_failed": "workers failed to start",
    "handed_over_again": "connections were handed to another worker",
    "lost_after_reading": "connections were lost with their worker",
    "gone_before_head": "clients left before their first request was whole",
    "out_of_descriptors": "times out of descriptors",
}
REFUSED = "refused_"
WATCH_S = 1.0


@click.command(cls=GroupedCommand)
@click.option("--json", "as_json", is_flag=True, help="Print everything the primary knows, as JSON.")
@click.option("--watch", is_flag=True, help="Repeat it every second, until Ctrl-C.")
@settings_options(["control", "user"])
def status(as_json: bool, watch: bool, config: str | None, **given: Any) -> None:
    """
    Show the workers of the server that runs here, their clients, and what went wrong.

    \b
    Examples:
      realtime status
      realtime status --json | jq .counters
      realtime status --watch
    """
    path = control_socket(resolve(given, config=config))
    while True:
        answer = send_request(path, {"command": "status"})
        if as_json:
            click.echo(json.dumps(answer, indent=None if watch else 2, sort_keys=True))
        else:
            if watch:
                click.clear()
            show(answer)
        if not watch:
            return
        time.sleep(WATCH_S)


def show(answer: dict[str, Any]) -> None:
    """Print a status as a table."""
    from rich.console import Console  # a page of a terminal is what most commands do not need
    from rich.table import Table

    console = Console(highlight=False)
    where = ", ".join(answer["addresses"]) or "nowhere: it is stopping"
    console.print(f"primary {answer['pid']} listens on {where}", soft_wrap=True)
    if (keeper := answer.get("keeper")) is not None:
        console.print(
            f"keeper {keeper['pid']} has {keeper['resident_bytes'] / 1024**2:.0f} MiB of memory", soft_wrap=True
        )
    if answer.get("unready"):
        console.print(readiness(answer), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("slot", "pid", "state", "up", "connections", "clients", "rooms", "delivered", "broker"):
        table.add_column(name, justify="left" if name in ("state", "broker") else "right")
    for worker in answer["workers"]:
        table.add_row(*_row(worker))
    console.print(table)
    for line in [*older_generations(answer), *troubles(answer)]:
        console.print(line, soft_wrap=True)


def readiness(answer: dict[str, Any]) -> str:
    """Return the line that says why load balancers should send no new clients, and when the drain begins."""
    left_s = answer.get("drains_in_s")
    when = "" if left_s is None else f"; the drain begins in {duration_text(left_s)}"
    return f"/readyz says 503: {', '.join(answer['unready'])}{when}"


def older_generations(answer: dict[str, Any]) -> list[str]:
    """Return what older code still serves after a reload: connections that could not move, a line each generation."""
    newest = answer["reload"].get("generation", 0)  # a primary of the release before says none
    counts: Counter[int] = Counter()
    for worker in answer["workers"]:
        counts[worker.get("generation", newest)] += worker["connections"]
    return [
        f"generation {newest}: {count} {'connection' if count == 1 else 'connections'} of generation {generation}"
        for generation, count in sorted(counts.items())
        if generation < newest and count
    ]


def _row(worker: dict[str, Any]) -> list[str]:
    """Return the cells of a worker. One that is starting has sent no statistics yet: those cells stay empty."""
    found = worker["statistics"]
    hub = found.get("hub", {})
    broker = _broker(worker)
    return [
        str(worker["slot"]),
        str(worker["pid"]),
        worker["state"],
        duration_text(worker["up_s"]),
        str(worker["connections"]),
        str(found.get("clients", "")),
        str(hub.get("rooms", "")),
        str(hub.get("delivered", "")),
        _shown(broker) if "kind" in broker else "",
    ]


def _broker(worker: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker reported of its broker, nothing where it reported nothing yet."""
    found: dict[str, Any] = worker["statistics"].get("hub", {}).get("broker", {})
    return found


def _shown(broker: dict[str, Any]) -> str:
    return f"{broker['kind']}, {broker['link']}{', refuses writes' if broker.get('refuses') else ''}"


def troubles(answer: dict[str, Any]) -> list[str]:
    """Return what went wrong since the start, a line each."""
    counters: dict[str, int] = answer["counters"]
    found = [f"{counters[name]} {what}" for name, what in TROUBLES.items() if counters.get(name)]
    refused = {name.removeprefix(REFUSED): n for name, n in sorted(counters.items()) if name.startswith(REFUSED) and n}
    if refused:
        each = ", ".join(f"{n} for {name}" for name, n in refused.items())
        found.append(f"{sum(refused.values())} connections were refused: {each}")
    found += wrong_credentials(answer["workers"])
    refused_by_broker = max((_broker(each).get("all_refused", 0) for each in answer["workers"]), default=0)
    if refused_by_broker:
        found.append(f"{refused_by_broker} times something was not kept: the local broker was full (--broker-memory)")
    if answer["reload"]["failed"]:
        found.append("the last reload was given up: the new code fails to start (the log has the reason)")
    missing = sorted(set(range(answer["wanted"])) - set(answer["live"]))
    if missing:
        found.append(f"no worker serves slot {', '.join(map(str, missing))} now")
    return found


def wrong_credentials(workers: list[dict[str, Any]]) -> list[str]:
    """Return how many API keys and tokens were wrong, as the live workers counted them."""
    counts: Counter[str] = Counter()
    for worker in workers:
        counts.update(worker["statistics"].get("wrong_credentials", {}))
    if not counts:
        return []
    each = ", ".join(f"{count} for {name}" for name, count in sorted(counts.items()))
    return [f"{counts.total()} credentials were wrong: {each}"]


def duration_text(seconds: float) -> str:
    """Write a length of time in its largest unit: 12s, 5m, 3h, 9d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
