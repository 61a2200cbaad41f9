"""Which slot a key has, and what a node says of slots."""

from __future__ import annotations

import pytest

from realtime.broker.slots import SLOTS, Range, channel_slot, read_map, read_redirection, slot_of, tag_within


@pytest.mark.parametrize(
    ("tag", "slot"), [("123456789", 0x31C3), ("foo", 12182), ("bar", 5061), ("hello", 866), ("räume", slot_of("räume"))]
)
def test_a_slot_is_crc16_of_the_tag(tag: str, slot: int) -> None:
    assert slot_of(tag) == slot
    assert channel_slot(f"rt:{{{tag}}}:c".encode()) == slot
    assert channel_slot(f"rt:{{{tag}}}:c{{x}}".encode()) == slot, "the first tag counts"


@pytest.mark.parametrize("slots", [{0}, {SLOTS - 1}, set(range(100, 200)), {slot_of("~")}])
def test_a_tag_is_found_for_any_slot(slots: set[int]) -> None:
    assert slot_of(tag_within(slots)) in slots


def test_a_map_names_masters_and_the_node_that_was_asked_where_it_does_not_know_itself() -> None:
    reply = [
        [0, 5460, [b"10.0.0.1", 7000, b"a" * 40, []], [b"10.0.0.9", 7009, b"b" * 40, []]],
        [5461, 5461, [b"", 7001, b"c" * 40]],
        [5462, 9000, [None, 7002, b"d" * 40]],
        [9001, 16383, [b"?", 7003, b"e" * 40, [b"hostname", b"host.example"]]],
    ]
    assert read_map(reply, "asked") == [
        Range(0, 5460, ("10.0.0.1", 7000)),
        Range(5461, 5461, ("asked", 7001)),
        Range(5462, 9000, ("asked", 7002)),
        Range(9001, 16383, ("asked", 7003)),
    ]
    assert read_map([], "asked") == []


@pytest.mark.parametrize("reply", [b"OK", 3, [[1]], [[1, 2, 3]], [[b"x", 2, [b"h", 1]]], [[1, 2, [b"\xff", 1]]], None])
def test_what_is_no_map_is_told(reply: object) -> None:
    with pytest.raises(ValueError, match="no map"):
        read_map(reply, "asked")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 ::1:6381", ("::1", 6381)),
        ("MOVED 3999 host.example:6381", ("host.example", 6381)),
        ("MOVED 3999 :6381", ("asked", 6381)),
    ],
)
def test_a_redirection_names_a_node(text: str, endpoint: tuple[str, int]) -> None:
    assert read_redirection(text, "asked") == endpoint
