"""
Answers that are large: who is in a room, what was published in it.

Runs in the worker, inside a session's command. A few bytes of a client have thousands of members or publications sent;
so each connection has a meter of what its answers cost, in bytes, beside the one that counts its commands. Who has used
up its share is told "too many requests" (111, temporary) until that is paid off. An answer to `presence` is made once
for all who ask, in each encoding; only what a client sees of itself is added.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from realtime import codes
from realtime.broker.base import Room
from realtime.rooms.census import Census
from realtime.timing.rate import CostMeter

if TYPE_CHECKING:
    from realtime.protocol.centrifuge.session import Session

LEAST: Final = 256  # bytes that the smallest answer counts for: it was asked for, too
RECOVERIES: Final = 4  # who comes back into all its rooms at once may have so many times as much


def check(session: Session, *, recovers: bool = False) -> None:
    """
    See that this connection may be given another large answer. The caller owes `charge`.

    Raises:
        ClientError: it has had its share (111, temporary).
    """
    per_s = session.shared.limits.answer_bytes
    if not per_s or session.answers is None:
        return
    if not session.answers.is_open(asyncio.get_running_loop().time(), RECOVERIES if recovers else 1):
        session.over("answers", f"answers of more than {per_s} bytes a second")
        raise codes.TOO_MANY_REQUESTS.error()


def charge(session: Session, size: int) -> None:
    """Count an answer of so many bytes."""
    per_s = session.shared.limits.answer_bytes
    if not per_s:
        return
    if session.answers is None:
        session.answers = CostMeter()
    session.answers.charge(asyncio.get_running_loop().time(), max(size, LEAST), per_s)


def presence_reply(session: Session, id: int, room: Room, census: Census) -> bytes:
    """Return the answer to `presence`: what all are told, and the client itself, who may be newer than that."""
    codec = session.codec
    said = census.said.get(codec.NAME)
    if said is None:
        said = census.said[codec.NAME] = codec.presence_entries(census.members)
    entries = [said]
    subscription = session.connection.subscriptions.get(room)
    if subscription is not None and subscription.shown is not None and subscription.shown not in census.members:
        entries.append(codec.presence_entries({subscription.shown: session.connection.describe(room)}))
    return codec.presence_reply(id, entries)
