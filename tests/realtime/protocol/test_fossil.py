"""Deltas: the protocol's vectors, and whatever else, applied by the stock SDK's own code."""

from __future__ import annotations

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.centrifuge.encoder import difference
from realtime.protocol.centrifuge.fossil import delta


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        ('{"a":1}', '{"a":2}', '7\n7:{"a":2}2qLDtY;'),
        ("", "abc", "3\n3:abc1XObC0;"),
        (
            '{"user":"42","text":"hello world","n":1}',
            '{"user":"42","text":"hello there","n":2}',
            'd\nR@0,D:there","n":2}3Z0frU;',
        ),
    ],
)
def test_the_documents_vectors(source: str, target: str, wanted: str) -> None:
    assert delta(source.encode(), target.encode()).decode() == wanted


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_two_texts(source: bytes, target: bytes) -> None:
    assert apply_delta(source, delta(source, target)) == target


blocks = st.lists(st.sampled_from([b"a" * 40, b"abcdefghijklmnopqrstuvwxyz", b"\0\1\2" * 11, b"x"]), max_size=12)


@given(blocks, blocks, st.binary(max_size=5))
def test_texts_that_share_much(source: list[bytes], target: list[bytes], between: bytes) -> None:
    before, after = b"".join(source), between.join(target)
    assert apply_delta(before, delta(before, after)) == after


def test_a_change_in_a_long_text_is_short() -> None:
    before = bytes(range(256)) * 200
    after = before[:20_000] + b"something else" + before[20_100:]
    found = delta(before, after)
    assert len(found) < 100
    assert apply_delta(before, found) == after


def test_no_delta_where_it_would_not_be_shorter() -> None:
    assert difference(b"abc", b"xyz") is None
    assert difference(b"a" * 100, b"a" * 101) is not None
