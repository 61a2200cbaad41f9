"""What a message may be, beyond the types of its fields. test_edge.py has the processes that send anything else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sticky.handoff import messages
from sticky.handoff.channel import CARRIERS, Carrier, Kind, Message
from sticky.handoff.messages import DATA_DEPTH_MAX, DEPTH_MAX, from_primary, from_worker, is_plain, is_shallow

encode = msgspec.msgpack.encode


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def subclasses(kind: type[Message]) -> list[type[Message]]:
    return [each for each in kind.__subclasses__() if each is not Carrier]


def test_each_kind_is_one_message_and_the_carriers_are_those_with_bytes() -> None:
    plain, carriers = subclasses(Message), subclasses(Carrier)
    tags = [each.__struct_config__.tag for each in (*plain, *carriers)]
    assert sorted(tags) == sorted(int(kind) for kind in Kind)
    assert {each.__struct_config__.tag for each in carriers} == {int(kind) for kind in CARRIERS}


def test_an_acknowledgement_settles_only_what_it_adopts() -> None:
    assert from_worker(memoryview(encode([Kind.ACK, 2, 1]))) == messages.Ack(2, 1)
    with pytest.raises(msgspec.ValidationError, match="handoff 2 is settled, but only 1 is adopted"):
        from_worker(memoryview(encode([Kind.ACK, 1, 2])))


def test_fields_that_a_newer_process_adds_are_ignored_and_those_it_lacks_have_a_default() -> None:
    header = [b"", 1, "a", 1, "http", "http", "GET", "/", False, None, None, "ip", "a"]
    old = from_primary(memoryview(encode([Kind.HANDOFF, *header])))
    assert isinstance(old, messages.Handoff)
    assert (old.away, old.is_relayed) == (False, False)
    assert from_primary(memoryview(encode([Kind.HANDOFF, *header, False, False, "added later"]))) == old


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, True),
        ({"a": [1, 2.5, "b", True, None, {}]}, True),
        (b"bytes", False),
        ({"a": b"bytes"}, False),
        ({1: 2}, False),
        ((1, 2), False),
        (nested(DEPTH_MAX), True),
        (nested(DEPTH_MAX + 1), False),
    ],
)
def test_plain_is_what_json_can_represent(value: Any, expected: bool) -> None:
    assert is_plain(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"bytes", True), (nested(DATA_DEPTH_MAX), True), (nested(DATA_DEPTH_MAX + 1), False), ({"a": {}}, True)],
)
def test_shallow_is_what_every_process_can_decode(value: Any, expected: bool) -> None:
    assert is_shallow(value) is expected
