"""How many connections each address has, and which connection makes room."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.keys.addresses import Addresses, EvictionQueue, Network, network_of
from sticky.keys.affinity import Affinity, AffinitySettings


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_address_is_all_of_ipv4_and_the_64_of_ipv6(one: str, other: str, same: bool) -> None:
    assert network_of(one) is not None
    assert (network_of(one) == network_of(other)) is same


@pytest.mark.parametrize("text", ["unix", "", "::", "1.2.3", "h"])
def test_what_is_no_address_has_no_network(text: str) -> None:
    assert (network_of(text) is None) is (text != "::")


def test_proxies_of_ours_are_not_counted() -> None:
    addresses = Addresses(Affinity(AffinitySettings(trusted=(ip_network("10.0.0.1"),))), most=1, descriptors=1024)
    assert addresses.of("10.0.0.1") is None
    addresses.accepted(None)
    assert addresses.admits(None)
    assert addresses.has_share(None, {})
    assert len(addresses) == 0


DEEDS = ("come", "end", "hand", "report", "die", "back")
STEPS = st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 7)), max_size=60)


@given(STEPS)
def test_each_address_has_as_many_as_there_are_wherever_they_go(steps: list[tuple[str, int]]) -> None:
    """Connections of two addresses come, are handed to one of two workers, end here or there, and workers die."""
    addresses = Addresses(Affinity(AffinitySettings()), most=None, descriptors=1024)
    networks = [Network(b"\x7f\0\0\1"), Network(b"\x7f\0\0\2")]
    here: list[Network] = []
    there: list[list[Network]] = [[], []]
    held: list[dict[Network, int]] = [{}, {}]
    for step, number in steps:
        worker, network = number % 2, networks[number // 2 % 2]
        if step == "come":
            addresses.accepted(network)
            here.append(network)
        elif step == "end" and network in here:
            addresses.ended(network)
            here.remove(network)
        elif step == "hand" and network in here:
            addresses.handed_over(network, held[worker])
            here.remove(network)
            there[worker].append(network)
        elif step == "report" and network in there[worker]:
            addresses.ended_in_worker(network, 1, held[worker])
            there[worker].remove(network)
        elif step == "back" and network in there[worker]:
            addresses.taken_back(network, held[worker])
            there[worker].remove(network)
            here.append(network)
        elif step == "die":
            addresses.worker_lost(held[worker])
            there[worker].clear()
        everywhere = Counter([*here, *there[0], *there[1]])
        assert [addresses.count(each) for each in networks] == [everywhere[each] for each in networks]
        assert len(addresses) == len(everywhere), "nothing is kept of an address without a connection"
        assert held == [dict(Counter(each)) for each in there]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 9)), max_size=80))
def test_room_is_made_by_the_address_that_waits_most(steps: list[tuple[bool, int, int]]) -> None:
    queue: EvictionQueue[tuple[int, int]] = EvictionQueue()
    waiting: list[tuple[int, int]] = []
    for comes, network, name in steps:
        one = (network, name)
        key = Network(bytes([network])) if network else None  # 0: not counted by address
        if comes and one not in waiting:
            queue.add(key, one)
            waiting.append(one)
        elif one in waiting:
            queue.remove(key, one)
            waiting.remove(one)
        counts = Counter(network for network, _ in waiting if network)
        most = max(counts.values(), default=1 if waiting else 0)
        oldest = queue.oldest()
        if not waiting:
            assert oldest is None
            continue
        assert oldest is not None
        assert oldest in waiting
        assert (counts[oldest[0]] if oldest[0] else 1) == most
        if oldest[0]:
            assert oldest == next(each for each in waiting if each[0] == oldest[0]), "its oldest"
            assert oldest == queue.oldest_of(Network(bytes([oldest[0]])))


def test_where_each_waits_alone_it_is_the_oldest_of_all() -> None:
    queue: EvictionQueue[int] = EvictionQueue()
    for number in range(5):
        queue.add(Network(bytes([number])), number)
    assert queue.oldest() == 0
    queue.remove(Network(b"\0"), 0)
    assert queue.oldest() == 1
