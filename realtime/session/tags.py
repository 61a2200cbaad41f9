"""
Filters by tags: which publications a subscriber wants.

Pure: a filter as the client sent it becomes a function of a publication's tags (Centrifuge client protocol, section
12). A wrong filter is refused when it comes, never while something is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from msgspec import Struct

Accepts = Callable[[Mapping[str, str]], bool]

NODES_MAX: Final = 64  # in one filter: each is asked for each publication
NUMBER_MAX: Final = 64  # characters


class FilterNode(Struct):
    """A leaf (`cmp`) or an inner node (`op`) of a filter by tags. Plain data: a subscription keeps its filter so."""

    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[FilterNode] = []


class BadFilter(Exception):
    """A filter that means nothing. The text is for the log."""


def compile_filter(node: FilterNode) -> Accepts:
    """
    Return the function that says whether a publication with these tags is wanted.

    Raises:
        BadFilter: an unknown operator, a missing key, values where none belong, or a wrong number of children.
    """
    if _count(node) > NODES_MAX:
        raise BadFilter(f"more than {NODES_MAX} nodes")
    return _compile(node)


def _count(node: FilterNode) -> int:
    """Count the nodes of a filter, and no further than matters: a client may nest as deeply as its message allows."""
    count, nodes = 0, [node]
    while nodes and count <= NODES_MAX:
        count += 1
        nodes += nodes.pop().nodes
    return count


def _compile(node: FilterNode) -> Accepts:
    """Return the function of one node. What it needs is computed now, and not for each publication."""
    if not node.op:
        return _leaf(node)
    if node.key or node.cmp or node.val or node.vals:
        raise BadFilter(f"{node.op!r} compares nothing itself")
    below = [_compile(each) for each in node.nodes]
    if node.op == "not" and len(below) == 1:
        inner = below[0]
        return lambda tags: not inner(tags)
    if node.op == "and" and below:
        return lambda tags: all(each(tags) for each in below)
    if node.op == "or" and below:
        return lambda tags: any(each(tags) for each in below)
    raise BadFilter(f"{node.op!r} with {len(below)} nodes")


def _leaf(node: FilterNode) -> Accepts:
    """
    Return the function of a comparison. A missing key is "" for `in` and `nin`, true for `neq` and `nex`, and false for
    all others (section 12).
    """
    key, name, value, values = node.key, node.cmp, node.val, frozenset(node.vals)
    if not key or node.nodes:
        raise BadFilter("a comparison needs a key, and has no nodes")
    if name in ("in", "nin"):
        if value or not values:
            raise BadFilter(f"{name} takes `vals`")
        return lambda tags: (tags.get(key, "") in values) is (name == "in")
    if values:
        raise BadFilter(f"{name} takes no `vals`")
    if name in ("ex", "nex"):
        if value:
            raise BadFilter(f"{name} takes no value")
        return lambda tags: (key in tags) is (name == "ex")
    if name in ("gt", "gte", "lt", "lte"):
        return _order(key, name, value)
    compare = COMPARISONS.get(name)
    if compare is None:
        raise BadFilter(f"there is no comparison {name!r}")
    if name == "neq":
        return lambda tags: tags.get(key) != value
    return lambda tags: key in tags and compare(tags[key], value)


COMPARISONS: Final[dict[str, Callable[[str, str], bool]]] = {
    "eq": lambda found, value: found == value,
    "neq": lambda found, value: found != value,
    "sw": lambda found, value: found.startswith(value),
    "ew": lambda found, value: found.endswith(value),
    "ct": lambda found, value: value in found,
}

ORDERS: Final[dict[str, Callable[[Decimal, Decimal], bool]]] = {
    "gt": lambda found, bound: found > bound,
    "gte": lambda found, bound: found >= bound,
    "lt": lambda found, bound: found < bound,
    "lte": lambda found, bound: found <= bound,
}


def _order(key: str, name: str, value: str) -> Accepts:
    """Return the function of a comparison of numbers. Where either side is none, nothing matches."""
    bound, compare = _decimal(value), ORDERS[name]

    def accepts(tags: Mapping[str, str]) -> bool:
        found = _decimal(tags[key]) if key in tags else None
        return found is not None and bound is not None and compare(found, bound)

    return accepts


def _decimal(text: str) -> Decimal | None:
    """Return the number in a text, or None. A long text is none: Python would compute with all of its digits."""
    try:
        value = Decimal(text) if len(text) <= NUMBER_MAX else None
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None
