"""
Deploys, scaling, an upgrade and the death of the primary, one after the other under load: no client notices any of it.

Stock clients of every kind and raw ones, four workers, fifty rooms, a hundred connects a second. What is played and
what is judged stands in tests/support/main_scenario.py, which also runs as a demonstration of any size.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.sdk.test_node_sdk import _installed as _installed  # the fixture: skips without Node and the SDK
from tests.support.main_scenario import Scenario
from tests.support.scenario_outcome import Plan, summary

pytestmark = [pytest.mark.slow, pytest.mark.node]

CLIENTS = 300
SDKS = 4  # of each kind
CONNECTS = 100.0


@pytest.mark.parametrize(
    ("sticky", "broker", "machines"),
    [
        pytest.param("ip", "local", 1, id="ip-local"),
        pytest.param("none", "local", 1, id="none-local"),
        pytest.param("session", "redis", 1, id="session-redis", marks=pytest.mark.redis),
        pytest.param("ip", "redis", 2, id="two-machines", marks=pytest.mark.redis),
    ],
)
def test_no_client_notices_what_an_operator_does(tmp_path: Path, sticky: str, broker: str, machines: int) -> None:
    plan = Plan(CLIENTS, SDKS, connects=CONNECTS, sticky=sticky, broker=broker, machines=machines)
    outcome = asyncio.run(Scenario(plan, tmp_path, print).run())
    print(summary(outcome))
    assert outcome.faults == []
    assert outcome.left_out == []
    assert outcome.refused == 0
