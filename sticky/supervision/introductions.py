"""
Introduces workers to each other, so that connections move: who gives to whom, and which.

Runs in the primary. For each pair it makes a channel, gives one end to the source and one to the target, and keeps
none: what moves never passes the primary. It decides by slot and key alone. The source picks the connections.

| what happens                           | sources           | targets       | plan                    |
|----------------------------------------|-------------------|---------------|-------------------------|
| a successor is ready (reload, `drain`) | its predecessor   | the successor | all                     |
| an empty slot is filled, or added      | the other workers | its worker    | those whose home it is  |
| the same, without keys (`none`)        | the fullest       | its worker    | until slots are equal   |
| a slot is removed (`scale`)            | its worker        | the others    | those whose home it is  |

A worker that dies, or was introduced and has no server that moves connections, closes its end: the other then moves
nothing to it. A worker that drains gets its introductions before its DRAIN.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.affinity import Sticky
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import INTRODUCTION_FAILED, log
from sticky.moving.channel import MoveChannel
from sticky.moving.plan import ALL, COUNT, HOME
from sticky.supervision.workers import Workers

TARGETS_MAX: Final = 64  # channels of one worker at once; beyond, connections stay where they are until they end


class Introductions:
    """Makes the channels on which connections move."""

    def __init__(self, workers: Workers, *, sticky: Sticky, is_on: bool) -> None:
        """
        Args:
            sticky: what the key of a connection is.
            is_on: whether connections move at all.
        """
        self._workers = workers
        self._has_keys = sticky is not Sticky.NONE
        self._is_on = is_on

    def succeeded(self, predecessor: WorkerHandle, successor: WorkerHandle, slots: int) -> None:
        """Have all connections of a worker move to its successor. Call this before the predecessor drains."""
        self._introduce(predecessor, successor, slots, ALL)

    def filled(self, worker: WorkerHandle, slots: int) -> None:
        """Have connections move to a worker whose slot had none: those at home there, or its share of all."""
        others = [each for each in self._workers.live.values() if each is not worker and each.connections]
        others = others[:TARGETS_MAX]
        if self._has_keys:
            for other in others:
                self._introduce(other, worker, slots, HOME)
            return
        counts = {each.slot: each.connections for each in others}
        for slot, count in shares(counts, worker.connections).items():
            self._introduce(self._workers.live[slot], worker, slots, COUNT, count)

    def removed(self, worker: WorkerHandle, slots: int) -> None:
        """Have all connections of a worker whose slot is removed move to the others. Call this before it drains."""
        for other in list(self._workers.live.values())[:TARGETS_MAX]:
            if other is not worker and other.slot < slots:
                self._introduce(worker, other, slots, HOME)

    def _introduce(self, source: WorkerHandle, target: WorkerHandle, slots: int, plan: str, count: int = 0) -> None:
        if not self._is_on:
            return
        try:
            for_source, for_target = MoveChannel.pair()
        except OSError as error:
            log(logging.WARNING, INTRODUCTION_FAILED, slot=source.slot, to=target.slot, reason=str(error.strerror))
            return
        for worker, is_source, other, sock in (
            (target, False, source, for_target),
            (source, True, target, for_source),
        ):
            about = (is_source, other.slot, other.worker_id, slots, plan, count)
            self._workers.send_fd(worker, Kind.PEER, *about, fd=os.dup(sock.fileno()))
            sock.close()


def shares(counts: Mapping[Slot, int], has: int) -> dict[Slot, int]:
    """
    Return how many connections each slot gives to another one, so that all have the same number within one.

    Args:
        counts: of the slots that give.
        has: how many the slot has that gets them.
    """
    wanted = (sum(counts.values()) + has) // (len(counts) + 1)
    missing = wanted - has
    found: dict[Slot, int] = {}
    for slot, count in sorted(counts.items(), key=lambda each: -each[1]):
        given = min(max(count - wanted, 0), missing)
        if given > 0:
            found[slot] = given
            missing -= given
    return found
