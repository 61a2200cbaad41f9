"""Log lines of the primary: what they look like, what stands in the record, and that one thing is one line."""

from __future__ import annotations

import logging
import re
import signal

import pytest

from sticky.loop import log_lines
from sticky.loop.log_lines import (
    RELOAD_GIVEN_UP,
    WORKER_CANNOT_BOOT,
    WORKER_DRAINING,
    WORKER_EXITED,
    WORKER_HUNG,
    WORKER_READY,
    line,
    log,
)
from tests.support.cluster_without_processes import ClusterWithoutProcesses
from tests.support.log_lines import PID, exited, pattern
from tests.support.server import ROOT


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"slot": 0, "pid": 811, "ready": "1/4"}, "worker ready slot=0 pid=811 ready=1/4"),
        ({"reason": "killed by SIGKILL"}, 'worker ready reason="killed by SIGKILL"'),
        ({"reason": 'it said "no"'}, r'worker ready reason="it said \"no\""'),
        ({"reason": "a=b"}, 'worker ready reason="a=b"'),
        ({"reason": "two\nlines"}, r'worker ready reason="two\nlines"'),
        ({"reason": ""}, 'worker ready reason=""'),
        ({"reason": "schön"}, "worker ready reason=schön"),
        ({"delay_s": 1.0, "drain_s": 0.25}, "worker ready delay_s=1 drain_s=0.25"),
        ({"slot": 3, "pid": None}, "worker ready slot=3"),
    ],
)
def test_a_line_is_an_event_and_fields_that_one_can_search(fields: dict[str, object], text: str) -> None:
    assert line(WORKER_READY, **fields) == text


def test_the_record_has_the_fields_and_keeps_its_own_pid(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log(logging.INFO, WORKER_READY, slot=0, pid=811, generation=None, reason=ValueError("no JSON"))
    [record] = caplog.records
    assert record.fields == {"slot": 0, "worker_pid": 811, "reason": "no JSON"}  # type: ignore[attr-defined]


def test_text_of_another_process_follows_and_is_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    log(logging.ERROR, WORKER_CANNOT_BOOT, slot=1, detail="Traceback\n  100 %s")
    assert caplog.records[0].getMessage() == "worker cannot boot slot=1\nTraceback\n  100 %s"


def test_every_event_is_there_once() -> None:
    events = [value for name, value in vars(log_lines).items() if name.isupper() and isinstance(value, str)]
    assert len(events) == len(set(events)) > 20


def test_the_docs_list_every_event_but_those_for_debugging() -> None:
    text = (ROOT / "docs" / "deploying" / "monitoring.md").read_text(encoding="utf-8")
    table = text.partition("## Log lines of the primary")[2].partition("\n## ")[0]
    events = {value for name, value in vars(log_lines).items() if name.isupper() and isinstance(value, str)}
    debugging = {log_lines.WORKER_STARTED, log_lines.WORKER_STATE, log_lines.STATE}
    assert [each for each in sorted(events - debugging) if f"`{each}`" not in table] == []


def test_a_pattern_finds_its_line_and_no_other() -> None:
    text = line(WORKER_READY, slot=1, pid=811, ready="4/4")
    assert re.search(pattern(WORKER_READY, slot=1), text)
    found = re.search(pattern(WORKER_READY, slot=1, pid=PID, ready=r"(\d+)/\2"), text)
    assert found is not None
    assert found.groups() == ("811", "4")
    for other in (pattern(WORKER_READY, slot=11), pattern(WORKER_READY, pid=81), pattern(WORKER_EXITED, slot=1)):
        assert not re.search(other, text)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_a_worker_that_comes_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=4)
    with caplog.at_level(logging.INFO):
        cluster.start()
    assert [re.sub(r"pid=\d+", "pid=…", each) for each in messages(caplog)] == [
        f"worker ready slot={slot} pid=… ready={slot + 1}/4" for slot in range(4)
    ]


@pytest.mark.parametrize("is_expected", [True, False])
def test_a_worker_that_goes_is_one_line(caplog: pytest.LogCaptureFixture, is_expected: bool) -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    worker = cluster.live(0)
    if is_expected:
        cluster.supervisor.replace(worker.slot)
        cluster.boot(0)
    with caplog.at_level(logging.INFO):
        cluster.exit(worker) if is_expected else cluster.kill(worker)
    reason = "status 0" if is_expected else "killed by SIGKILL"
    assert messages(caplog) == [line(WORKER_EXITED, slot=0, pid=worker.pid, reason=reason)]
    assert caplog.records[-1].levelno == (logging.INFO if is_expected else logging.WARNING)


def test_a_worker_that_is_replaced_is_three_lines(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=1, drain_s=60.0)
    cluster.start()
    old = cluster.live(0)
    with caplog.at_level(logging.INFO):
        cluster.supervisor.replace(old.slot)
        new = cluster.boot(0)
        cluster.exit(old)
    assert messages(caplog) == [
        line(WORKER_READY, slot=0, pid=new.pid, ready="1/1"),
        line(WORKER_DRAINING, slot=0, pid=old.pid, drain_s=60),
        line(WORKER_EXITED, slot=0, pid=old.pid, reason="status 0"),
    ]


def test_a_worker_that_hangs_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    worker = cluster.live(0)
    with caplog.at_level(logging.INFO):
        while not cluster.process(worker).is_reaped:
            cluster.poller.run_for(0.5)
            cluster.reap()
    hung, ended = messages(caplog)[:2]
    assert re.search(pattern(WORKER_HUNG, slot=0, pid=worker.pid) + ' .*"no heartbeat for 6', hung)
    assert re.search(exited("killed by SIGKILL", slot=0, pid=worker.pid), ended)


def test_a_drained_worker_that_has_to_be_killed_is_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=1, drain_s=1.0)
    cluster.start()
    old = cluster.live(0)
    cluster.supervisor.replace(old.slot)
    cluster.boot(0)
    with caplog.at_level(logging.INFO):
        cluster.run_alive(10.0)
        cluster.reap()
    assert messages(caplog) == [
        f'worker killed slot=0 pid={old.pid} reason="it has not ended after its drain"',
        f'worker exited slot=0 pid={old.pid} reason="killed by SIGKILL"',
    ]


def test_why_a_new_version_does_not_boot_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    with caplog.at_level(logging.INFO):
        cluster.supervisor.reload()
        cluster.fail_boot(cluster.starting(0), "Traceback\nImportError: app")
    assert caplog.text.count("ImportError: app") == 1
    assert re.search(pattern(RELOAD_GIVEN_UP, slot=0), caplog.text)
    assert "worker exited" not in caplog.text, "the line that it cannot boot implies it"


def test_states_are_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    with caplog.at_level(logging.DEBUG):
        cluster.start()
        cluster.kill(cluster.live(0), signal.SIGTERM)
    states = [each.getMessage() for each in caplog.records if each.getMessage().startswith(log_lines.WORKER_STATE)]
    assert [each.partition(" before=")[2] for each in states] == ["starting after=ready", "ready after=gone"]
