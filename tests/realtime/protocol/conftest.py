"""
Each test of the protocol runs twice: with sessions that stay, and with sessions that move between two messages.

The moments come from a seed and the name of the test, and are the same in each run. `REALTIME_MOVES=random` draws
another seed, as `make test-slow` does; it stands in the output of a test that fails. `REALTIME_MOVES=SEED` has its
moments again: the same messages come before and after a move. Sockets still decide what one turn of the loop brings.
"""

from __future__ import annotations

import inspect
import os
import random

import pytest

from realtime.protocol.centrifuge.server import Centrifuge
from tests.support.moving import moving

SEED = os.environ.get("REALTIME_MOVES") or "1"
if SEED == "random":
    SEED = str(random.SystemRandom().getrandbits(32))

OBJECT = "it looks into one object, which a move replaces by another"
STAY = {
    "test_a_pong_may_be_late_of_who_takes_something_where_nothing_piles_up": OBJECT,
    "test_commands_run_one_after_another_and_who_sends_too_many_waits": OBJECT,
    "test_what_is_late_for_the_old_subscription_does_not_reach_the_new_one": "a move reads the stream: its "
    "client gets what this worker has not received yet",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test that runs an event loop run twice, but for those of another wire protocol."""
    if ".socketio." not in metafunc.module.__name__ and inspect.iscoroutinefunction(inspect.unwrap(metafunc.function)):
        ways = ["stay"] if metafunc.function.__name__ in STAY else ["stay", "move"]
        metafunc.parametrize("sessions", ways, indirect=True)


@pytest.fixture(autouse=True)
def sessions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have sessions stay or move; the connection id of each move."""
    moves: list[str] = []
    if getattr(request, "param", "stay") == "move":
        print(f"moves: REALTIME_MOVES={SEED}")
        chance = random.Random(f"{SEED} {request.node.nodeid}")
        monkeypatch.setattr(Centrifuge, "__call__", moving(Centrifuge.__call__, chance, moves))
    return moves
