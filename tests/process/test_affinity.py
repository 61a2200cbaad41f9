"""
A client's address leads to the same slot: with every connection, after a restart, and again after a worker's death.

Three hundred addresses of the loopback network over real processes. A table, address -> slot, is what is compared; it
is read from the workers' answers, never computed.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.tiny_cluster import TinyCluster

WORKERS = 4
CONNECTS = 5
CLIENTS = [f"127.{10 + n % 7}.{n // 250}.{n % 250 + 1}" for n in range(300)]

Table = dict[str, int]


def table_of(cluster: TinyCluster, connects: int = 1) -> Table:
    """Ask from every address so many times, in rounds, and return whom each meets."""
    met: dict[str, set[int]] = {client: set() for client in CLIENTS}
    for _ in range(connects):
        for client in CLIENTS:
            answer = cluster.get(client=client)
            assert (answer["client"], answer["reason"]) == (client, "ip")
            met[client].add(answer["slot"])
    assert [client for client, slots in met.items() if len(slots) != 1] == [], "every address meets one slot"
    return {client: slots.pop() for client, slots in met.items()}


@pytest.fixture(scope="module")
def first() -> Table:
    """The table of a cluster that has come and gone."""
    with TinyCluster(workers=WORKERS, sticky="ip") as cluster:
        return table_of(cluster, CONNECTS)


def test_the_addresses_are_spread_over_the_slots(first: Table) -> None:
    counts = Counter(first.values())
    assert sorted(counts) == list(range(WORKERS))
    assert max(counts.values()) / (len(CLIENTS) / WORKERS) <= 1.4


def test_a_new_primary_with_the_same_secret_has_the_same_table(first: Table) -> None:
    with TinyCluster(workers=WORKERS, sticky="ip") as cluster:
        assert table_of(cluster, CONNECTS) == first


def test_another_secret_makes_another_table(first: Table) -> None:
    with TinyCluster(workers=WORKERS, sticky="ip", secret="t" * 32) as cluster:
        other = table_of(cluster)
    moved = [client for client in CLIENTS if other[client] != first[client]]
    assert len(moved) > len(CLIENTS) / 2, "three of four move by chance alone"
    assert len(moved) < len(CLIENTS)


@pytest.mark.parametrize("lost", range(WORKERS))
def test_a_death_moves_the_addresses_of_that_slot_alone_and_they_come_back(
    first: Table, lost: int, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    with TinyCluster(workers=WORKERS, sticky="ip", config={"boot": "fail-if", "path": str(broken)}) as cluster:
        before = cluster.pids()
        broken.touch()
        os.kill(before[lost], signal.SIGKILL)
        rest = [slot for slot in range(WORKERS) if slot != lost]
        cluster.wait_for_live(rest)
        during = table_of(cluster)
        assert cluster.status()["live"] == rest, "the slot was empty all the while"
        moved = {client for client in CLIENTS if during[client] != first[client]}
        assert moved == {client for client in CLIENTS if first[client] == lost}
        assert {during[client] for client in moved} == set(rest), "they are shared among all that are left"
        broken.unlink()
        cluster.wait_for_live(list(range(WORKERS)))
        after = cluster.pids()
        assert after.pop(lost) != before.pop(lost), "another process serves the slot"
        assert after == before, "nobody else was touched"
        assert table_of(cluster) == first
