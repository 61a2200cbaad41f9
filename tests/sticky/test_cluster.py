"""The public face: what it refuses before it runs, and the hooks that it collects. test_primary.py has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import sticky
from sticky.cluster import Cluster, ClusterSettings
from sticky.errors import SettingsError
from sticky.handoff.messages import EXIT_BOOT


def make() -> Cluster:
    return Cluster(ClusterSettings(binds=("127.0.0.1:0",)), worker_argv=["worker"], env={})


def test_it_is_the_face_that_users_import() -> None:
    assert (sticky.Cluster, sticky.ClusterSettings) == (Cluster, ClusterSettings)


@pytest.mark.parametrize(
    "call",
    [
        lambda cluster: cluster.reload(),
        lambda cluster: cluster.stop(),
        lambda cluster: cluster.statistics(),
        lambda cluster: cluster.send("all", {"a": 1}),
        lambda cluster: cluster.scale(2),
        lambda cluster: cluster.drain(0),
    ],
    ids=["reload", "stop", "statistics", "send", "scale", "drain"],
)
def test_a_cluster_that_does_not_run_cannot_be_asked(call: Callable[[Cluster], object]) -> None:
    with pytest.raises(RuntimeError, match="the cluster does not run yet"):
        call(make())


def test_an_address_that_cannot_be_bound_is_refused_before_anything_is_started() -> None:
    cluster = Cluster(ClusterSettings(binds=("256.0.0.1:0",)), worker_argv=["/no/such/worker"], env={})
    with pytest.raises(SettingsError):
        cluster.run()


def test_hooks_of_one_event_are_called_in_the_order_in_which_they_were_given() -> None:
    heard: list[str] = []
    cluster = Cluster(
        ClusterSettings(binds=("127.0.0.1:0",)),
        worker_argv=["/no/such/worker"],
        env={},
        hooks={"setup": lambda fields: heard.append("first")},
    )
    cluster.on("setup", lambda fields: heard.append(f"second {len(fields['addresses'])}"))
    assert cluster.run() != 0, "no worker can be started"
    assert heard == ["first", "second 1"]


def test_the_hooks_that_are_given_stay_as_they_were() -> None:
    given: dict[str, Callable[[dict[str, Any]], None]] = {"setup": lambda fields: None}
    cluster = Cluster(ClusterSettings(binds=("127.0.0.1:0",)), worker_argv=["/no/such/worker"], env={}, hooks=given)
    cluster.on("setup", lambda fields: None)
    cluster.on("exit", lambda fields: None)
    assert list(given) == ["setup"]


def test_no_address_is_announced_where_no_worker_can_serve() -> None:
    announced: list[list[str]] = []
    cluster = Cluster(
        ClusterSettings(binds=("127.0.0.1:0",), boots_max=1),
        worker_argv=["/no/such/worker"],
        env={},
        on_listening=announced.append,
    )
    assert cluster.run() == EXIT_BOOT
    assert announced == []


def test_what_a_hook_raises_does_not_end_the_cluster(caplog: pytest.LogCaptureFixture) -> None:
    def fail(fields: dict[str, Any]) -> None:
        raise LookupError("a fault of the application")

    cluster = Cluster(
        ClusterSettings(binds=("127.0.0.1:0",), boots_max=1),
        worker_argv=["/no/such/worker"],
        env={},
        hooks={"setup": fail},
    )
    assert cluster.run() == EXIT_BOOT
    assert "a fault of the application" in caplog.text
