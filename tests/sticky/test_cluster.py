"""The public face: what it refuses before it runs, and the hooks that it collects. test_primary.py has the rest."""

from __future__ import annotations

import pytest

from sticky import Cluster, ClusterSettings
from sticky.errors import SettingsError


def make() -> Cluster:
    return Cluster(ClusterSettings(binds=("127.0.0.1:0",)), worker_argv=["worker"], env={})


@pytest.mark.parametrize("call", ["reload", "stop", "statistics"])
def test_a_cluster_that_does_not_run_cannot_be_asked(call: str) -> None:
    with pytest.raises(RuntimeError, match="the cluster does not run yet"):
        getattr(make(), call)()


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
