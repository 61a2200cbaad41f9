"""
Each broker has the methods of the contract, under the same names and with the same arguments.

What the methods do is tested by noun: test_publications.py, test_streams.py, test_members.py, test_leases.py. Faults
are in test_faults.py, test_gaps.py, test_redis.py and test_lifecycle.py.
"""

from __future__ import annotations

import inspect

import pytest

from realtime.broker.base import Broker, BrokerListener
from realtime.broker.local import LocalBroker
from realtime.broker.memory import MemoryBroker
from realtime.broker.redis import RedisBroker
from tests.realtime.broker.workers import Heard

OPERATIONS = {name: each for name, each in vars(Broker).items() if inspect.isfunction(each) and name[0] != "_"}


def parameters(operation: object) -> list[tuple[str, object, object, object]]:
    assert callable(operation)
    return [
        (each.name, each.kind, each.default, each.annotation)
        for each in inspect.signature(operation).parameters.values()
    ]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("broker", [MemoryBroker, LocalBroker, RedisBroker])
def test_each_operation_takes_what_the_contract_says(broker: type, name: str) -> None:
    operation = getattr(broker, name)
    assert parameters(operation) == parameters(OPERATIONS[name])
    assert inspect.iscoroutinefunction(operation) == inspect.iscoroutinefunction(OPERATIONS[name])


def test_the_listener_of_these_tests_has_every_method() -> None:
    for name, each in vars(BrokerListener).items():
        if name.startswith("on_"):
            assert parameters(getattr(Heard, name)) == parameters(each)
