"""What keys and channels are called: workers of two versions meet under these names, in a reload at the latest."""

from __future__ import annotations

import pytest

from realtime.broker.base import Room
from realtime.broker.hash_slots import hash_slot_of, hash_slot_of_channel
from realtime.broker.keys import HOME, RedisKeys, tag_of

KEYS = RedisKeys("rt")
LOBBY = Room("chat:lobby")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (KEYS.channel(LOBBY), "rt:{chat:lobby}:c"),
        (KEYS.stream(LOBBY), "rt:{chat:lobby}:s"),
        (KEYS.meta(LOBBY), "rt:{chat:lobby}:o"),
        (KEYS.members(LOBBY), "rt:{chat:lobby}:m"),
        (KEYS.idempotency(LOBBY, "once"), "rt:{chat:lobby}:i:once"),
        (KEYS.rate(LOBBY, "ann"), "rt:{chat:lobby}:l:ann"),
        (KEYS.leases, "rt:{~}:leases"),
        (KEYS.owned("one"), "rt:{~}:w:one"),
        (KEYS.probe("one", HOME), "rt:{~}:probe:one"),
    ],
)
def test_a_key_keeps_its_name(key: str, name: str) -> None:
    assert key == name


@pytest.mark.parametrize(
    ("room", "tag"),
    [("chat:lobby", "chat:lobby"), ("", "%"), ("%", "%25"), ("{", "%7B"), ("}{", "%7D%7B"), ("%7B", "%257B")],
)
def test_what_a_room_is_hashed_by_holds_no_brace_and_is_never_empty(room: str, tag: str) -> None:
    assert tag_of(Room(room)) == tag
    for key in (KEYS.channel(Room(room)), KEYS.stream(Room(room)), KEYS.idempotency(Room(room), "}{")):
        assert hash_slot_of_channel(key.encode()) == hash_slot_of(tag)
