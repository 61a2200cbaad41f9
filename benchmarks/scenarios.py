"""
What is measured, one function for each scenario of the bench: what clients do, and what a unit of work is.

Runs in the bench's process. A scenario is given a contestant that serves and returns one `Run`. It reads processor
clocks right before and right after its window, and ends with the ledger. It compares nothing; `targets` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from benchmarks.contestants import Contestant
from benchmarks.cpu import Groups, Meter, memory_bytes, parent
from benchmarks.errors import RunFailed
from benchmarks.load import Dialect, Load, Report, faults
from benchmarks.machine import Noise, Surroundings
from benchmarks.replacement import Watcher, rates_us
from benchmarks.servers import Ours, Running, SelfDriven, WithRedis

WORKERS: Final = 4  # of S4
THINK_S: Final = 0.02  # of S6: a round trip within a continent
RELOAD_S: Final = 120  # for a reload under load, on a slow machine; the load ends with the reload
SILENCE_S: Final = 5.0  # when nothing comes for so long, the rest never will: a slow server goes on delivering
SERVING: Final = ("primary", "keeper", "workers", "source", "target")  # the broker is told apart


@dataclass(frozen=True, slots=True)
class Run:
    """
    One run of one scenario by one contestant.

    Attributes:
        units: how many units of work the window held.
        cpu_us: microseconds of processor time per unit, by what processes do.
        values: what else was measured, by name.
        curves: delays as pairs of a percentile and microseconds, None where that many never came.
        faults: what makes it a failed run.
        report: what the load client told at the end.
        command: how the contestant was started.
    """

    scenario: str
    contestant: str
    round: int
    units: int
    cpu_us: dict[str, float]
    values: dict[str, float | None]
    curves: dict[str, list[tuple[float, float | None]]]
    faults: list[str]
    noise: Noise
    is_noisy: bool
    report: Report = field(default_factory=dict)
    command: str = ""

    @property
    def serving_us(self) -> float:
        """Of primary and workers, without the broker."""
        return sum(self.cpu_us.get(name, 0.0) for name in SERVING)

    @property
    def all_us(self) -> float:
        return sum(self.cpu_us.values())

    def raw(self) -> dict[str, Any]:
        """Return all of it as plain data; what the curves say is not said twice."""
        report = {name: value for name, value in self.report.items() if not isinstance(value, dict)}
        return {**asdict(self), "report": report}

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Run:
        """Return the run that `raw` was made of."""
        curves = {name: [(share, us) for share, us in curve] for name, curve in raw["curves"].items()}
        return cls(**{**raw, "curves": curves, "noise": Noise(**raw["noise"])})


Watch = Callable[[Groups], AbstractContextManager[None]]


def _look_away(groups: Groups) -> AbstractContextManager[None]:
    return nullcontext()


class Window:
    """
    The measured time of one run: begun before the load, `end`ed right after it.

    Attributes:
        watch: looks closer at the processes meanwhile, where that is asked for; of all windows.
    """

    watch: ClassVar[Watch] = _look_away

    def __init__(self, server: Running, load: Load | None = None, *, groups: Groups | None = None) -> None:
        groups = server.groups() if groups is None else groups
        self._watching = ExitStack()
        self._watching.enter_context(type(self).watch(groups))
        self._load = load
        self._load_before = load.used_s() if load else 0.0
        self._surroundings = Surroundings()
        self._meter = Meter(groups)

    def end(self, used_us: Mapping[str, float] | None = None) -> None:
        """
        End the window.

        Args:
            used_us: what each group has used, where the caller has read its clocks: processes that end have none then.
        """
        self.used_us = self._meter.used_us() if used_us is None else dict(used_us)
        self._watching.close()
        load_s = self._load.used_s() - self._load_before if self._load else 0.0
        self.noise = self._surroundings.noise(sum(self.used_us.values()) / 1e6 + load_s)

    def run(self, report: Report, units: int, wrong: list[str], **values: float | None) -> dict[str, Any]:
        """Return what a `Run` is made of."""
        curves = {
            name: report[name]["percentiles"]
            for name in ("latency", "replay", "back", "late", "connect")
            if report.get(name, {}).get("count")
        }
        return {
            "units": units,
            "cpu_us": {name: used / max(units, 1) for name, used in self.used_us.items()},
            "values": values,
            "curves": curves,
            "faults": wrong,
            "noise": self.noise,
            "is_noisy": self.noise.is_noisy,
            "report": report,
        }


Facts = dict[str, Any]
Measure = Callable[[Contestant, Running, bool], Facts]


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One thing that is measured.

    Attributes:
        unit: what the processor time is divided by.
        contestants: their names, ours first; who is absent is left out and told.
        measure: does it.
        note: what a reader of its numbers has to know, in Markdown's code marks at most.
    """

    name: str
    title: str
    unit: str
    contestants: tuple[str, ...]
    measure: Measure
    note: str = ""


