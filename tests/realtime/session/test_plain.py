"""`conn.state`: what is in it can move, comes back as it was, and what could not move is refused with its key."""

from __future__ import annotations

import datetime
import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.session.plain import DEPTH_MAX, NotPlain, PlainState, pack, unpack

UTC = datetime.UTC
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
)
HASHABLE = st.recursive(LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
KEYS = st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary()
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def kinds(value: Any) -> Any:
    """Return the types in a value, in the order of their representations where it has none."""
    if isinstance(value, dict):
        return (type(value), [(type(key), kinds(each)) for key, each in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [kinds(each) for each in value])
    if isinstance(value, set | frozenset):
        return (type(value), sorted(repr(kinds(each)) for each in value))
    return type(value)


@given(VALUES)
def test_plain_data_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    found = unpack(pack(value, "it"))
    assert (found, kinds(found)) == (value, kinds(value))


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        (object(), "conn.state['key']", "object is not plain data"),
        ([1, {"a": object()}], "conn.state['key'][1]['a']", "object"),
        ({1: {2, 3}, "x": (object(),)}, "conn.state['key']['x'][0]", "object"),
        (Colour.RED, "conn.state['key']", "Colour"),
        (Text("x"), "conn.state['key']", "Text"),
        (2**64, "conn.state['key']", "64 bits"),
        ({(1, 2): 3}, "conn.state['key'][(1, 2)]", "a key of type tuple"),
        ({True: 3}, "conn.state['key'][True]", "a key of type bool"),
        ("\ud800", "conn.state['key']", "lone surrogate"),
        (endless(), "conn.state['key'][0][0]", f"more than {DEPTH_MAX}"),
        (lambda: None, "conn.state['key']", "function"),
        (datetime.date(2020, 1, 1), "conn.state['key']", "date"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_cannot_move_is_refused_when_it_is_set_with_its_key(value: Any, path: str, why: str) -> None:
    state = PlainState({"before": 1})
    with pytest.raises(NotPlain) as refused:
        state["key"] = value
    assert refused.value.path.startswith(path)
    assert why in str(refused.value)
    for change in (
        lambda: state.update(key=value),
        lambda: state.update({"other": 2, "key": value}),
        lambda: state.setdefault("key", value),
        lambda: state.__ior__({"key": value}),
        lambda: PlainState({"key": value}),
    ):
        with pytest.raises(NotPlain):
            change()
    assert state == {"before": 1}, "nothing of it is there"


def test_what_was_changed_in_place_is_found_when_it_is_packed() -> None:
    state = PlainState({"cart": [1], "name": "ann"})
    state["cart"].append({"made": object()})
    with pytest.raises(NotPlain, match=r"conn\.state\['cart'\]\[1\]\['made'\]: object"):
        pack(state, "conn.state")


def test_it_is_a_dict_in_every_other_way() -> None:
    state = PlainState()
    state |= {"a": 1}
    state.update([("b", {1, 2})], c=(3,))
    assert state.setdefault("a", 7) == 1
    assert state.setdefault("d") is None
    del state["a"]
    assert state.pop("d") is None
    assert state == {"b": {1, 2}, "c": (3,)}
    assert isinstance(state, dict)
