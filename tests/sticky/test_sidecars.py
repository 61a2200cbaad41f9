"""Sidecar processes without a process: start, restart with back-off, stop, and the table of their phases."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import pytest

from sticky.errors import SettingsError
from sticky.process.keeper_link import KeeperLink
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.deposit import Kept
from sticky.supervision.sidecars import (
    BACKOFF_S,
    STARTS_MAX,
    STEADY_S,
    STOP_S,
    TRANSITIONS,
    Sidecar,
    SidecarEvent,
    SidecarPhase,
    Sidecars,
)
from tests.support.fake_environment import FakeEnvironment, FakeProcess, no_such_program
from tests.support.fake_poller import READABLE, FakePoller

P, E = SidecarPhase, SidecarEvent
BROKER = Sidecar("the broker", ("broker", "--ready", "{ready_fd}"), {"B": "1"}, signal.SIGUSR1)
WATCHER = Sidecar("the watcher", ("watcher",))


class Scene:
    """All sidecars, and what is called back."""

    def __init__(self, *sidecars: Sidecar) -> None:
        self.poller = FakePoller()
        self.environment = FakeEnvironment()
        self.called: list[str] = []
        self.sidecars = Sidecars(
            self.poller,
            self.environment,
            AdoptedProcesses(self.poller, self.environment, lambda pid, status: None),
            sidecars,
            {"A": "1"},
            deposit=KeeperLink(),
            on_ready=lambda: self.called.append("ready"),
            on_failed=lambda: self.called.append("failed"),
            on_stopped=lambda: self.called.append("stopped"),
        )

    def ready(self, process: FakeProcess) -> None:
        """Have a process report that it serves."""
        assert process.ready is not None
        process.ready.send(b"1")
        self.readable()

    def readable(self) -> None:
        for fd in list(self.poller.epoll.watched):
            self.poller.make_ready(fd, READABLE)

    def reap(self) -> None:
        while (ended := self.environment.reap()) is not None:
            assert self.sidecars.reaped(*ended)

    def processes(self, name: str) -> list[FakeProcess]:
        return [each for each in self.environment.processes if each.argv[0] == name]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene(BROKER, WATCHER)
    yield scene
    scene.environment.close()


LEGAL = {
    (P.STARTING, E.ALL_READY): P.RUNNING,
    (P.STARTING, E.STOP): P.STOPPING,
    (P.STARTING, E.KILL): P.KILLED,
    (P.RUNNING, E.STOP): P.STOPPING,
    (P.RUNNING, E.KILL): P.KILLED,
    (P.KILLED, E.STOP): P.STOPPING,
    (P.STOPPING, E.ALL_ENDED): P.STOPPED,
}


@pytest.mark.parametrize(
    ("phase", "event"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}") for pair in itertools.product(P, E)]
)
def test_the_table_of_phases(scene: Scene, phase: SidecarPhase, event: SidecarEvent) -> None:
    assert TRANSITIONS.get((phase, event)) == LEGAL.get((phase, event))
    scene.sidecars.phase = phase
    if (phase, event) not in LEGAL:
        with pytest.raises(AssertionError, match=f"event {event.name} is illegal in phase {phase.name}"):
            scene.sidecars._transition(event)


def test_ready_is_called_once_when_each_was_ready(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    broker, watcher = scene.environment.processes
    assert broker.env == {"A": "1", "B": "1"}
    scene.ready(broker)
    assert scene.called == []
    scene.ready(watcher)
    assert scene.called == ["ready"]
    broker.kill()
    scene.reap()
    scene.poller.run_for(0.0)
    scene.ready(scene.processes("broker")[-1])
    assert scene.called == ["ready"], "a restart is not another start"
    assert {each["name"] for each in scene.sidecars.describe()} == {"the broker", "the watcher"}


def test_without_sidecars_all_is_ready_and_stopped_at_once() -> None:
    scene = Scene()
    scene.sidecars.start(Kept())
    scene.sidecars.stop()
    assert scene.called == ["ready", "stopped"]


def test_one_that_ends_is_started_again_with_a_growing_delay(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    for process in list(scene.environment.processes):
        scene.ready(process)
    for delay_s in (*BACKOFF_S, BACKOFF_S[-1]):
        count = len(scene.processes("broker"))
        scene.processes("broker")[-1].kill()
        scene.reap()
        if delay_s:
            scene.poller.run_for(delay_s - 0.01)
            assert len(scene.processes("broker")) == count
        scene.poller.run_for(0.01)
        assert len(scene.processes("broker")) == count + 1
    assert "failed" not in scene.called, "it was ready once, so it is never given up"


def test_one_that_stays_ready_is_started_again_at_once(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    for process in list(scene.environment.processes):
        scene.ready(process)
    scene.processes("broker")[-1].kill()
    scene.reap()
    scene.poller.run_for(0.0)
    scene.ready(scene.processes("broker")[-1])
    scene.poller.run_for(STEADY_S)
    scene.processes("broker")[-1].kill()
    scene.reap()
    scene.poller.run_for(0.0)
    assert len(scene.processes("broker")) == 3


def test_one_that_never_becomes_ready_is_given_up(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    for _ in range(STARTS_MAX):
        assert "failed" not in scene.called
        scene.processes("broker")[-1].exit(1)
        scene.readable()  # the end of its descriptor, without a byte
        scene.reap()
        scene.poller.run_for(BACKOFF_S[1])
    assert scene.called == ["failed"]


def test_one_that_cannot_be_started_is_given_up_as_well() -> None:
    scene = Scene(WATCHER)
    scene.environment.fails = [no_such_program() for _ in range(STARTS_MAX)]
    scene.sidecars.start(Kept())
    scene.poller.run_for(sum(BACKOFF_S))
    assert scene.called == ["failed"]
    assert scene.environment.processes == []


def test_a_stop_sends_each_its_own_signal_and_waits_for_all(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    broker, watcher = scene.environment.processes
    scene.sidecars.stop()
    scene.sidecars.stop()
    assert (broker.signals, watcher.signals) == ([signal.SIGUSR1], [signal.SIGTERM])
    broker.exit()
    scene.reap()
    assert scene.called == []
    scene.poller.run_for(STOP_S)
    assert watcher.signals == [signal.SIGTERM, signal.SIGKILL], "one that does not end is killed"
    scene.reap()
    assert scene.called == ["stopped"]
    scene.poller.run_for(60.0)
    assert len(scene.environment.processes) == 2, "nothing is started again"


def test_a_restart_that_is_due_after_a_stop_does_not_happen(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    for process in list(scene.environment.processes):
        scene.ready(process)
    scene.processes("broker")[-1].kill()
    scene.reap()
    scene.sidecars.stop()
    scene.processes("watcher")[-1].exit()
    scene.reap()
    scene.poller.run_for(60.0)
    assert len(scene.environment.processes) == 2
    assert scene.called == ["ready", "stopped"]


def test_a_restart_that_is_due_after_a_kill_does_not_happen(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    scene.processes("broker")[-1].kill()
    scene.reap()
    scene.sidecars.kill()
    scene.reap()
    scene.poller.run_for(60.0)
    assert len(scene.environment.processes) == 2


def test_killed_sidecars_are_not_started_again_while_workers_still_end(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    scene.sidecars.kill()
    scene.reap()
    scene.poller.run_for(60.0)
    assert len(scene.environment.processes) == 2
    assert scene.called == [], "the workers may still be there"
    scene.sidecars.stop()
    assert scene.called == ["stopped"]


def test_a_kill_after_a_stop_only_makes_it_faster(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    scene.sidecars.stop()
    scene.sidecars.kill()
    scene.reap()
    assert scene.called == ["stopped"]
    scene.sidecars.kill()
    assert scene.sidecars.phase is P.STOPPED


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="two sidecar processes have the same name"):
        Scene(BROKER, BROKER)


def test_an_error_when_one_becomes_ready_closes_its_descriptor_and_no_more(scene: Scene) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("a bug")

    scene.sidecars.start(Kept())
    broker, watcher = scene.environment.processes
    scene.ready(broker)
    scene.sidecars._transition = fail  # type: ignore[method-assign]
    scene.ready(watcher)
    assert scene.poller.epoll.watched == {}
    assert scene.poller.counters["callbacks_failed"] == 1
    assert len(scene.sidecars.describe()) == 2, "both run"


def test_a_process_that_is_no_sidecar_is_left_to_others(scene: Scene) -> None:
    scene.sidecars.start(Kept())
    assert not scene.sidecars.reaped(1, 0)


HEIR = Sidecar("the heir", ("heir",), succession=("--take-over",))


def replacing() -> tuple[Scene, FakeProcess, FakeProcess]:
    """Return a scene in which a successor was started, the process that runs, and the successor."""
    scene = Scene(HEIR)
    scene.sidecars.start(Kept())
    old = scene.environment.last
    scene.ready(old)
    scene.sidecars.replace()
    return scene, old, scene.environment.last


def ended(scene: Scene, process: FakeProcess, code: int) -> None:
    process.exit(code)
    reaped = scene.environment.reap()
    assert reaped is not None
    assert scene.sidecars.reaped(*reaped)


def pids(scene: Scene) -> list[object]:
    return [each["pid"] for each in scene.sidecars.describe()]


@pytest.mark.parametrize("is_ready_first", [True, False])
def test_a_successor_follows_the_process_that_it_takes_over_from(is_ready_first: bool) -> None:
    scene, old, new = replacing()
    assert new.argv == ["heir", "--take-over"]
    scene.sidecars.replace()
    assert scene.environment.last is new, "one at a time"
    if is_ready_first:
        scene.ready(new)
        ended(scene, old, 0)
    else:
        ended(scene, old, 0)
        scene.ready(new)
    assert pids(scene) == [new.pid]
    scene.poller.run_for(BACKOFF_S[-1])
    assert scene.environment.last is new, "the end of the other one was no failure"
    ended(scene, new, 1)
    scene.poller.run_for(BACKOFF_S[-1])
    assert scene.environment.last.argv == ["heir"], "after its end another begins anew"
    scene.environment.close()


def test_a_successor_that_ends_leaves_the_other_one() -> None:
    scene, old, new = replacing()
    ended(scene, new, 1)
    scene.poller.run_for(BACKOFF_S[-1])
    assert pids(scene) == [old.pid]
    assert scene.environment.last is new, "nothing was started"
    scene.environment.close()


def test_where_both_end_another_is_started() -> None:
    scene, old, new = replacing()
    ended(scene, old, 1)
    ended(scene, new, 1)
    scene.poller.run_for(BACKOFF_S[-1])
    assert scene.environment.last not in (old, new)
    assert scene.environment.last.argv == ["heir"]
    scene.environment.close()


def test_a_stop_ends_a_successor_as_well() -> None:
    scene, old, new = replacing()
    scene.sidecars.stop()
    assert old.signals == new.signals == [signal.SIGTERM]
    ended(scene, old, 0)
    assert "stopped" not in scene.called
    ended(scene, new, 0)
    assert "stopped" in scene.called
    scene.environment.close()
