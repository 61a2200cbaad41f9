"""Keys whose requests crash workers: from the journals of three dead workers to the decision on a handoff."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sticky.handoff import journal
from sticky.handoff.blame import CRASHES, REFUSED_S, WITHIN_S
from sticky.handoff.dispatcher import HoldBack
from sticky.handoff.messages import REFUSED
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.heads.first_bytes import Refusal
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing
from sticky.supervision.crashes import HOLDS_MAX, Crashes
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import WorkerEnd

SEGFAULT = -signal.SIGSEGV.value


class Rig:
    """The part under test, and the workers that it notifies."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.dying = False
        self.sockets = socket.socketpair()
        self.crashes = Crashes(
            self.poller,
            Affinity(AffinitySettings()),
            Hashing(b"a secret of some length"),
            workers=self,
            counters=self.counters,
        )

    def notify_all(self, event: str, about: dict[str, Any]) -> None:
        self.events.append((event, about))

    def is_dying(self) -> bool:
        return self.dying

    def crash(self, *addresses: str, code: int = SEGFAULT, retired: bool = False) -> None:
        """Have a worker end while a request of each of these addresses is in flight."""
        fd = journal.create()
        assert fd is not None
        notes = journal.Journal.from_fd(os.dup(fd))
        marks = [notes.open(b"c" + address.encode()) for address in addresses]
        for mark in marks:
            mark.begin()
        end = WorkerEnd(0, journal=fd)
        end.handle.is_retired = retired
        self.crashes.ended(end.handle, code)
        end.close()
        os.close(fd)

    def handoff(self, address: str, **facts: Any) -> PendingHandoff:
        return PendingHandoff(self.sockets[0], address, address, 1, **facts)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_the_key_at_three_crashes_is_refused_for_a_while(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for number in range(CRASHES):
            rig.crash("192.0.2.1", f"192.0.2.{number + 10}")
    assert 'key refused key="client 192.0.2.1" for_s=60' in caplog.text
    assert rig.events == [(REFUSED, {"key": b"c192.0.2.1", "for_s": REFUSED_S})]
    assert rig.counters == {"crashed": 3, "keys_refused": 1}
    decision = rig.crashes.check(rig.handoff("192.0.2.1"))
    assert isinstance(decision, Refusal)
    assert decision.status == 503
    assert rig.crashes.check(rig.handoff("192.0.2.99")) is None
    rig.poller.run_due(WITHIN_S + REFUSED_S + 1)
    assert rig.crashes.check(rig.handoff("192.0.2.1")) is None
    assert not rig.crashes.is_active


@pytest.mark.parametrize("facts", [{"kind": "tls"}, {"upgrade": True}])
def test_a_client_that_would_not_understand_503_goes_to_a_worker_that_refuses_it(
    rig: Rig, facts: dict[str, Any]
) -> None:
    for _ in range(CRASHES):
        rig.crash("192.0.2.1")
    handoff = rig.handoff("192.0.2.1", **facts)
    for _ in range(2):  # the second time after its worker rejected it
        assert rig.crashes.check(handoff) is None
        assert handoff.reason == REFUSED
    assert rig.counters["refused_crasher"] == 1


def test_a_worker_that_becomes_ready_gets_the_keys_that_are_refused_now(rig: Rig) -> None:
    for _ in range(CRASHES):
        rig.crash("192.0.2.1")
    rig.poller.run_due(10.0)
    assert rig.crashes.now_refused() == [{"key": b"c192.0.2.1", "for_s": REFUSED_S - 10}]
    rig.poller.run_due(REFUSED_S + 1)
    assert rig.crashes.now_refused() == []


def test_a_suspect_is_held_back_once_and_again_while_a_worker_is_dying(rig: Rig) -> None:
    for _ in range(CRASHES - 1):
        rig.crash("192.0.2.1")
    assert rig.crashes.is_active
    handoff = rig.handoff("192.0.2.1")
    assert rig.crashes.check(handoff) is HoldBack.HOLD
    handoff.times_held = 1
    assert rig.crashes.check(handoff) is None
    rig.dying = True
    assert rig.crashes.check(handoff) is HoldBack.HOLD
    handoff.times_held = HOLDS_MAX
    assert rig.crashes.check(handoff) is None


@pytest.mark.parametrize(
    ("code", "retired"), [(-signal.SIGKILL.value, False), (-signal.SIGTERM.value, False), (0, True), (1, True)]
)
def test_an_end_that_no_request_causes_is_no_crash(rig: Rig, code: int, retired: bool) -> None:
    for _ in range(CRASHES):
        rig.crash("192.0.2.1", code=code, retired=retired)
    assert not rig.crashes.is_active
    assert not rig.counters


def test_a_worker_without_a_journal_makes_no_suspects(rig: Rig) -> None:
    end = WorkerEnd(0)
    for _ in range(CRASHES):
        rig.crashes.ended(end.handle, SEGFAULT)
    assert not rig.crashes.is_active
    end.close()
