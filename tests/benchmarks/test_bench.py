"""
The bench itself: a tiny S1 through the real harness, with real processes and the load client in C.

Nothing here asserts a time or a rate. What is asserted is that the ledger is kept: clean for servers that deliver, and
a failed run for one that does not, however fast it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compile as compiling
from benchmarks import contestants
from benchmarks.compile import program
from benchmarks.contestants import CONTESTANTS, PLAIN_SPEAKS, Contestant
from benchmarks.errors import Absent
from benchmarks.load import Load, faults
from benchmarks.rounds import Turn, run
from benchmarks.scenarios import SCENARIOS, Run
from benchmarks.servers import Ours, Running, Server

pytestmark = pytest.mark.compiler


def _measured(contestant: Contestant, scenario: str = "S1") -> Run:
    return run(Turn(SCENARIOS[scenario], contestant, 0), quick=True)


def _floor_with(*dirt: str) -> Contestant:
    def start(directory: Path) -> Server:
        return Server([str(program("floor")), *dirt], directory)

    return Contestant("floor with dirt", start, lambda: None, PLAIN_SPEAKS)


@pytest.mark.parametrize("name", ["realtime", "floor"])
def test_who_delivers_everything_has_a_clean_ledger(name: str) -> None:
    measured = _measured(CONTESTANTS[name])
    assert measured.faults == []
    report = measured.report
    assert report["delivered"] == report["expected"] > 0
    assert measured.units == report["latency"]["count"] > 0
    assert measured.cpu_us["workers"] > 0
    assert [share for share, us in measured.curves["latency"] if us is None] == []
    worst = report["worst"]  # of each client one delay
    assert (worst["count"], worst["percentiles"][-1]) == (report["ready"], report["latency"]["percentiles"][-1])


@pytest.mark.parametrize(
    ("dirt", "told"), [("--drop", "(lost|undelivered)"), ("--double", "doubled")], ids=["drop", "double"]
)
def test_a_dirty_ledger_is_a_failed_run(dirt: str, told: str) -> None:
    measured = _measured(_floor_with(dirt, "10"))
    assert re.search(rf"\b[1-9]\d* {told}\b", measured.faults[0])


def test_a_load_that_is_stopped_ends_as_one_that_is_over(tmp_path: Path) -> None:
    count = 1_000_000
    with _floor_with().start(tmp_path) as server, Load(PLAIN_SPEAKS["room"], server.port) as load:
        load("open", count=10)
        load.begin("publish", {"count": count, "rate": 50})
        load.stop()
        report = load.finish()
        assert faults(report, ready=10) == []
        assert report["delivered"] == report["expected"] < 10 * count
        load.stop()  # nothing is under way
        assert load("publish", count=1, rate=50)["published"] == report["published"] + 1


def _compressed() -> Contestant:
    contestant = CONTESTANTS["realtime, compressed"]
    if why := contestant.absent():
        pytest.skip(why)
    return contestant


def test_what_is_compressed_is_inflated_and_counted() -> None:
    measured = _measured(_compressed(), "S11")
    assert measured.faults == []
    report = measured.report
    assert report["inflated"] >= report["delivered"] == report["expected"] > 0  # and answers to who connects
    per_delivery = measured.values["bytes_per_delivery"]
    assert per_delivery is not None
    assert per_delivery < 1152 / 2


def test_a_server_that_does_not_compress_is_a_failed_run_where_that_is_measured() -> None:
    plain = replace(_compressed(), start=CONTESTANTS["realtime"].start)
    assert _measured(plain, "S11").faults == ["0 compressed messages for 5000 deliveries"]


def test_without_zlib_compression_alone_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> tuple[str, ...]:
        raise Absent("zlib.h", "install it")

    monkeypatch.setattr(compiling, "zlib_flags", nothing)
    monkeypatch.setattr(contestants, "zlib_flags", nothing)
    absent = {name: CONTESTANTS[name].absent() for name in SCENARIOS["S11"].contestants}
    assert set(absent.values()) == {"zlib.h is not there: install it"}
    assert CONTESTANTS["realtime"].absent() is None
    assert _measured(CONTESTANTS["realtime"]).faults == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["S8", "S13"])
def test_at_a_reload_clients_move_or_return(scenario: str) -> None:
    moving, returning = (_measured(CONTESTANTS[name], scenario) for name in SCENARIOS[scenario].contestants)
    assert (moving.faults, returning.faults) == ([], [])
    clients = moving.report["ready"]
    assert (moving.report["cuts"], moving.values["returns"]) == (0, 0)
    assert (returning.report["cuts"], returning.values["returns"]) == (clients, clients)
    if scenario == "S13":
        for each in (moving, returning):
            assert each.units == clients
            assert each.cpu_us.keys() == {"source", "target", "primary", "keeper", "broker"}
            assert each.cpu_us["source"] > 0
            assert each.cpu_us["target"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["S8", "S13"])
def test_clients_that_return_where_they_should_have_moved_are_a_failed_run(scenario: str) -> None:
    name = SCENARIOS[scenario].contestants[1]

    def start(directory: Path) -> Running:
        server = CONTESTANTS[name].start(directory)
        assert isinstance(server, Ours)
        server.moves = True  # it does not
        return server

    measured = _measured(replace(CONTESTANTS[name], start=start), scenario)
    assert measured.faults == ["100 clients of 100 were closed, and did not move"]


def test_a_server_that_does_not_start_is_a_failed_run_and_not_the_end() -> None:
    def start(directory: Path) -> Server:
        return Server(["false"], directory)

    measured = _measured(Contestant("nobody", start, lambda: None, PLAIN_SPEAKS))
    assert "ended" in measured.faults[0]
    assert measured.units == 0
