"""
What one client uses: commands, and answers that are large.

Runs in the worker, inside a session's command. A few bytes of a client have thousands of members or publications sent;
so each connection has two meters: of its commands, and of what its answers cost in bytes. A client
that has used up its share gets "too many requests" (111, temporary) until that is paid off. The meters are plain data
in the session's state. Nothing here waits, and nothing here closes a connection: that is raised.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from realtime import codes
from realtime.log_lines import log
from realtime.session.base import Services
from realtime.session.state import SessionState
from realtime.timing.rate import CostMeter, Meter, Rate

REFUSALS: Final = 10  # times the commands that it may send, a client is refused some before it is closed
LEAST: Final = 256  # bytes that the smallest answer counts for: it was asked for, too
RECOVERIES: Final = 4  # a client that recovers in all its rooms at once may have so many times as much

logger = logging.getLogger("realtime.session")


def over(services: Services, state: SessionState, limit: str, why: str) -> None:
    """Count that the client ran over a limit, and log the first time."""
    services.registry.overruns[limit] += 1
    if limit not in state.overran:
        state.overran |= {limit}
        log(logger, logging.WARNING, "client over a limit", **state.log_fields, limit=limit, reason=why)


def allows_command(services: Services, state: SessionState, rate: Rate) -> bool:
    """Count one command, or say that it came too soon."""
    if state.commands is None:
        state.commands = Meter()
    if state.commands.take(asyncio.get_running_loop().time(), rate):
        return True
    over(services, state, "commands", f"more than {services.limits.commands_per_second} commands a second")
    return False


def count_command(services: Services, state: SessionState, *, has_answer: bool) -> None:
    """
    Count a command of an admitted client.

    Raises:
        ClientError: it came too soon.
        Disconnect: it came too soon and has no answer, so its loss would not be seen; or the client goes on for long in
            spite of refusals.
    """
    rate = services.commands
    if rate is None or allows_command(services, state, rate):
        return
    if state.too_soon is None:
        state.too_soon = Meter()
    now = asyncio.get_running_loop().time()
    if not has_answer or not state.too_soon.take(now, Rate(rate.count * REFUSALS, rate.period_s)):
        raise codes.TOO_MANY_REQUESTS_END.error()
    raise codes.TOO_MANY_REQUESTS.error()


def check_answer(services: Services, state: SessionState, *, recovers: bool = False) -> None:
    """
    See that this client may have another large answer. The caller must call `charge_answer` when it has its size.

    Raises:
        ClientError: it has had its share (111, temporary).
    """
    per_s = services.limits.answer_bytes
    if not per_s or state.answers is None:
        return
    if not state.answers.is_open(asyncio.get_running_loop().time(), RECOVERIES if recovers else 1):
        over(services, state, "answers", f"answers of more than {per_s} bytes a second")
        raise codes.TOO_MANY_REQUESTS.error()


def charge_answer(services: Services, state: SessionState, size: int) -> None:
    """Count an answer of so many bytes."""
    assert size >= 0, "an answer that was written has a size"
    per_s = services.limits.answer_bytes
    if not per_s:
        return
    if state.answers is None:
        state.answers = CostMeter()
    state.answers.charge(asyncio.get_running_loop().time(), max(size, LEAST), per_s)
