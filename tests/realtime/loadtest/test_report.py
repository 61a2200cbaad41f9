"""What a run has found: the verdict, the warning that the load client was the limit, and the numbers for a program."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from realtime.loadtest.errors import Failure
from realtime.loadtest.histogram import Histogram
from realtime.loadtest.ledger import Balance
from realtime.loadtest.outcome import Live, Outcome
from realtime.loadtest.plan import Endpoint, Plan
from realtime.loadtest.report import as_json, as_text, limit, title, verdict
from realtime.loadtest.screen import BAR_MIN, STEP, Screen, line
from tests.support.server import ROOT

PLAN = Plan(Endpoint.parse("127.0.0.1:8000"), clients=20, seconds=1.0)


def of(*durations_us: int) -> Histogram:
    found = Histogram()
    for each in durations_us:
        found.add(each)
    return found


def clean() -> Outcome:
    return Outcome(
        plan=PLAN,
        members=20,
        failures={},
        balance=Balance(20, 0, 400, 400, 0, 0, 0, 0),
        connect=of(2_000),
        latency=of(*[1_000] * 396, *[4_000] * 4),
        lateness=of(*[0] * 100),
        busy=0.1,
        published_s=1.0,
        bytes_in=100_000,
        bytes_out=2_000,
        is_interrupted=False,
        is_local=True,
    )


def printed(outcome: Outcome, columns: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=columns, highlight=False).print(as_text(outcome, columns))
    return stream.getvalue()


def test_a_clean_run_says_so_in_its_last_line() -> None:
    text = printed(clean())
    assert text.splitlines()[-1] == "= clean: every client got every publication, in order, once"
    assert "!" not in text
    assert "400 a second" in text


def test_what_is_wrong_is_counted_by_its_name() -> None:
    balance = Balance(20, 1, 400, 390, 10, 2, 3, 4)
    failures = {Failure("stay", 3001, "shutdown"): 5, Failure("publish", 103, "permission denied"): 1}
    outcome = dataclasses.replace(clean(), balance=balance, failures=failures)
    assert not outcome.is_clean
    assert verdict(outcome).plain == (
        "! not clean: 10 deliveries lost, 2 doubled, 3 reordered, 4 strange, 1 publication refused, 5 clients failed"
    )
    text = printed(outcome)
    assert "! 5 members gone: shutdown (3001)" in text
    assert "! 1 publication refused: permission denied (103)" in text


@pytest.mark.parametrize(
    ("busy", "late_us", "is_limit"),
    [(0.1, 400, False), (0.9, 400, True), (0.1, 6_000, True), (0.1, 60_000, True)],
)
def test_the_load_client_says_when_it_was_the_limit(busy: float, late_us: int, is_limit: bool) -> None:
    outcome = dataclasses.replace(clean(), busy=busy, lateness=of(late_us))
    assert (limit(outcome) is not None) == is_limit
    assert as_json(outcome)["client_was_limit"] == is_limit
    assert ("the load client itself was the limit" in printed(outcome, 200)) == is_limit


def test_a_late_loop_is_no_limit_where_the_server_was_far_slower() -> None:
    outcome = dataclasses.replace(clean(), latency=of(400_000), lateness=of(6_000))
    assert limit(outcome) is None


def test_the_numbers_are_json_and_a_time_that_never_came_is_null() -> None:
    latency = of(1_000)
    latency.missed = 1
    found = json.loads(json.dumps(as_json(dataclasses.replace(clean(), latency=latency)), allow_nan=False))
    assert found["latency_ms"]["p50"] == 1.0
    assert found["latency_ms"]["p99"] is None
    assert found["clean"] is True


def test_nothing_published_is_neither_clean_nor_a_fault() -> None:
    outcome = dataclasses.replace(
        clean(), balance=Balance(0, 0, 0, 0, 0, 0, 0, 0), latency=of(), is_interrupted=True, busy=1.0
    )
    assert not outcome.is_clean
    assert printed(outcome).splitlines()[-1] == "! ended early; nothing was published"


def test_from_another_machine_all_clients_are_one_to_stickiness_by_address() -> None:
    assert "--sticky ip" in printed(dataclasses.replace(clean(), is_local=False))
    assert "--sticky ip" not in printed(clean())


def test_the_title_says_what_is_going_to_be_done() -> None:
    assert title(PLAN).plain.endswith("20 clients in the room bench:0; 20 publications a second, 128 B, for 1 s")
    several = dataclasses.replace(PLAN, clients=1, rooms=1)
    assert "1 client in" in title(several).plain
    assert "in 4 rooms; 20 publications a second in each" in title(dataclasses.replace(PLAN, rooms=4)).plain


CONNECTING = Live("connecting", 250, 500, 1.25, {"unauthorized (101)": 3})
PUBLISHING = Live("publishing", 5.0, 10.0, 5.0, {}, 10_000.0, 1_200.0, 4_500.0)


def test_the_line_of_progress_shows_how_far_it_is_and_what_failed() -> None:
    text = line(CONNECTING, [], coloured=False)
    assert text == f"connecting  {'━' * 15}{'─' * 15}  250 of 500  3 unauthorized (101)  200/s"
    text = line(PUBLISHING, [1.0, 2.0], width=120, coloured=False)
    assert " 5.0 of 10 s  10\u202f000/s  p50 1.20 ms  p99 4.50 ms  ▄█" in text


@pytest.mark.parametrize("width", [20, 50, 60, 80, 132])
def test_the_line_of_progress_stays_a_line(width: int) -> None:
    for live in (CONNECTING, PUBLISHING, dataclasses.replace(PUBLISHING, failures={"shutdown (3001)": 12_345})):
        assert len(line(live, [1.0] * 64, width=width, coloured=False)) <= max(width - 1, STEP + BAR_MIN)


def test_on_eighty_columns_it_has_the_latencies_and_failures_come_first() -> None:
    text = line(PUBLISHING, [1.0], width=80, coloured=False)
    assert text.endswith("p50 1.20 ms  p99 4.50 ms")
    many = {"closed without a reason": 20, "its certificate is not trusted: it has expired": 3}
    text = line(dataclasses.replace(PUBLISHING, failures=many), [], width=80, coloured=False)
    assert "5.0 of 10 s  23 failed  10\u202f000/s" in text


def test_only_a_line_that_may_be_coloured_is() -> None:
    assert "\x1b[31m3 unauthorized (101)\x1b[0m" in line(CONNECTING, [])
    assert "\x1b" not in line(CONNECTING, [], coloured=False)


def test_of_many_kinds_of_failure_the_most_frequent_are_shown() -> None:
    failures = {Failure("join", 4000 + each, "no"): each + 1 for each in range(10)}
    outcome = dataclasses.replace(clean(), failures=failures)
    text = printed(outcome)
    assert "! 10 clients not let into the room: no (4009)" in text
    assert "! 1 client " not in text
    assert "! and 2 other kinds of failure; --json has them all" in text
    assert len(as_json(outcome)["failures"]) == 10


def test_what_is_no_terminal_is_not_drawn_on() -> None:
    stream = io.StringIO()
    with Screen(stream, width=80, coloured=False) as screen:
        screen.show(CONNECTING)
    assert stream.getvalue() == ""


def test_the_page_names_every_field_in_its_order() -> None:
    page = (ROOT / "docs" / "deploying" / "load-test.md").read_text().partition("## JSON")[2]
    cells = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(as_json(clean()))
