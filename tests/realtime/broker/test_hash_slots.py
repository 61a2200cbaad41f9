"""Which slot a key has, and what a node says of slots."""

from __future__ import annotations

import pytest

from realtime.broker.hash_slots import (
    HASH_SLOTS,
    HashSlotRange,
    hash_slot_of,
    hash_slot_of_channel,
    read_map,
    read_redirection,
    tag_in_hash_slots,
)


@pytest.mark.parametrize(
    ("tag", "slot"),
    [("123456789", 0x31C3), ("foo", 12182), ("bar", 5061), ("hello", 866), ("räume", hash_slot_of("räume"))],
)
def test_a_hash_slot_is_crc16_of_the_tag(tag: str, slot: int) -> None:
    assert hash_slot_of(tag) == slot
    assert hash_slot_of_channel(f"rt:{{{tag}}}:c".encode()) == slot
    assert hash_slot_of_channel(f"rt:{{{tag}}}:c{{x}}".encode()) == slot, "the first tag counts"


@pytest.mark.parametrize("slots", [{0}, {HASH_SLOTS - 1}, set(range(100, 200)), {hash_slot_of("~")}])
def test_a_tag_is_found_for_any_hash_slot(slots: set[int]) -> None:
    assert hash_slot_of(tag_in_hash_slots(slots)) in slots


NODES = b"""\
aaaa 10.0.0.1:7000@17000 master - 0 1 1 connected 0-5460
bbbb 10.0.0.9:7009@17009 slave aaaa 0 1 1 connected
cccc :7001@17001,host myself,master - 0 0 2 connected 5461
dddd 10.0.0.4:7004@17004,host.example master - 0 1 3 connected 5462-16383 [77->-aaaa]
eeee ::1:7005@17005 master - 0 1 4 connected
ffff 10.0.0.6:7006@17006 master,fail - 1 1 4 disconnected
gggg :0@0 master,noaddr - 1 1 4 disconnected
hhhh 10.0.0.7:7007@17007 master,fail? - 1 1 4 connected
"""


def test_a_map_names_masters_and_the_node_that_was_asked_where_it_does_not_know_itself() -> None:
    slots = [
        [0, 5460, [b"10.0.0.1", 7000, b"aaaa", []], [b"10.0.0.9", 7009, b"bbbb", []]],
        [5461, 5461, [b"", 7001, b"cccc"]],
        [5462, 9000, [b"host.example", 7004, b"dddd", [b"ip", b"10.0.0.4"]]],
        [9001, 16383, [None, 7006, b"ffff"]],
    ]
    found = read_map(slots, NODES, "asked")
    assert found.ranges == [
        HashSlotRange(0, 5460, ("10.0.0.1", 7000)),
        HashSlotRange(5461, 5461, ("asked", 7001)),
        HashSlotRange(5462, 9000, ("host.example", 7004)),
        HashSlotRange(9001, 16383, ("asked", 7006)),
    ]
    assert found.masters == {("10.0.0.1", 7000), ("asked", 7001), ("host.example", 7004), ("::1", 7005)}
    assert read_map([], b"", "asked").ranges == []


def test_a_master_without_hash_slots_has_a_name_where_the_others_have() -> None:
    nodes = b"""\
aaaa 10.0.0.1:7001@17001,one.example master - 0 1 1 connected 0-16383
bbbb 10.0.0.2:7002@17002,two.example,shard-id=b master - 0 1 1 connected
cccc 10.0.0.3:7003@17003, master - 0 1 1 connected
"""
    for host, other in (("one.example", "two.example"), ("10.0.0.1", "10.0.0.2")):
        found = read_map([[0, 16383, [host.encode(), 7001, b"aaaa"]]], nodes, "asked")
        assert found.masters == {(host, 7001), (other, 7002), ("10.0.0.3", 7003)}


NO_MAPS = [b"OK", 3, [[1]], [[1, 2, 3]], [[b"x", 2, [b"h", 1, b"n"]]], [[1, 2, [b"\xff", 1, b"n"]]], None]


@pytest.mark.parametrize("slots", NO_MAPS)
def test_what_is_no_map_is_refused(slots: object) -> None:
    with pytest.raises(ValueError, match="no map"):
        read_map(slots, NODES, "asked")  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", [b"\xff", b"one", b"a b c", b"a host master"])
def test_what_names_no_nodes_is_refused(nodes: bytes) -> None:
    with pytest.raises(ValueError, match="no map"):
        read_map([], nodes.replace(b"a b c", b"a b master"), "asked")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 ::1:6381", ("::1", 6381)),
        ("MOVED 3999 host.example:6381", ("host.example", 6381)),
        ("MOVED 3999 :6381", ("asked", 6381)),
        ("MOVED 3999 ?:6381", ("asked", 6381)),
    ],
)
def test_a_redirection_names_a_node(text: str, endpoint: tuple[str, int]) -> None:
    assert read_redirection(text, "asked") == endpoint
