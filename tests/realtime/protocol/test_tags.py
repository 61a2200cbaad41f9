"""Filters by tags (Centrifuge client protocol, section 12)."""

from __future__ import annotations

import pytest

from realtime.session.tags import NODES_MAX, BadFilter, FilterNode, compile_filter


def leaf(cmp: str, val: str = "", vals: list[str] | None = None, key: str = "k") -> FilterNode:
    return FilterNode(key=key, cmp=cmp, val=val, vals=vals or [])


@pytest.mark.parametrize(
    ("node", "wanted", "unwanted"),
    [
        (leaf("eq", "a"), [{"k": "a"}], [{"k": "b"}, {}, {"j": "a"}]),
        (leaf("eq", ""), [{"k": ""}], [{}]),
        (leaf("neq", "a"), [{"k": "b"}, {}], [{"k": "a"}]),
        (leaf("in", vals=["a", "b"]), [{"k": "a"}, {"k": "b"}], [{"k": "c"}, {}]),
        (leaf("in", vals=["", "b"]), [{}, {"k": "b"}], [{"k": "c"}]),
        (leaf("nin", vals=["a"]), [{"k": "b"}, {}], [{"k": "a"}]),
        (leaf("ex"), [{"k": ""}], [{}, {"j": "1"}]),
        (leaf("nex"), [{}], [{"k": "1"}]),
        (leaf("sw", "ab"), [{"k": "abc"}], [{"k": "cab"}, {}]),
        (leaf("ew", "ab"), [{"k": "cab"}], [{"k": "abc"}, {}]),
        (leaf("ct", "ab"), [{"k": "cabc"}], [{"k": "acb"}, {}]),
        (leaf("gt", "9"), [{"k": "10"}, {"k": "9.5"}], [{"k": "9"}, {"k": "-10"}, {"k": "ten"}, {}, {"k": "NaN"}]),
        (leaf("gte", "9.0"), [{"k": "9"}], [{"k": "8.99"}]),
        (leaf("lt", "0"), [{"k": "-1e3"}], [{"k": "0"}]),
        (leaf("lte", "0"), [{"k": "-0"}], [{"k": "0.1"}]),
        (leaf("lte", "zero"), [], [{"k": "0"}]),
        (FilterNode(op="not", nodes=[leaf("ex")]), [{}], [{"k": ""}]),
        (FilterNode(op="and", nodes=[leaf("ex"), leaf("neq", "a")]), [{"k": "b"}], [{}, {"k": "a"}]),
        (FilterNode(op="or", nodes=[leaf("nex"), leaf("eq", "a")]), [{}, {"k": "a"}], [{"k": "b"}]),
    ],
)
def test_a_filter(node: FilterNode, wanted: list[dict[str, str]], unwanted: list[dict[str, str]]) -> None:
    accepts = compile_filter(node)
    assert [accepts(tags) for tags in wanted] == [True] * len(wanted)
    assert [accepts(tags) for tags in unwanted] == [False] * len(unwanted)


@pytest.mark.parametrize(
    "node",
    [
        FilterNode(),
        leaf("eq", "a", key=""),
        leaf("like", "a"),
        leaf("eq", "a", ["b"]),
        leaf("in", "a"),
        leaf("in", "a", ["b"]),
        leaf("ex", "a"),
        FilterNode(key="k", cmp="eq", nodes=[leaf("ex")]),
        FilterNode(op="and"),
        FilterNode(op="not"),
        FilterNode(op="not", nodes=[leaf("ex"), leaf("ex")]),
        FilterNode(op="xor", nodes=[leaf("ex")]),
        FilterNode(op="and", key="k", nodes=[leaf("ex")]),
        FilterNode(op="or", nodes=[leaf("ex"), leaf("what")]),
        FilterNode(op="or", nodes=[leaf("ex")] * NODES_MAX),
    ],
)
def test_what_means_nothing_is_refused(node: FilterNode) -> None:
    with pytest.raises(BadFilter):
        compile_filter(node)
