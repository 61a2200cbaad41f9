"""A boot that fails: logged once for each reason, and followed by another attempt, by nothing, or by the end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pytest

from sticky.handoff.messages import EXIT_BOOT
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.loop.log_lines import SERVER_GIVES_UP, WORKER_CANNOT_BOOT
from sticky.supervision.failed_boots import FailedBoots
from sticky.supervision.reload import KILLED_MAX, Reload
from sticky.supervision.restarts import Restarts
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import FakePoller


def a_worker(slot: int = 0, *, generation: int = 1, error: str | None = None) -> WorkerHandle:
    """Return a worker that was never ready."""
    worker = WorkerHandle(
        Slot(slot), 500 + slot, FakeChannel(), worker_id="w", generation=generation, now=0.0, lifetime=Lifetime()
    )
    worker.boot_error = error
    return worker


class Rig:
    """Failed boots, and what they have done. It is the supervisor, for the reload as well."""

    def __init__(self, *, boots_max: int | None = None) -> None:
        self.done: list[str] = []
        self.counters: Counter[str] = Counter()
        self.workers = Workers(FakePoller(), FakeEnvironment())
        self.restarts = Restarts(boots_max=boots_max)
        self.reload = Reload(self.workers, self, self)
        self.boots = FailedBoots(self.restarts, self.reload, self, counters=self.counters)
        self.successors: list[WorkerHandle] = []

    def restart(self, slot: Slot) -> None:
        self.done.append(f"restart {slot}")

    def stop(self, status: int) -> None:
        self.done.append(f"stop with {status}")

    def start_successor(self, slot: Slot) -> WorkerHandle:
        self.successors.append(a_worker(slot, generation=self.reload.generation))
        return self.successors[-1]

    def renew(self, then: Callable[[], None]) -> None:
        then()

    def fill_now(self, slot: Slot) -> None:
        self.done.append(f"fill {slot}")

    def reload_ended(self) -> None:
        self.done.append("reload ended")

    def serve(self, slot: int) -> None:
        """Have a worker serve a slot."""
        self.workers.live[Slot(slot)] = a_worker(slot)


def test_a_slot_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.boots.failed(a_worker(2, error="ImportError: app"), 3)
    assert rig.done == ["restart 2"]
    assert rig.counters["boots_failed"] == 1
    assert f"{WORKER_CANNOT_BOOT} slot=2 pid=502\nImportError: app" in caplog.text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (7, "it ended before it was ready (status 7)"),
        (-9, "it ended before it was ready (killed by SIGKILL)"),
        (None, "it ended before it was ready (unknown, for its parent is another process)"),
    ],
)
def test_one_that_gives_no_reason_is_logged_with_its_end(
    caplog: pytest.LogCaptureFixture, code: int | None, text: str
) -> None:
    Rig().boots.failed(a_worker(), code)
    assert text in caplog.text


def test_a_reason_is_logged_again_only_after_another_one_or_a_boot(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def lines() -> int:
        return caplog.text.count(WORKER_CANNOT_BOOT)

    for slot in range(4):
        rig.boots.failed(a_worker(slot, error="no module"), 3)
    assert lines() == 1, "every slot fails in the same way"
    rig.boots.failed(a_worker(error="no port"), 3)
    rig.boots.failed(a_worker(error="no module"), 3)
    assert lines() == 3
    rig.boots.booted()
    rig.boots.failed(a_worker(error="no module"), 3)
    assert lines() == 4, "it is news: a worker had booted"
    assert rig.counters["boots_failed"] == 7


def test_a_server_of_which_no_worker_could_ever_boot_ends(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(boots_max=2)
    rig.boots.failed(a_worker(0), 3)
    rig.boots.failed(a_worker(1), 3)
    assert rig.done == ["restart 0", f"stop with {EXIT_BOOT}"]
    assert f'{SERVER_GIVES_UP} reason="no worker could boot" boots_failed=2' in caplog.text


def test_a_server_that_has_served_goes_on_trying() -> None:
    rig = Rig(boots_max=1)
    rig.restarts.record_ready()
    for _ in range(3):
        rig.boots.failed(a_worker(0), 3)
    assert rig.done == ["restart 0"] * 3


def test_a_successor_that_does_not_boot_ends_the_reload_and_restarts_nothing() -> None:
    rig = Rig()
    rig.serve(0)
    rig.reload.replace_all(1)
    rig.boots.failed(rig.successors[0], 3)
    assert rig.done == ["reload ended"], "the old worker serves its slot"
    assert rig.reload.describe()["failed"] == "it ended before it was ready (status 3)"


def test_a_successor_that_was_killed_from_outside_is_tried_again() -> None:
    rig = Rig()
    rig.serve(0)
    rig.reload.replace_all(1)
    for killed in range(1, KILLED_MAX):
        rig.boots.failed(rig.successors[-1], -9)
        assert len(rig.successors) == killed + 1
    assert rig.done == []
    rig.boots.failed(rig.successors[-1], -9)
    assert rig.done == ["reload ended"]


@pytest.mark.parametrize("what", ["the primary has killed it", "it had reported an error", "its status is unknown"])
def test_a_kill_that_says_something_about_the_code_ends_the_reload(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rig = Rig()
    rig.serve(0)
    rig.reload.replace_all(1)
    [successor] = rig.successors
    successor.was_killed = what == "the primary has killed it"
    successor.boot_error = "an error" if what == "it had reported an error" else None
    rig.boots.failed(successor, None if what == "its status is unknown" else -9)
    assert rig.done == ["reload ended"]
    assert len(rig.successors) == 1


def test_a_worker_that_was_ready_has_not_failed_to_boot() -> None:
    worker = a_worker()
    worker.ready_at = 1.0
    with pytest.raises(AssertionError, match="no failed boot"):
        Rig().boots.failed(worker, 0)
