"""What a worker is started with, and what happens when it cannot be started."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping

import pytest

from sticky.handoff.worker_handle import WorkerState
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.loop.log_lines import WORKER_NOT_STARTED
from sticky.settings import ClusterSettings
from sticky.supervision.launcher import Launcher, worker_terms
from tests.support.fake_environment import FakeEnvironment, no_such_program
from tests.support.log_lines import pattern

SETTINGS = ClusterSettings(workers=2, heartbeat_s=0.5, lifetime=Lifetime(seconds=100.0))


def launcher(environment: FakeEnvironment, env_of: Callable[[Slot], Mapping[str, str]] = lambda slot: {}) -> Launcher:
    return Launcher(
        environment,
        SETTINGS,
        argv=["python", "worker.py"],
        env_of=env_of,
        config={"app": "chat"},
        node="n1",
        secret=b"s" * 32,
        directory="/run/c",
    )


def test_a_worker_has_its_slots_environment_and_an_id_of_its_own() -> None:
    environment = FakeEnvironment()
    subject = launcher(environment, lambda slot: {"SLOT": str(slot)})
    first = subject.launch(Slot(3), generation=2, now=50.0)
    second = subject.launch(Slot(3), generation=2, now=50.0)
    process = environment.process(first.pid)
    assert (process.argv, process.env) == (["python", "worker.py"], {"SLOT": "3"})
    assert (first.slot, first.generation, first.started_at, first.state) == (3, 2, 50.0, WorkerState.STARTING)
    assert first.worker_id.startswith("n1-3-")
    assert first.worker_id != second.worker_id, "a slot's next worker is another"
    seconds = first.lifetime.seconds
    assert seconds is not None
    assert 90.0 <= seconds <= 100.0


def test_the_boot_message_has_all_that_a_worker_needs() -> None:
    subject = launcher(FakeEnvironment())
    worker = subject.launch(Slot(1), generation=4, now=0.0)
    assert subject.boot_message(worker, 8) == {
        "slot": 1,
        "slots": 8,
        "hears_keys_stay": True,
        "worker_id": worker.worker_id,
        "node": "n1",
        "generation": 4,
        "config": {"app": "chat"},
        "affinity": SETTINGS.affinity.to_builtins(),
        "secret": b"s" * 32,
        "secret_previous": None,
        "heartbeat_s": 0.5,
        "orphan_grace_s": 60.0,
        "directory": "/run/c",
        "terms": worker_terms(SETTINGS, {"app": "chat"}),
    }


def test_the_journal_belongs_to_the_worker_and_is_closed_once() -> None:
    environment = FakeEnvironment()
    environment.journal = fd = os.open(os.devnull, os.O_RDONLY)
    worker = launcher(environment).launch(Slot(0), generation=1, now=0.0)
    assert worker.journal == fd
    worker.close_journal()
    worker.close_journal()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("error", "number", "logged"),
    [
        (no_such_program(), errno.ENOENT, "No such file or directory"),
        (OSError(errno.EMFILE, "Too many open files"), errno.EMFILE, "Too many open files"),
        (ValueError("embedded null byte"), errno.EINVAL, "embedded null byte"),
        (TypeError("expected str, not int"), errno.EINVAL, "expected str, not int"),
    ],
)
def test_what_cannot_be_started_is_an_oserror_and_in_the_log(
    error: Exception, number: int, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    environment = FakeEnvironment()
    environment.fails = [error]
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is checked below
        launcher(environment).launch(Slot(0), generation=1, now=0.0)
    assert raised.value.errno == number
    assert re.search(pattern(WORKER_NOT_STARTED, slot=0, program="python", reason=logged), caplog.text)


def test_an_environment_that_cannot_be_made_starts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def env_of(slot: Slot) -> Mapping[str, str]:
        raise LookupError("slot 0 has no home")

    environment = FakeEnvironment()
    with pytest.raises(OSError, match="env_of failed"):
        launcher(environment, env_of).launch(Slot(0), generation=1, now=0.0)
    assert environment.processes == []
    assert "LookupError: slot 0 has no home" in caplog.text, "with the traceback"