def _opened(load: Load, count: int, *, rooms: int = 1, at_once: int = 64) -> None:
    """Have clients connect and join; raise where they cannot."""
    report = load("open", count=count, rooms=rooms, at_once=at_once, patience=60)
    if report["done"] != count:
        raise RunFailed(f"{report['done']} clients of {count} got in: {report['first_error']}")


def _published(
    server: Running,
    dialect: Dialect,
    *,
    members: int,
    rooms: int = 1,
    warm: int = 40,
    check: Callable[[Running], None] = lambda server: None,
    **how: float | str,
) -> Facts:
    """Open clients, `check`, publish to warm up, then publish in a window; the unit is a delivery."""
    with Load(dialect, server.port) as load:
        _opened(load, members, rooms=rooms)
        check(server)
        cold = load("publish", **{"patience": SILENCE_S, **how, "count": warm})
        if wrong := faults(cold, ready=members):
            raise RunFailed("; ".join(wrong))
        window = Window(server, load)
        report = load("publish", **{"patience": SILENCE_S, **how})
        window.end()
        wrong = faults(report, ready=members)
        values = {
            "load_cpu_s": report["load_cpu_s"],
            "reads_per_delivery": report["reads"] / max(report["delivered"], 1),
            "publications": float(how["count"]),
        }
        return window.run(report, report["latency"]["count"], wrong, **values)


