"""A line that many clients can cause is written once a second, and says how many causes it stands for."""

from __future__ import annotations

from sticky.loop.log_throttle import PAUSE_S, LogThrottle


def test_the_first_cause_is_logged_at_once() -> None:
    assert LogThrottle().due(0.0) == 0
    assert LogThrottle().due(-5.0) == 0, "whatever the clock begins with"


def test_the_next_line_counts_what_was_left_out_since() -> None:
    throttle = LogThrottle()
    throttle.due(100.0)
    assert [throttle.due(100.0 + part * PAUSE_S) for part in (0.1, 0.5, 0.99)] == [None, None, None]
    assert throttle.due(100.0 + PAUSE_S) == 3
    assert throttle.due(100.0 + 2 * PAUSE_S) == 0
