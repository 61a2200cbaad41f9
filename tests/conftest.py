"""
What tests need from the machine: a Redis server, Chromium, Node, HAProxy, nginx, a C compiler, git with the history of
this repository; and the interpreter that has the frameworks, which `make test-slow` sets up. Where it is missing they
are skipped, and say so.

`REALTIME_REQUIRE=redis,browser,node,haproxy,nginx,compiler,git` turns that round, for the machine that has to prove
everything: what is named there must be found, and a single skipped test fails the run. One skip is allowed there: the
official suites of Socket.IO are no part of this repository, and REALTIME_SOCKETIO_SUITES names where they are.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis  # here: its plugin would import it while it tells of a failure, deep in the stack: too deep
import pytest

PROGRAMS = {
    "redis": ("redis-server", "valkey-server"),
    "browser": ("chromium", "chromium-browser", "google-chrome"),
    "node": ("node",),
    "haproxy": ("haproxy",),
    "nginx": ("nginx",),
    "compiler": ("cc", "gcc", "clang"),
    "git": ("git",),
    "frameworks": (str(Path(__file__).resolve().parents[1] / ".venv-apps" / "bin" / "python"),),
}
REQUIRED = frozenset(filter(None, os.environ.get("REALTIME_REQUIRE", "").replace(" ", "").split(",")))
SLOW_S = 1_800
SUITES = "REALTIME_SOCKETIO_SUITES"
NO_SUITES = f"THE OFFICIAL SUITES OF ENGINE.IO AND SOCKET.IO DID NOT RUN: {SUITES} names no folder with them"

# Without a clock: a busy machine is no failure. Here, before any test is decorated: `given` takes what is set then.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")

gc.set_threshold(50_000, 20, 50)  # what tests keep is looked at less often: the ledgers take 29 s, not 50

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the tests' files between them
    # A runtime directory of its own: commands find a server there without being told which. Short, for sockets.
    _directory = tempfile.mkdtemp(prefix="rt-", dir="/tmp")
    os.chmod(_directory, 0o1777)  # as /tmp is: some servers become another user
    atexit.register(shutil.rmtree, _directory, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = _directory
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it ignores it, and so would the servers that it starts

_skipped: list[str] = []  # why, for each skipped test


def lacks(need: str) -> str:
    """Say what of `PROGRAMS` is missing."""
    if need == "frameworks":
        return "needs .venv-apps with Gradio, Streamlit, Shiny and marimo: `make .venv-apps/.installed`"
    return f"needs {' or '.join(PROGRAMS[need])} on PATH"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a requirement that means nothing: a typing error there would skip what it was to require."""
    unknown = sorted(REQUIRED - PROGRAMS.keys())
    if unknown:
        raise pytest.UsageError(f"REALTIME_REQUIRE: {', '.join(unknown)} is not one of {', '.join(PROGRAMS)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time before they count as hanging than `timeout` of pyproject.toml gives."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_S))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test whose program is not on PATH."""
    for need, programs in PROGRAMS.items():
        if item.get_closest_marker(need) and not any(shutil.which(program) for program in programs):
            sentence = lacks(need)
            if need in REQUIRED:
                pytest.fail(f"{sentence}; REALTIME_REQUIRE does not allow to skip it", pytrace=False)
            pytest.skip(sentence)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped; an expected failure counts as run."""
    if report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(why.removeprefix("Skipped: "))


def _forbidden_skips() -> int:
    """Count the skipped tests that REALTIME_REQUIRE does not allow to be skipped."""
    return sum(why != NO_SUITES for why in _skipped)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that had to prove everything and did not."""
    if REQUIRED and _forbidden_skips() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what was skipped, a line for each reason, and whether that fails the run."""
    for why, count in Counter(_skipped).most_common():
        terminalreporter.write_line(f"NOT RUN HERE: {count} tests; {why}", yellow=True, bold=True)
    if REQUIRED and (forbidden := _forbidden_skips()):
        terminalreporter.write_sep("=", f"REALTIME_REQUIRE is set, and {forbidden} tests were skipped", red=True)
