"""A load: where it goes, what is allowed, and when everything is due."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.loadtest.errors import WrongPlan
from realtime.loadtest.plan import Endpoint, Plan

HERE = Endpoint(False, "127.0.0.1", 8000, "/connection/websocket")


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8000", HERE, "ws://127.0.0.1:8000/connection/websocket"),
        ("http://127.0.0.1:8000/", HERE, "ws://127.0.0.1:8000/connection/websocket"),
        ("https://chat.example", Endpoint(True, "chat.example", 443, "/connection/websocket"), None),
        ("wss://chat.example/live?v=2", Endpoint(True, "chat.example", 443, "/live?v=2"), "wss://chat.example/live"),
        ("ws://[::1]:9/x", Endpoint(False, "::1", 9, "/x"), "ws://[::1]:9/x"),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: Endpoint, shown: str | None) -> None:
    found = Endpoint.parse(text)
    assert found == address
    if shown is not None:
        assert str(found) == shown


@pytest.mark.parametrize(
    "text", ["", "ftp://x", "http://", "http://x:port", "http://u:p@x", "http://x/a b", "http://x/é"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(WrongPlan):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"clients": 0}, "--clients"),
        ({"clients": 20_001}, "--clients"),
        ({"rooms": 0}, "--rooms"),
        ({"clients": 3, "rooms": 4}, "--rooms"),
        ({"rooms": 2, "room": "bench"}, "--room"),
        ({"room": ""}, "--room"),
        ({"rate": 0.0}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"rate": 0.5, "seconds": 1.0}, "--rate"),
        ({"rate": 1001.0, "rooms": 10}, "--rate"),
        ({"seconds": 0.0}, "--seconds"),
        ({"seconds": 600.5}, "--seconds"),
        ({"size": 10}, "--size"),
        ({"size": 65_536}, "--size"),
        ({"connect_rate": 0.0}, "--connect-rate"),
    ],
)
def test_too_much_and_too_little_is_refused_with_the_option_to_change(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(WrongPlan, match=f"^{named}:"):
        Plan(HERE, **fields)


def test_rooms_take_turns_evenly_within_a_period() -> None:
    plan = Plan(HERE, clients=8, rooms=4, rate=10.0, seconds=2.0)
    assert plan.publications == 80
    assert [plan.due_s(number) for number in range(4)] == pytest.approx([0, 0.025, 0.05, 0.075])
    assert plan.due_s(4) == pytest.approx(0.1)


def test_clients_are_spread_over_the_rooms_and_over_addresses() -> None:
    plan = Plan(HERE, clients=20_000, rooms=3, room="chat:{n}:x")
    assert [plan.name_of(plan.room_of(client)) for client in range(4)] == [
        "chat:0:x",
        "chat:1:x",
        "chat:2:x",
        "chat:0:x",
    ]
    sources = {plan.source(client) for client in range(20_000)}
    assert len(sources) == 20_000
    assert all(each.startswith("127.") and not each.endswith((".0", ".255")) for each in sources)


@pytest.mark.parametrize(
    ("rate", "seconds", "each"), [(0.1, 10.0, 1), (1.5, 1.0, 1), (0.29, 100.0, 29), (20.0, 0.1, 2), (2.6, 1.0, 2)]
)
def test_every_publication_is_due_before_the_end(rate: float, seconds: float, each: int) -> None:
    plan = Plan(HERE, clients=3, rooms=3, rate=rate, seconds=seconds)
    assert plan.publications == each * 3
    assert plan.due_s(plan.publications - 1) < seconds
