"""Every event in every state of a worker: the table itself, and what the supervisor makes of each event."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable

import pytest

from sticky.handoff.channel import Kind, Unreadable
from sticky.handoff.messages import Ready
from sticky.handoff.worker_handle import TRANSITIONS, WorkerEvent, WorkerHandle, WorkerState
from tests.support.cluster_without_processes import ClusterWithoutProcesses

S, E = WorkerState, WorkerEvent
ILLEGAL = None

# Rows: the state. Columns: the event. This repeats the table on purpose: a change of it is a decision.
TABLE: dict[WorkerState, dict[WorkerEvent, WorkerState | None]] = {
    S.STARTING: {E.READY: S.READY, E.DRAIN: ILLEGAL, E.SILENT: S.HUNG, E.CONDEMN: S.CONDEMNED, E.EXIT: S.GONE},
    S.READY: {E.READY: ILLEGAL, E.DRAIN: S.DRAINING, E.SILENT: S.HUNG, E.CONDEMN: S.CONDEMNED, E.EXIT: S.GONE},
    S.DRAINING: {E.READY: ILLEGAL, E.DRAIN: ILLEGAL, E.SILENT: S.HUNG, E.CONDEMN: S.CONDEMNED, E.EXIT: S.GONE},
    S.HUNG: {E.READY: ILLEGAL, E.DRAIN: ILLEGAL, E.SILENT: ILLEGAL, E.CONDEMN: S.CONDEMNED, E.EXIT: S.GONE},
    S.CONDEMNED: {E.READY: ILLEGAL, E.DRAIN: ILLEGAL, E.SILENT: ILLEGAL, E.CONDEMN: ILLEGAL, E.EXIT: S.GONE},
    S.GONE: {E.READY: ILLEGAL, E.DRAIN: ILLEGAL, E.SILENT: ILLEGAL, E.CONDEMN: ILLEGAL, E.EXIT: ILLEGAL},
}
PAIRS = list(itertools.product(WorkerState, WorkerEvent))


def name(pair: object) -> str:
    return "-".join(each.name.lower() for each in pair) if isinstance(pair, tuple) else str(pair)


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_the_table_of_transitions(pair: tuple[WorkerState, WorkerEvent]) -> None:
    state, event = pair
    assert TRANSITIONS.get(pair) == TABLE[state][event]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if TABLE[pair[0]][pair[1]] is ILLEGAL], ids=name)
def test_an_illegal_event_raises_and_names_state_and_event(pair: tuple[WorkerState, WorkerEvent]) -> None:
    state, event = pair
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start(ready=False)
    worker = cluster.starting()
    worker.state = state
    with pytest.raises(AssertionError, match=f"event {event.name} is illegal in state {state.name}"):
        worker.transition(event)
    assert worker.state is state, "and nothing changes"


# The supervisor: a worker of slot 0 in each state, and everything that can come to it from outside


def starting(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    cluster.start(ready=False)
    cluster.boot(1)
    return cluster.starting(0)


def ready(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    cluster.start()
    return cluster.live(0)


def draining(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    worker = ready(cluster)
    cluster.supervisor.replace(worker.slot)
    cluster.boot(0)
    return worker


def hung(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    worker = ready(cluster)
    cluster.supervisor.worker_hung(worker)
    return worker


def condemned(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    worker = ready(cluster)
    cluster.supervisor.condemn(worker, "a test")
    return worker


def gone(cluster: ClusterWithoutProcesses) -> WorkerHandle:
    worker = ready(cluster)
    cluster.end_channel(worker)
    return worker


MAKE: dict[WorkerState, Callable[[ClusterWithoutProcesses], WorkerHandle]] = {
    S.STARTING: starting,
    S.READY: ready,
    S.DRAINING: draining,
    S.HUNG: hung,
    S.CONDEMNED: condemned,
    S.GONE: gone,
}


def sends_ready(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.send(worker, Ready())


def sends_garbage(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.send(worker, Unreadable("not msgpack"))


def is_replaced(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.supervisor.replace(worker.slot)
    if any(each.state is S.STARTING for each in cluster.workers.by_pid.values()):
        cluster.boot(0)


def is_silent(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    """Send no heartbeat until the watchdog reports it; all other workers send theirs."""
    bound_s = cluster.settings.boot_s if worker.state is S.STARTING else cluster.settings.hung_s
    end = cluster.poller.passed_s + bound_s + cluster.settings.hung_s / 4
    while cluster.poller.passed_s < end and worker.state is not S.HUNG:
        for each in list(cluster.workers.by_pid.values()):
            if each is not worker and each.state in (S.READY, S.DRAINING):
                cluster.beat(each)
        cluster.poller.run_for(0.5)


def closes_its_channel(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.end_channel(worker)


def is_killed(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.kill(worker)


def server_stops(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.supervisor.stop()


def server_stops_at_once(cluster: ClusterWithoutProcesses, worker: WorkerHandle) -> None:
    cluster.supervisor.stop_now(143)


Input = Callable[[ClusterWithoutProcesses, WorkerHandle], None]

# input: state before -> (state after, what the primary has sent to the process)
NOTHING: list[signal.Signals] = []
KILL, DUMP = [signal.SIGKILL], [signal.SIGUSR2]
INPUTS: dict[Input, dict[WorkerState, tuple[WorkerState, list[signal.Signals]]]] = {
    sends_ready: {
        S.STARTING: (S.READY, NOTHING),
        S.READY: (S.CONDEMNED, KILL),
        S.DRAINING: (S.CONDEMNED, KILL),
        S.HUNG: (S.HUNG, NOTHING),
        S.CONDEMNED: (S.CONDEMNED, KILL),  # not received: it is killed since before
    },
    sends_garbage: {
        S.STARTING: (S.CONDEMNED, KILL),
        S.READY: (S.CONDEMNED, KILL),
        S.DRAINING: (S.CONDEMNED, KILL),
        S.HUNG: (S.CONDEMNED, KILL),
        S.CONDEMNED: (S.CONDEMNED, KILL),
    },
    is_replaced: {
        S.STARTING: (S.READY, NOTHING),  # the slot has no other worker, so this one is the new one
        S.READY: (S.DRAINING, NOTHING),
        S.DRAINING: (S.DRAINING, NOTHING),
        S.HUNG: (S.HUNG, NOTHING),
        S.CONDEMNED: (S.CONDEMNED, KILL),
        S.GONE: (S.GONE, NOTHING),
    },
    is_silent: {
        S.STARTING: (S.HUNG, NOTHING),  # it may not know SIGUSR2 yet
        S.READY: (S.HUNG, DUMP),
        S.DRAINING: (S.HUNG, DUMP),
    },
    closes_its_channel: {
        S.STARTING: (S.GONE, NOTHING),
        S.READY: (S.GONE, NOTHING),
        S.DRAINING: (S.GONE, NOTHING),
        S.HUNG: (S.GONE, NOTHING),
        S.CONDEMNED: (S.GONE, KILL),
    },
    is_killed: {
        S.STARTING: (S.GONE, NOTHING),
        S.READY: (S.GONE, NOTHING),
        S.DRAINING: (S.GONE, NOTHING),
        S.HUNG: (S.GONE, NOTHING),
        S.CONDEMNED: (S.GONE, KILL),
        S.GONE: (S.GONE, NOTHING),
    },
    server_stops: {
        S.STARTING: (S.STARTING, KILL),
        S.READY: (S.DRAINING, NOTHING),
        S.DRAINING: (S.DRAINING, NOTHING),
        S.HUNG: (S.HUNG, NOTHING),  # the watchdog kills it
        S.CONDEMNED: (S.CONDEMNED, KILL),
        S.GONE: (S.GONE, NOTHING),
    },
    server_stops_at_once: {
        S.STARTING: (S.STARTING, KILL),
        S.READY: (S.READY, KILL),
        S.DRAINING: (S.DRAINING, KILL),
        S.HUNG: (S.HUNG, KILL),
        S.CONDEMNED: (S.CONDEMNED, KILL),
        S.GONE: (S.GONE, KILL),
    },
}


@pytest.mark.parametrize(
    ("action", "state"),
    [
        pytest.param(action, state, id=f"{action.__name__}-{state.name}")
        for action, row in INPUTS.items()
        for state in row
    ],
)
def test_what_an_input_does_to_a_worker(action: Input, state: WorkerState) -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    worker = MAKE[state](cluster)
    assert worker.state is state
    action(cluster, worker)
    after, signals = INPUTS[action][state]
    assert (worker.state, cluster.process(worker).signals) == (after, signals)
    assert (cluster.workers.live.get(worker.slot) is worker) == (after is S.READY)
    cluster.check()


def test_a_worker_is_reaped_before_or_after_its_channel_has_ended() -> None:
    for channel_first in (True, False):
        cluster = ClusterWithoutProcesses(workers=1)
        worker = ready(cluster)
        if channel_first:
            cluster.end_channel(worker)
            assert cluster.workers.is_dying()
        cluster.kill(worker)
        assert not cluster.workers.is_dying()
        assert [fields["status"] for fields in cluster.events("exit")] == [-9]
        assert len(cluster.events("disconnect")) == 1
        cluster.poller.run_for(0.1)
        assert cluster.boot(0) is not worker


def test_messages_that_a_dead_worker_left_are_still_handled() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start(ready=False)
    worker = cluster.starting()
    cluster.process(worker).channel.inbox.append(Ready())
    cluster.exit(worker, 1)  # reaped before the poller reports its channel
    assert cluster.events("online") == [{"slot": 0, "worker_id": worker.worker_id, "pid": worker.pid}]
    assert worker.state is S.GONE
    cluster.check()


def test_a_worker_gets_no_message_after_its_end() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    worker = gone(cluster)
    channel = cluster.process(worker).channel
    assert channel.is_closed
    sent = list(channel.sent)
    cluster.workers.send(worker, Kind.INSPECT)
    cluster.workers.notify_all("online", {})
    cluster.workers.wants_write(worker, True)
    assert channel.sent == sent
    cluster.check()
