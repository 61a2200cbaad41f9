"""
Introduces workers to each other, so that connections move: who gives to whom, and which.

Runs in the primary. For each pair it makes a channel, gives one end to the source and one to the target, and keeps
none: what moves never passes the primary. It decides by slot and key alone. The source picks the connections.

| what happens                           | sources           | targets       | plan                    |
|----------------------------------------|-------------------|---------------|-------------------------|
| a successor is ready (reload, `drain`) | its predecessor   | the successor | all                     |
| an empty slot is filled, or added      | the other workers | its worker    | those whose home it is  |
| the same, without keys (`none`)        | the fullest       | the emptiest  | until slots are equal   |
| a slot is removed (`scale`)            | its worker        | the others    | the rest: all, divided  |

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
from sticky.loop.poller import Poller
from sticky.moving.channel import MoveChannel
from sticky.moving.plan import ALL, COUNT, HOME, REST
from sticky.settings import ClusterSettings
from sticky.supervision.workers import Workers

TARGETS_MAX: Final = 64  # channels of one worker at once; beyond, connections stay where they are until they end
BEATS: Final = 2.5  # heartbeats until the effect of a round is known
RECEIVING_S: Final = 10.0  # after its introduction a target counts as one that receives; most moves take a second
ROUNDS: Final = 8  # of balancing after a slot was filled


class Introductions:
    """Makes the channels on which connections move."""

    def __init__(self, poller: Poller, workers: Workers, settings: ClusterSettings) -> None:
        """
        Args:
            settings: what the key of a connection is, whether connections move at all, how often workers report.
        """
        self._poller = poller
        self._workers = workers
        self._has_keys = settings.affinity.sticky is not Sticky.NONE
        self._is_on = settings.migrates
        self._settle_s = BEATS * settings.heartbeat_s
        self._rounds = 0  # that are left
        self._is_balancing = False  # a round will come

    def succeeded(self, predecessor: WorkerHandle, successor: WorkerHandle, slots: int) -> None:
        """Have all connections of a worker move to its successor. Call this before the predecessor drains."""
        self._introduce(predecessor, successor, slots, ALL)

    def filled(self, worker: WorkerHandle, slots: int) -> None:
        """Have connections move to a worker whose slot had none: those at home there, or its share of all."""
        if self._has_keys:
            now = self._poller.now()
            others = [each for each in self._workers.live.values() if each is not worker]
            # One that receives has not reported yet what came to it: it may have more than is known.
            others = [each for each in others if each.connections or each.receives_until > now]
            for other in others[:TARGETS_MAX]:
                self._introduce(other, worker, slots, HOME)
        elif self._is_on:
            self._rounds = ROUNDS
            if not self._is_balancing:
                self._is_balancing = True
                self._poller.after(self._settle_s, lambda: self._balance(slots))

    def _balance(self, slots: int) -> None:
        """
        Have the fullest slots give to the emptiest. What a worker has is known from its last heartbeat, and some
        connections cannot move: so look again, a few times, until nothing is left to do. A worker that has just become
        ready counts as empty until it has reported what its predecessor moved to it: that is waited for.
        """
        live = self._workers.live
        known_since = self._poller.now() - self._settle_s
        if any(each.ready_at is None or each.ready_at > known_since for each in live.values()):
            self._poller.after(self._settle_s, lambda: self._balance(slots))
            return
        given = gifts({slot: each.connections for slot, each in live.items()})[:TARGETS_MAX]
        for slot, target, count in given:
            self._introduce(live[slot], live[target], slots, COUNT, count)
        self._rounds -= 1
        self._is_balancing = bool(given) and self._rounds > 0
        if self._is_balancing:
            self._poller.after(self._settle_s, lambda: self._balance(slots))

    def removed(self, worker: WorkerHandle, slots: int) -> None:
        """Have all connections of a worker whose slot is removed move to the others. Call this before it drains."""
        for other in list(self._workers.live.values())[:TARGETS_MAX]:
            if other is not worker and other.slot < slots:
                self._introduce(worker, other, slots, REST)

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
        target.receives_until = self._poller.now() + RECEIVING_S


def gifts(counts: Mapping[Slot, int]) -> list[tuple[Slot, Slot, int]]:
    """
    Return how many connections which slot gives to which other one, so that all have the same number within one. No
    more move than have to.

    Args:
        counts: how many connections each slot has.
    """
    if not counts:
        return []
    share, fuller = divmod(sum(counts.values()), len(counts))
    by_count = sorted(counts, key=lambda slot: (-counts[slot], slot))
    more = {slot: counts[slot] - share - (at < fuller) for at, slot in enumerate(by_count)}
    assert not sum(more.values()), "what some have too many, others lack"
    lacking = [slot for slot in by_count if more[slot] < 0]
    found: list[tuple[Slot, Slot, int]] = []
    for slot in by_count:
        while more[slot] > 0:
            target = lacking[-1]
            count = min(more[slot], -more[target])
            found.append((slot, target, count))
            more[slot] -= count
            more[target] += count
            if not more[target]:
                lacking.pop()
    return found
