"""Which template workers are forked of, and when another one is started: no process, and a clock of the test's own."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping

import pytest

from sticky.loop.log_lines import TEMPLATE_LOST, WORKER_NOT_FORKED
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.templates import AGAIN_S, READY_S, Templates
from tests.support.fake_environment import FakeEnvironment, FakeTemplateLink, no_such_program
from tests.support.fake_poller import READABLE, FakePoller

ENV = {"PATH": "/bin", "PYTHONUTF8": "1"}


class Rig:
    """Templates, and what waits for them."""

    def __init__(self, *, argv: tuple[str, ...] = ("python", "worker.py")) -> None:
        self.poller = FakePoller()
        self.environment = FakeEnvironment()
        processes = AdoptedProcesses(self.poller, self.environment, lambda pid, status: None)
        self.env: Mapping[str, str] = ENV
        self.templates = Templates(
            self.poller, self.environment, processes, argv=argv, env_of=lambda slot: {**self.env, "SLOT": str(slot)}
        )
        self.done: list[str] = []

    def renew(self, word: str = "renewed") -> FakeTemplateLink:
        """Start a template, and return its link."""
        self.templates.renew(lambda: self.done.append(word))
        return self.environment.links[-1]

    def come_up(self, link: FakeTemplateLink) -> None:
        link.is_up = True
        self.poller.make_ready(link.fileno(), READABLE)

    def end(self, link: FakeTemplateLink) -> None:
        link.has_ended = True
        self.poller.make_ready(link.fileno(), READABLE)

    def forked(self, env: Mapping[str, str] = ENV) -> bool:
        """Ask for a worker. Return whether one was forked."""
        forked = self.templates.start_worker(env)
        if forked is not None:
            assert (self.environment.last.argv, self.environment.last.env) == (["forked"], dict(env))
            assert forked == (self.environment.last.pid, self.environment.last.channel)
        return forked is not None


def test_workers_are_forked_once_a_template_is_ready() -> None:
    rig = Rig()
    link = rig.renew()
    assert (rig.environment.last.argv, rig.environment.last.env["SLOT"]) == (["python", "worker.py"], "0")
    assert not rig.forked(), "it still imports"
    assert rig.done == []
    rig.come_up(link)
    assert rig.done == ["renewed"]
    assert rig.forked()
    assert rig.templates.describe() == {"pid": 501, "starting": None}


def test_a_reload_waits_for_a_new_template_and_the_one_before_serves_until_then() -> None:
    rig = Rig()
    rig.come_up(first := rig.renew())
    second = rig.renew("again")
    assert rig.forked(), "a worker that is lost meanwhile has a successor"
    assert not first.is_closed
    rig.come_up(second)
    assert rig.done == ["renewed", "again"]
    assert first.is_closed
    assert rig.environment.process(501).signals == [signal.SIGKILL]
    assert rig.forked()


def test_a_second_reload_ends_the_template_that_starts() -> None:
    rig = Rig()
    first = rig.renew("one")
    rig.come_up(rig.renew("two"))
    assert first.is_closed
    assert rig.done == ["one", "two"], "both have the newest code"


def test_what_waits_goes_on_when_the_template_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    with caplog.at_level(logging.WARNING):
        rig.end(rig.renew())
    assert rig.done == ["renewed"]
    assert TEMPLATE_LOST in caplog.text
    assert not rig.forked()
    assert len(rig.environment.links) == 1
    rig.poller.run_due(until=AGAIN_S)
    rig.come_up(rig.environment.links[1])
    assert rig.forked()


def test_what_waits_goes_on_when_the_template_is_too_slow() -> None:
    rig = Rig()
    link = rig.renew()
    rig.poller.run_due(until=READY_S - 0.1)
    assert rig.done == []
    rig.poller.run_due(until=READY_S)
    assert rig.done == ["renewed"]
    assert link.is_closed
    assert not rig.forked()


def test_a_template_that_is_lost_in_use_is_followed_by_another() -> None:
    rig = Rig()
    rig.come_up(first := rig.renew())
    first.has_ended = True
    assert not rig.forked(), "its end is found by asking it"
    assert first.is_closed
    rig.poller.run_due(until=AGAIN_S)
    rig.come_up(rig.environment.links[1])
    assert rig.forked()
    assert rig.done == ["renewed"]


def test_a_template_that_was_reaped_is_not_killed() -> None:
    rig = Rig()
    rig.come_up(link := rig.renew())
    process = rig.environment.process(501)
    process.exit()
    assert rig.environment.reap() == (501, 0)
    rig.templates.reaped(501)
    rig.templates.reaped(4711)
    rig.end(link)
    assert process.signals == [], "its number may be another process's by now"


def test_a_worker_that_cannot_be_forked_is_executed_anew(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.come_up(link := rig.renew())
    link.refuses = "Resource temporarily unavailable"
    assert not rig.forked()
    assert f'{WORKER_NOT_FORKED} reason="Resource temporarily unavailable"' in caplog.text
    link.refuses = None
    assert rig.forked(), "the template can be asked again"


@pytest.mark.parametrize(
    ("env", "forks"),
    [
        ({**ENV, "SLOT": "3", "REALTIME_X": "y"}, True),
        ({"PATH": "/bin"}, False),
        ({**ENV, "PYTHONDONTWRITEBYTECODE": "1"}, False),
        ({**ENV, "LD_PRELOAD": "lib.so"}, False),
    ],
)
def test_what_an_interpreter_reads_once_needs_an_interpreter_of_its_own(env: dict[str, str], forks: bool) -> None:
    rig = Rig()
    rig.come_up(rig.renew())
    assert rig.forked(env) is forks


def test_no_worker_is_forked_once_the_keeper_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.come_up(rig.renew())
    monkeypatch.setattr(os, "getppid", lambda: 1)  # what the kernel says to a process whose parent has died
    assert not rig.forked(), "nothing would say how it ended"
    rig.templates.renew(lambda: rig.done.append("at once"))
    assert rig.done == ["renewed", "at once"]


def test_without_a_command_nothing_waits() -> None:
    rig = Rig(argv=())
    rig.templates.renew(lambda: rig.done.append("at once"))
    rig.templates.when_ready(lambda: rig.done.append("ready"))
    assert rig.done == ["at once", "ready"]
    assert rig.environment.processes == []
    assert rig.templates.describe() == {"pid": None, "starting": None}


def test_a_template_that_cannot_be_started_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.environment.fails.append(no_such_program("python"))
    rig.templates.renew(lambda: rig.done.append("at once"))
    assert rig.done == ["at once"]
    assert TEMPLATE_LOST in caplog.text


def test_the_first_workers_wait_for_the_template_unless_there_are_workers_of_before() -> None:
    rig = Rig()
    link = rig.renew()
    rig.templates.when_ready(lambda: rig.done.append("start"))
    rig.templates.when_ready(lambda: rig.done.append("take over"), at_once=True)
    assert rig.done == ["take over"]
    rig.come_up(link)
    assert rig.done == ["take over", "renewed", "start"]


def test_the_end_of_the_server_ends_both() -> None:
    rig = Rig()
    rig.come_up(first := rig.renew())
    second = rig.renew()
    rig.templates.close()
    assert first.is_closed
    assert second.is_closed
    rig.templates.renew(lambda: rig.done.append("at once"))
    assert rig.done == ["renewed", "at once"]
    assert len(rig.environment.links) == 2
    assert rig.templates.start_worker({}) is None
