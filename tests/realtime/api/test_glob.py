"""The patterns of the API's `channels`."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.api.glob import ALTERNATIVES_MAX, BadGlob, compile_glob


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("chat:*", ["chat:", "chat:a", "chat:a:b"], ["chat", "xchat:a"]),
        ("{news,chat}:*", ["news:1", "chat:1"], ["news", "{news,chat}:1", "other:1"]),
        ("a{b,c{d,e}}f", ["abf", "acdf", "acef"], ["af", "acf"]),
        ("a{,b}", ["a", "ab"], ["a{,b}"]),
        ("{a*,?b}", ["a", "axy", "xb"], ["b", "xyb"]),
        ("[ab]:x", ["a:x", "b:x"], ["c:x", "[ab]:x"]),
        ("[!ab]:x", ["c:x", "!:x"], ["a:x", "b:x"]),
        ("[a,}]x", ["ax", ",x", "}x"], ["bx"]),
        ("{[a,b],c}", ["a", ",", "b", "c"], ["[a", "b]"]),
        (r"\*\{a\}", ["*{a}"], ["x{a}", "*a"]),
        ("a[b", ["a[b"], ["ab"]),
        ("a}b,c", ["a}b,c"], ["ab"]),
        ("line\nbreak", ["line\nbreak"], ["line"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = compile_glob(pattern).match
    assert [name for name in matching if not matches(name)] == []
    assert [name for name in others if matches(name)] == []


@pytest.mark.parametrize("pattern", ["{a", "{a,{b}", "x" * 2000, "{a,b}" * 9])
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadGlob):
        compile_glob(pattern)


def test_as_many_alternatives_as_are_allowed() -> None:
    assert ALTERNATIVES_MAX == 2**8
    assert compile_glob("{a,b}" * 8).match("abababab")


@given(st.text("ab*?[]!-:", max_size=12), st.text("ab:-]", max_size=6))
def test_without_braces_it_is_what_the_shell_does(pattern: str, name: str) -> None:
    assert bool(compile_glob(pattern).match(name)) == fnmatch.fnmatchcase(name, pattern)


@given(st.lists(st.text("ab*?", max_size=4), min_size=1, max_size=4), st.text("ab", max_size=6))
def test_braces_match_what_one_of_their_alternatives_does(texts: list[str], name: str) -> None:
    found = bool(compile_glob("x{" + ",".join(texts) + "}y").match(f"x{name}y"))
    assert found == any(re.match(fnmatch.translate(f"x{text}y"), f"x{name}y") for text in texts)
