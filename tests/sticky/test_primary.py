"""A whole primary without a process: the order of start and stop, what each signal does, the table of its states."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sticky.errors import SettingsError
from sticky.handoff.channel import Kind
from sticky.handoff.messages import EXIT_BOOT, READINESS, Ready, Retire
from sticky.handoff.probes import NO_WORKER
from sticky.keys.hashing import Slot
from sticky.process.primary import Primary
from sticky.process.primary_state import TRANSITIONS, PrimaryEvent, PrimaryState
from sticky.settings import ClusterSettings
from sticky.supervision.launcher import SLOT
from sticky.supervision.readiness import LAME_DUCK, STOPPING
from sticky.supervision.sidecars import Sidecar
from tests.support.fake_environment import FakeEnvironment, FakeProcess
from tests.support.fake_poller import READABLE, FakePoller

S, E = PrimaryState, PrimaryEvent
BROKER = Sidecar("the broker", ("broker",))


class Scene:
    """A primary, its processes, and the hooks that were called."""

    def __init__(self, tmp_path: Path, *sidecars: Sidecar, **settings: Any) -> None:
        self.poller = FakePoller()
        self.environment = FakeEnvironment()
        self.hooks: list[str] = []
        names = ("setup", "fork", "online", "disconnect", "exit", "listening", "reopen_logs")
        self.given_hooks = {name: [self._note(name)] for name in names}
        self.pid_file = tmp_path / "pid"
        self.control = tmp_path / "control"
        self.primary = Primary(
            self.poller,
            self.environment,
            ClusterSettings(
                **{
                    "binds": ("127.0.0.1:0",),
                    "workers": 2,
                    "control": str(self.control),
                    "pid_file": str(self.pid_file),
                    **settings,
                }
            ),
            worker_argv=["worker"],
            worker_config=None,
            sidecars=sidecars,
            env={"PATH": "/bin"},
            env_of=lambda slot: {"OF": f"slot {slot}"},
            hooks=self.given_hooks,
        )

    def _note(self, name: str) -> Callable[[dict[str, Any]], None]:
        return lambda fields: self.hooks.append(name)

    def workers(self) -> list[FakeProcess]:
        """Return the workers that run, in the order of their start."""
        return [each for each in self.environment.processes if each.argv == ["worker"] and each.status is None]

    def boot(self, process: FakeProcess) -> None:
        process.channel.inbox.append(Ready())
        self.poller.make_ready(process.channel.fileno(), READABLE)

    def start(self) -> None:
        self.primary.start()
        for process in self.workers():
            self.boot(process)

    def end_workers(self, code: int = 0) -> None:
        for process in self.workers():
            process.exit(code)
        self.primary.reap()

    def address(self) -> tuple[str, int]:
        host, _, port = self.primary.statistics()["addresses"][0].rpartition(":")
        return host, int(port)

    def accepts(self) -> bool:
        with socket.socket() as client:
            try:
                client.connect(self.address())
            except (ConnectionRefusedError, IndexError):
                return False
        return True


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.primary.close()


LEGAL = {
    (S.STARTING, E.LISTEN): S.SERVING,
    (S.STARTING, E.STOP): S.STOPPING,
    (S.SERVING, E.WARN): S.LAME_DUCK,
    (S.SERVING, E.STOP): S.STOPPING,
    (S.SERVING, E.RELEASE): S.STOPPED,
    (S.LAME_DUCK, E.STOP): S.STOPPING,
    (S.STOPPING, E.ENDED): S.STOPPED,
}


@pytest.mark.parametrize(
    ("state", "event"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1].name}") for pair in itertools.product(S, E)]
)
def test_the_table_of_states(scene: Scene, state: PrimaryState, event: PrimaryEvent) -> None:
    assert TRANSITIONS.get((state, event)) == LEGAL.get((state, event))
    if (state, event) not in LEGAL:
        scene.primary.state = state
        with pytest.raises(AssertionError, match=f"event {event.name} is illegal in state {state.name}"):
            scene.primary._transition(event)


def test_no_client_is_accepted_before_a_worker_is_ready(scene: Scene) -> None:
    scene.primary.start()
    assert scene.hooks == ["setup", "fork", "fork"]
    assert not scene.accepts()
    scene.boot(scene.workers()[0])
    assert scene.hooks[3:] == ["listening", "online"]
    assert scene.primary.state is S.SERVING
    assert scene.accepts()


def test_each_worker_has_its_slot_in_its_environment(scene: Scene) -> None:
    scene.primary.start()
    assert [each.env for each in scene.workers()] == [
        {"PATH": "/bin", SLOT: str(slot), "OF": f"slot {slot}"} for slot in range(2)
    ]


def test_workers_are_started_when_the_sidecars_are_ready_and_end_before_them(tmp_path: Path) -> None:
    scene = Scene(tmp_path, BROKER)
    scene.primary.start()
    assert scene.workers() == []
    [broker] = scene.environment.processes
    assert broker.ready is not None
    broker.ready.send(b"1")
    for fd in list(scene.poller.epoll.watched):
        scene.poller.make_ready(fd, READABLE)
    for process in scene.workers():
        scene.boot(process)
    scene.primary.handle_signal(signal.SIGTERM)
    assert broker.signals == []
    scene.end_workers()
    assert broker.signals == [signal.SIGTERM]
    assert scene.primary.state is S.STOPPING
    broker.exit()
    scene.primary.reap()
    assert scene.primary.state is S.STOPPED
    scene.primary.close()
    scene.environment.close()


def test_a_sidecar_that_cannot_be_started_ends_the_server(tmp_path: Path) -> None:
    scene = Scene(tmp_path, BROKER)
    scene.primary.start()
    for _ in range(3):
        scene.environment.last.exit(1)
        scene.primary.reap()
        scene.poller.run_for(1.0)
    assert scene.primary.state is S.STOPPED
    assert scene.primary._status == 1
    assert scene.workers() == []
    scene.primary.close()
    scene.environment.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_of_these_drains_and_the_second_ends_at_once(scene: Scene, number: signal.Signals) -> None:
    scene.start()
    scene.primary.handle_signal(number)
    assert not scene.accepts()
    assert all(each.channel.kinds()[-1] is Kind.DRAIN for each in scene.workers())
    assert scene.primary.state is S.STOPPING
    assert [each.signals for each in scene.workers()] == [[], []]
    workers = scene.workers()
    scene.primary.handle_signal(number)
    assert [each.signals for each in workers] == [[signal.SIGKILL]] * 2
    scene.primary.reap()
    assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 128 + number)


def readiness_of(process: FakeProcess) -> list[dict[str, Any]]:
    """Return what a worker was told of the server, in its order."""
    events = [fields for kind, fields in process.channel.sent if kind is Kind.EVENT]
    return [about for name, about in events if name == READINESS]


LAME: dict[str, Any] = {"reasons": [LAME_DUCK], "stopping": True}
LAST: dict[str, Any] = {"reasons": [STOPPING], "stopping": True}


class TestLameDuck:
    @pytest.fixture
    def scene(self, tmp_path: Path) -> Iterator[Scene]:
        scene = Scene(tmp_path, lame_duck_s=10.0, hung_s=1000.0)
        scene.start()
        yield scene
        scene.primary.close()

    def test_everything_is_served_on_and_then_drained(self, scene: Scene) -> None:
        scene.primary.handle_signal(signal.SIGTERM)
        assert scene.primary.state is S.LAME_DUCK
        assert [readiness_of(each) for each in scene.workers()] == [[LAME]] * 2
        scene.poller.run_for(9.9)
        assert scene.accepts()
        assert Kind.DRAIN not in [kind for each in scene.workers() for kind in each.channel.kinds()]
        scene.poller.run_for(0.1)
        assert not scene.accepts()
        assert scene.primary.state is S.STOPPING
        assert [readiness_of(each) for each in scene.workers()] == [[LAME, LAST]] * 2
        assert all(each.channel.kinds()[-1] is Kind.DRAIN for each in scene.workers()), "its reason comes first"
        scene.end_workers()
        assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 0)

    def test_a_second_signal_cuts_it_short_and_a_third_ends_at_once(self, scene: Scene) -> None:
        scene.primary.handle_signal(signal.SIGTERM)
        scene.primary.handle_signal(signal.SIGINT)
        assert scene.primary.state is S.STOPPING
        assert not scene.accepts()
        drains = [each.channel.kinds().count(Kind.DRAIN) for each in scene.workers()]
        scene.poller.run_for(20)
        assert [each.channel.kinds().count(Kind.DRAIN) for each in scene.workers()] == drains == [1, 1]
        scene.primary.handle_signal(signal.SIGTERM)
        scene.primary.reap()
        assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 128 + signal.SIGTERM)

    def test_quit_ends_at_once(self, scene: Scene) -> None:
        scene.primary.handle_signal(signal.SIGTERM)
        scene.primary.handle_signal(signal.SIGQUIT)
        scene.primary.reap()
        assert scene.primary.state is S.STOPPED

    def test_a_worker_that_dies_is_replaced_and_its_successor_knows(self, scene: Scene) -> None:
        scene.primary.handle_signal(signal.SIGTERM)
        first, second = scene.workers()
        first.kill()
        scene.primary.reap()
        scene.poller.run_for(1)
        [_, successor] = scene.workers()
        assert successor is not second
        scene.boot(successor)
        assert readiness_of(successor) == [LAME]

    def test_nothing_is_reloaded_and_a_worker_that_got_term_as_well_is_not_replaced(self, scene: Scene) -> None:
        scene.primary.handle_signal(signal.SIGTERM)
        assert not scene.primary.reload()
        worker = scene.workers()[0]
        worker.channel.inbox.append(Retire())
        scene.poller.make_ready(worker.channel.fileno(), READABLE)
        assert len(scene.workers()) == 2
        assert Kind.DRAIN not in worker.channel.kinds()

    def test_the_statistics_show_it(self, scene: Scene) -> None:
        found = scene.primary.statistics()
        assert (found["state"], found["unready"], found["drains_in_s"]) == ("serving", [], None)
        scene.primary.handle_signal(signal.SIGTERM)
        scene.poller.run_for(4)
        found = scene.primary.statistics()
        assert (found["state"], found["unready"], found["drains_in_s"]) == ("lame duck", [LAME_DUCK], 6.0)
        assert not found["stopping"]
        scene.poller.run_for(6)
        found = scene.primary.statistics()
        assert (found["state"], found["drains_in_s"], found["stopping"]) == ("stopping", None, True)
        assert found["unready"] == [NO_WORKER, STOPPING]


def test_a_stop_before_any_client_was_accepted_warns_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, lame_duck_s=10.0)
    scene.primary.start()
    scene.primary.handle_signal(signal.SIGTERM)
    assert scene.primary.state is S.STOPPING
    scene.primary.close()


def test_a_stop_that_takes_its_time_has_status_zero(scene: Scene) -> None:
    scene.start()
    scene.primary.handle_signal(signal.SIGTERM)
    scene.end_workers()
    assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 0)


def test_quit_ends_at_once(scene: Scene) -> None:
    scene.start()
    workers = scene.workers()
    scene.primary.handle_signal(signal.SIGQUIT)
    scene.primary.reap()
    assert [each.signals for each in workers] == [[signal.SIGKILL]] * 2
    assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 128 + signal.SIGQUIT)


def test_a_stop_while_the_workers_boot(scene: Scene) -> None:
    scene.primary.start()
    scene.primary.handle_signal(signal.SIGTERM)
    scene.primary.reap()
    assert (scene.primary.state, scene.primary._status) == (S.STOPPED, 0)
    assert "listening" not in scene.hooks


def test_no_worker_can_boot(scene: Scene) -> None:
    scene.primary.start()
    while scene.primary.state is not S.STOPPED:
        scene.end_workers(EXIT_BOOT)
        scene.poller.run_for(1.0)
    assert scene.primary._status == EXIT_BOOT


def test_other_signals(scene: Scene) -> None:
    scene.start()
    scene.primary.handle_signal(signal.SIGTTIN)
    assert scene.primary.statistics()["wanted"] == 3
    scene.primary.handle_signal(signal.SIGTTOU)
    scene.primary.handle_signal(signal.SIGTTOU)
    assert scene.primary.statistics()["wanted"] == 1
    scene.primary.handle_signal(signal.SIGUSR1)
    assert scene.hooks[-1] == "reopen_logs"
    scene.primary.handle_signal(signal.SIGHUP)
    assert scene.primary.statistics()["reload"]["left"] == 1


def test_one_sigchld_stands_for_many(scene: Scene) -> None:
    scene.start()
    first, second = scene.workers()
    first.kill()
    second.kill()
    scene.primary._on_signals([signal.SIGCHLD])
    assert scene.hooks.count("exit") == 2


def test_drain_and_inspect_need_a_slot_that_is_served(scene: Scene) -> None:
    scene.start()
    assert not scene.primary.drain(Slot(7))
    assert not scene.primary.inspect(Slot(7), lambda text: None)
    assert scene.primary.drain(Slot(1))
    assert scene.primary.statistics()["reload"]["left"] == 1


def test_a_hook_that_raises_is_counted_and_the_others_are_called(scene: Scene) -> None:
    def fail(fields: dict[str, Any]) -> None:
        raise LookupError("a mistake in a hook")

    called: list[str] = []
    scene.given_hooks["fork"] = [fail, lambda fields: called.append("fork")]
    scene.primary.start()
    assert called == ["fork", "fork"]
    assert scene.poller.counters["hooks_failed"] == 2


def test_files_are_there_while_it_runs_and_gone_afterwards(tmp_path: Path) -> None:
    scene = Scene(tmp_path, binds=(f"unix:{tmp_path / 's'}",))
    scene.start()
    assert scene.pid_file.exists()
    assert scene.control.is_socket()
    assert (tmp_path / "s").is_socket()
    scene.primary.stop()
    assert not (tmp_path / "s").exists(), "no client is sent to a server that stops"
    scene.end_workers()
    scene.primary.close()
    assert not scene.pid_file.exists()
    assert not scene.control.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"binds": ("nonsense",)},
        {"user": "no-such-user"},
        {"pid_file": "/no/such/directory/pid"},
        {"balance": "nonsense"},
    ],
)
def test_a_setting_that_cannot_be_used_starts_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Scene(tmp_path, **settings)


def test_a_start_that_fails_leaves_the_files_of_the_server_that_runs_alone(tmp_path: Path) -> None:
    running = Scene(tmp_path, binds=(f"unix:{tmp_path / 's'}",), control=None)
    running.start()
    with pytest.raises(SettingsError, match="another process listens there already"):
        Scene(tmp_path, binds=("127.0.0.1:0", f"unix:{tmp_path / 's'}"), control=None)
    assert running.pid_file.exists()
    assert (tmp_path / "s").is_socket()
    running.primary.close()


def test_a_start_that_fails_leaves_no_file_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Scene(tmp_path, binds=(f"unix:{tmp_path / 's'}",), control="/no/such/directory/control")
    assert list(tmp_path.iterdir()) == []


def test_the_statistics_are_plain_data(scene: Scene) -> None:
    scene.start()
    found = scene.primary.statistics()
    assert (found["live"], found["wanted"], found["stopping"], found["sidecars"]) == ([0, 1], 2, False, [])
    assert [each["state"] for each in found["workers"]] == ["ready", "ready"]
