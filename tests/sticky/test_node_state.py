"""What a worker knows of the whole server, from the events of its primary."""

from __future__ import annotations

from typing import Any

import pytest

from sticky.supervision.readiness import LAME_DUCK, STOPPING
from sticky.worker.node_state import NodeState


def test_without_a_word_of_the_primary_new_clients_should_come() -> None:
    state = NodeState()
    assert (state.reasons, state.is_stopping) == ((), False), "as under a primary of an older version"


def test_the_newest_event_counts() -> None:
    state = NodeState()
    state.learn({"reasons": [LAME_DUCK], "stopping": True})
    state.learn({"reasons": [STOPPING], "stopping": True, "since": "a later version's"})
    assert (state.reasons, state.is_stopping) == ((STOPPING,), True)
    state.learn({"reasons": [], "stopping": False})
    assert (state.reasons, state.is_stopping) == ((), False)


@pytest.mark.parametrize("about", [{}, {"reasons": []}, {"stopping": True}, {"reasons": None, "stopping": True}])
def test_an_event_that_is_none_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError)):
        NodeState().learn(about)