def broadcast(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S1: publications of 128 bytes at a steady rate into one room."""
    count, members, warm = (20, 200, 5) if quick else (200, 1000, 40)
    return _published(server, contestant.dialects["room"], members=members, count=count, rate=20, size=128, warm=warm)


def burst(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S2: sixteen publications in one turn, twice a second."""
    count, members, warm = (32, 200, 16) if quick else (320, 1000, 64)
    return _published(
        server, contestant.dialects["room"], members=members, count=count, rate=2, burst=16, size=128, warm=warm
    )


def many_rooms(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S3: a thousand rooms of ten; publications go to rooms by Zipf's law."""
    rooms, count = (50, 500) if quick else (1000, 5000)
    return _published(
        server,
        contestant.dialects["room"],
        members=rooms * 10,
        rooms=rooms,
        count=count,
        rate=500,
        size=128,
        pick="zipf",
        skew=1.0,
        seed=1,
        warm=200,
    )


def across(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """
    S4: one room with one member on each of four workers, one publication at a time; the unit is a publication and
    subscribed worker. What clients cost (a command read and answered, a delivery for each worker) is in it.
    """
    return _across(contestant, server, 240 if quick else 3000, 300, 1)


def across_in_bursts(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S4 as a busy server has it: sixteen publications are due at once, twenty times a second."""
    return _across(contestant, server, 320 if quick else 3200, 20, 16)


def _across(contestant: Contestant, server: Running, count: int, rate: int, burst: int) -> Facts:
    if isinstance(server, WithRedis) and isinstance(server.inner, SelfDriven):
        return _by_itself(server, server.inner, f"{count} {rate} {burst}", count, 4 if "4" in contestant.name else 1)
    return _published(
        server,
        contestant.dialects["room"],
        members=WORKERS,
        count=count,
        rate=rate,
        burst=burst,
        size=128,
        warm=160,
        check=_one_on_each,
    )


def _one_on_each(server: Running) -> None:
    """Raise unless each of our workers has one member: what a hop costs is told per subscribed worker."""
    inner = server.inner if isinstance(server, WithRedis) else server
    if isinstance(inner, Ours):
        counts = [each["connections"] for each in inner.ask("status")["workers"]]
        if counts != [1] * WORKERS:
            raise RunFailed(f"the workers have {counts} clients, where each has to have one")


def _by_itself(server: WithRedis, program: SelfDriven, line: str, count: int, listeners: int) -> Facts:
    window = Window(server)
    answer = program.run(line)
    window.end()
    units = count * listeners
    wrong = [] if answer["heard"] == units else [f"{answer['heard']} of {units} heard"]
    facts = window.run({}, units, wrong, publications=count)
    facts["curves"] = {"latency": [(50.0, answer["p50"]), (99.0, answer["p99"])]}
    return facts


def request_reply(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S5: calls that are answered with what they brought; the unit is a request."""
    return _echo(contestant, server, quick, 2000)


def _echo(contestant: Contestant, server: Running, quick: bool, rate: float, *, kind: str = "echo") -> Facts:
    clients = 100
    warm, count = (500, 1000) if quick else (4000, 10_000)
    return _published(
        server, contestant.dialects[kind], members=clients, rooms=clients, count=count, rate=rate, size=128, warm=warm
    )


def storm(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """
    S6: clients that connect, join and go away, 256 at a time; the unit is one of them. Each thinks for `THINK_S` before
    it says something. Where the primary is Node's, what a client says sooner may be lost: it reads on for some
    milliseconds from a connection that it has given away, and drops what it reads.
    """
    count = 300 if quick else 5000
    dialect = contestant.dialects["room"]
    with Load(dialect, server.port) as load:
        load("storm", count=256 if quick else 512, at_once=256, patience=60, think=THINK_S)
    with Load(dialect, server.port) as load:
        window = Window(server, load)
        report = load("storm", count=count, at_once=256, patience=60, think=THINK_S)
        window.end()
    wrong = faults(report, ready=0)
    if report["done"] != count:
        wrong.append(f"{report['done']} connections of {count}")
    return window.run(report, count, wrong, per_second=count / report["seconds"])


def idle_memory(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S7: user space per idle connection in one room with presence, as the slope between two counts."""
    low, high = (200, 600) if quick else (1000, 4000)
    pids = [pid for group in server.groups().values() for pid in group]  # what the broker keeps is part of it
    with Load(contestant.dialects["seen"], server.port) as load:
        _opened(load, low, rooms=high // 10)
        before = _settled(pids)
        window = Window(server, load)
        _opened(load, high - low, rooms=high // 10)
        window.end()
        after = _settled(pids)
        report = load("report")
    wrong = faults(report, ready=high)
    values: dict[str, float | None] = {
        f"{name}_bytes": (after[name] - before[name]) / (high - low) for name in ("uss", "pss")
    }
    return window.run(report, high - low, wrong, **values)


def _settled(pids: list[int]) -> dict[str, int]:
    """Return the memory once it has stopped to change, or after three seconds."""
    before = memory_bytes(pids)
    for _ in range(6):
        time.sleep(0.5)
        now = memory_bytes(pids)
        if abs(now["uss"] - before["uss"]) < 64 * 1024:
            break
        before = now
    return now


def reload_under_load(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """
    S8: every worker is replaced while a room is published to. The clients move to the new workers, and none has to
    return; without moves all do, by themselves.
    """
    members = 100 if quick else 500
    assert isinstance(server, Ours)
    with Load(contestant.dialects["kept"], server.port, reconnect_ms=200) as load:
        _opened(load, members)
        before = set(server.groups()["workers"])
        window = Window(server, load, groups={})  # processor clocks of processes that end tell nothing
        load.begin("publish", {"count": 20 * RELOAD_S, "rate": 20, "size": 128, "patience": 30})
        time.sleep(1)
        server.ask("reload")
        _wait_until_ended(server, before)
        time.sleep(0 if quick else 5)  # the new workers serve
        load.stop()
        report = load.finish()
        window.end()
    wrong = faults(report, ready=members) + _wrong_returns(server, report, members)
    return window.run(report, report["latency"]["count"], wrong, **_shares(report))


def _wait_until_ended(server: Ours, workers: Collection[int]) -> None:
    """Wait until workers have been replaced, and have ended."""
    give_up_at = time.monotonic() + RELOAD_S - 10
    while not set(workers).isdisjoint(server.groups()["workers"]):
        if time.monotonic() > give_up_at:
            raise RunFailed("a worker was not replaced while the load ran")
        time.sleep(0.25)


def _wrong_returns(server: Ours, report: Report, members: int) -> list[str]:
    """Say where clients had to return though they should have moved, or did not return though they could not move."""
    if server.moves is None:
        return []
    if server.moves:
        return [f"{report['cuts']} clients of {members} were closed, and did not move"] if report["cuts"] else []
    return [] if report["returns"] >= members else [f"only {report['returns']} clients of {members} returned"]


def move(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """
    S13: the one worker is replaced while its clients are nearly idle in twenty rooms; the unit is one of them.

    They move to the new worker, or come back by themselves and recover where the server does not move them. What is
    counted stands in `replacement`. Each room gets a publication twice a second, which shows how long a client had to
    wait at most.
    """
    members, rate, idle_s = 100 if quick else 1000, 40, 2.0
    assert isinstance(server, Ours)
    groups = server.groups()
    pids = {"source": groups["workers"][0], **dict(zip(("primary", "keeper"), groups["primary"], strict=False))}
    if groups["broker"]:
        [pids["broker"]] = groups["broker"]
    with (
        Watcher(pids, parent=parent(pids["source"]), connections=members) as watcher,
        Load(contestant.dialects["kept"], server.port, reconnect_ms=200) as load,
    ):
        _settled([pids["source"]])
        empty = watcher.sample().of["source"].own
        _opened(load, members, rooms=20)
        _settled([pids["source"]])
        window = Window(server, load, groups={})
        load.begin("publish", {"count": rate * RELOAD_S, "rate": rate, "size": 128, "patience": 30})
        time.sleep(0.5)  # the first publications find cold caches
        before = watcher.sample()
        time.sleep(idle_s)
        after = watcher.sample()
        replacement = watcher.watch(lambda: server.ask("reload"), patience_s=RELOAD_S - 10)
        window.end(replacement.used_us())
        load.stop()
        report = load.finish()
        _wait_until_ended(server, [pids["source"]])
    wrong = faults(report, ready=members) + _wrong_returns(server, report, members)
    worst = dict(report["worst"]["percentiles"])
    connection_memory, worker_memory = replacement.memory(empty)
    values = {
        "wait_p50_ms": worst[50] / 1000,
        "wait_p99_ms": worst[99] / 1000,
        "wait_max_ms": worst[100] / 1000,
        "connection_memory": connection_memory,
        "worker_memory": worker_memory,
        "seconds": replacement.seconds,
        "samples": len(replacement.samples),
    }
    facts = window.run(report, members, wrong, **_shares(report), **values)
    facts["cpu_us"] = {name: us / members for name, us in replacement.cost_us(rates_us(before, after)).items()}
    return facts


def come_and_go(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S9: clients that are cut each 15 s and are 2 s away, while a room is published to."""
    members, seconds = (50, 3) if quick else (500, 45)
    cut_every, away = (1.5, 0.3) if quick else (15.0, 2.0)
    with Load(contestant.dialects["kept"], server.port, reconnect_ms=200) as load:
        _opened(load, members)
        window = Window(server, load)
        patience = SILENCE_S + away if contestant.recovers else 1 + away
        report = load(
            "publish", count=10 * seconds, rate=10, size=128, patience=patience, cut_every=cut_every, away=away
        )
        window.end()
    wrong = faults(report, ready=members, may_lose=not contestant.recovers)
    return window.run(report, max(report["delivered"], 1), wrong, **_shares(report))


def _shares(report: Report) -> dict[str, float | None]:
    return {
        "delivered_share": report["delivered"] / max(report["expected"], 1),
        "doubled": report["doubled"],
        "returns": report["returns"],
        "refused": report["refused"],
    }


def presence_storm(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S10: a thousand clients join one room whose members are told; the unit is a member."""
    count = 150 if quick else 1000
    with Load(contestant.dialects["seen"], server.port) as load:
        _opened(load, 1)
        window = Window(server, load)
        _opened(load, count - 1)
        report = _quiet(load)
        window.end()
    per_member = {f"{name}_per_member": report[name] / count for name in ("messages", "frames", "bytes")}
    return window.run(report, count, faults(report, ready=count), **per_member)


def _quiet(load: Load) -> Report:
    """Wait until nothing more comes for a while."""
    report = load("report")
    for _ in range(60):
        time.sleep(0.5)
        now = load("report")
        if now["messages"] == report["messages"]:
            break
        report = now
    return now


def compressed(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """
    S11: publications of some 1,150 bytes, compressed, at a steady rate that all keep up with into one room.

    A list of things in JSON: the same fields in each, other values. Above 1,024 bytes, from which on `ws` and Socket.IO
    compress where no context is taken over.
    """
    count, members, warm, rate = (20, 200, 5, 20) if quick else (100, 1000, 20, 5)
    facts = _published(
        server, contestant.dialects["room"], members=members, count=count, rate=rate, size=1152, items=1, warm=warm
    )
    report = facts["report"]
    if report["inflated"] < report["delivered"]:
        facts["faults"].append(f"{report['inflated']} compressed messages for {report['delivered']} deliveries")
    facts["values"]["bytes_per_delivery"] = report["bytes"] / max(report["delivered"], 1)
    return facts


def http(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S12: HTTP requests that a hosted application answers, at a steady rate; the unit is a request."""
    return _echo(contestant, server, quick, 1000, kind="http")


def http_flat_out(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S12: the same as fast as answers come, a request at a time on each of 100 connections."""
    facts = _echo(contestant, server, quick, 0, kind="http")
    facts["values"]["per_second"] = facts["units"] / facts["report"]["seconds"]
    return facts


def hosted_echo(contestant: Contestant, server: Running, quick: bool) -> Facts:
    """S12: a hosted application's WebSocket gives back what it gets; the unit is a message."""
    return _echo(contestant, server, quick, 2000)


PEERS_OF_ROOMS: Final = (
    "floor",
    "websockets (uvloop)",
    "websockets (asyncio)",
    "picows",
    "ws",
    "Socket.IO",
    "python-socketio",
    "Django Channels",
    "Centrifugo",
)
FAST_PEERS: Final = PEERS_OF_ROOMS[:6]
HOSTS: Final = (
    "realtime hosting",
    "uvicorn",
    "realtime hosting, 2 workers",
    "uvicorn, 2 workers",
    "gunicorn, 2 workers",
)
BY_BROKERS: Final = (
    "realtime, local broker",
    "realtime, Redis",
    "redis-py, 1 listener",
    "redis-py, 4 listeners",
    "Socket.IO, sticky cluster of 4",
    "Socket.IO, sticky cluster of 4, Redis",
)

RELOAD_NOTE: Final = """Both workers are replaced by `reload` while 500 clients of one room get 20 publications a
second. The clients move to the new workers with their TCP connections, and a run in which one has to return fails.
Without moves (`--migrate off`) each is closed and comes back by itself; it gets what it missed."""

MOVE_NOTE: Final = """A `reload` replaces one worker while 1,000 clients are in 20 rooms, with two publications
a second each. The clients move to the new worker with their TCP connections; a run in which one has to return fails.
Without moves (`--migrate off`) each is closed, comes back within 0.2 s and recovers.

Processor time is that of the old worker (source), the new one (target), primary, keeper and broker, from just before
the first connection leaves until all are with the new worker. What the publications alone cost in this time is
subtracted. Starting and ending a worker is not in it. The wait is the longest delay of a publication that a client saw
in the whole run: that of the 99th client of 100, and the longest of all. Memory is the most that both workers held at
once, as a ratio to the old worker before. For connections, what each worker holds without any is subtracted."""

SCENARIOS: Final = {
    each.name: each
    for each in (
        Scenario(
            "S1", "broadcast to 1,000 members, 128 B, 20 a second", "delivery", ("realtime", *PEERS_OF_ROOMS), broadcast
        ),
        Scenario(
            "S2",
            "bursts of 16 to 1,000 members",
            "delivery",
            ("realtime", "realtime, server publishes", *FAST_PEERS, "Centrifugo"),
            burst,
        ),
        Scenario(
            "S3",
            "1,000 rooms of 10, Zipf",
            "delivery",
            ("realtime", "floor", "ws", "Socket.IO", "Centrifugo"),
            many_rooms,
        ),
        Scenario("S4", "across four workers", "publication and subscribed worker", BY_BROKERS, across),
        Scenario(
            "S4-bursts",
            "across four workers, sixteen at once",
            "publication and subscribed worker",
            (
                *BY_BROKERS[:2],
                "realtime, server publishes, local broker",
                "realtime, server publishes, Redis",
                *BY_BROKERS[2:],
            ),
            across_in_bursts,
        ),
        Scenario("S5", "request and reply", "request", ("realtime", *FAST_PEERS, "python-socketio"), request_reply),
        Scenario(
            "S6",
            "connect storm through the primary",
            "connection",
            (
                "realtime, 2 workers",
                "Socket.IO, sticky cluster of 2",
                "floor",
                "websockets (uvloop)",
                "ws",
                "Socket.IO",
                "Centrifugo",
            ),
            storm,
        ),
        Scenario(
            "S7",
            "memory per idle connection",
            "connection",
            ("realtime", *PEERS_OF_ROOMS),
            idle_memory,
        ),
        Scenario(
            "S8",
            "reload under load",
            "delivery",
            ("realtime, 2 workers", "realtime, 2 workers, without moves"),
            reload_under_load,
            RELOAD_NOTE,
        ),
        Scenario(
            "S9",
            "clients that come and go",
            "delivery",
            ("realtime, 2 workers", "Centrifugo", "Socket.IO", "websockets (uvloop)"),
            come_and_go,
        ),
        Scenario(
            "S10",
            "a thousand join one room with presence",
            "member",
            ("realtime", "Centrifugo", "Socket.IO"),
            presence_storm,
        ),
        Scenario(
            "S11",
            "broadcast to 1,000 members, 1,150 B compressed, 5 a second",
            "delivery",
            ("realtime, compressed", "websockets (uvloop), compressed", "ws, compressed", "Socket.IO, compressed"),
            compressed,
        ),
        Scenario("S12-http", "HTTP requests of a hosted application", "request", HOSTS, http),
        Scenario("S12-flat-out", "HTTP requests as fast as they are answered", "request", HOSTS, http_flat_out),
        Scenario("S12-echo", "WebSocket echo of a hosted application", "message", HOSTS, hosted_echo),
        Scenario(
            "S13",
            "1,000 clients at the reload of their worker",
            "connection",
            ("realtime", "realtime, without moves"),
            move,
            MOVE_NOTE,
        ),
    )
}


def families(name: str) -> list[str]:
    """Return the scenarios that a name on the command line means: `S12` is three."""
    wanted = name.lower()
    return [each for each in SCENARIOS if each.lower() == wanted or each.lower().startswith(f"{wanted}-")]
