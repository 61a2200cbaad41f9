"""The key that one segment of a path is."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.errors import SettingsError
from sticky.heads.first_bytes import Head, inspect
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.keys.path_key import PathKey

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda name: name not in (".", ".."))


def spelt(name: str, every: bool) -> str:
    """Write a name in a path: as little of it encoded as may be, or every byte."""
    return "".join(f"%{byte:02X}" for byte in name.encode()) if every else quote(name, safe="~!$&'()*+,;=:@")


@given(names, st.booleans())
def test_a_document_has_one_key_however_its_name_is_written(name: str, every: bool) -> None:
    assert PathKey("/doc/{key}").of(f"/doc/{spelt(name, every)}") == name


@given(names, names)
def test_two_documents_have_two_keys(one: str, other: str) -> None:
    found = PathKey("/{key}")
    assert (found.of(f"/{spelt(one, False)}") == found.of(f"/{spelt(other, True)}")) == (one == other)


@pytest.mark.parametrize(
    ("pattern", "path", "key"),
    [
        ("/doc/{key}", "/doc/a", "a"),
        ("/doc/{key}", "/%64oc/a", "a"),
        ("/d%6Fc/{key}", "/doc/a", "a"),
        ("/{key}", "/a", "a"),
        ("/{key}/ws", "/a/ws", "a"),
        ("/doc/{key}/", "/doc/a/", "a"),
        ("/документ/{key}", "/%D0%B4%D0%BE%D0%BA%D1%83%D0%BC%D0%B5%D0%BD%D1%82/a", "a"),
        ("/doc/{key}", "/doc/a+b", "a+b"),
        ("/doc/{key}", "/doc/a%2Fb", "a/b"),
        ("/doc/{key}", "/doc/%2561", "%61"),
        ("/doc/{key}", "/doc/a;v=1", "a;v=1"),
        ("/doc/{key}", "/doc/%7Bkey%7D", "{key}"),
    ],
)
def test_the_segment_is_the_key(pattern: str, path: str, key: str) -> None:
    assert PathKey(pattern).of(path) == key


OTHERS = ["/", "*", "/doc", "/doc/", "/doc//a", "//doc/a", "/doc/a/", "/doc/a/b", "/x/doc/a", "/DOC/a", "/docs/a"]
DOTS = ["/doc/.", "/doc/..", "/doc/%2e%2e", "/doc/./a", "/x/../doc/a", "/doc%2Fa"]


@pytest.mark.parametrize("path", OTHERS + DOTS)
def test_other_paths_have_no_key(path: str) -> None:
    assert PathKey("/doc/{key}").of(path) is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("doc/{key}", "does not begin with a slash"),
        ("", "does not begin with a slash"),
        ("/doc", "must have {key} as one whole segment, once"),
        ("/doc/{key}/{key}", "must have {key} as one whole segment, once"),
        ("/doc-{key}", "must have {key} as one whole segment, once"),
        ("/{name}", "must have {key} as one whole segment, once"),
        ("/{name}/{key}", "has a brace outside of {key}"),
        ("/{key}?a=1", "a query, a fragment or white space"),
        ("/a b/{key}", "a query, a fragment or white space"),
        ("//{key}", "has an empty segment"),
        ("/../{key}", "or one of dots"),
    ],
)
def test_what_is_no_pattern_is_refused_and_says_why(pattern: str, why: str) -> None:
    with pytest.raises(SettingsError, match="session_path") as refused:
        AffinitySettings(session_path=pattern)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("target", "session"),
    [
        ("/doc/plans?sid=other", "plans"),
        ("http://h/doc/plans", "plans"),
        ("/?at=/doc/plans", "by-cookie"),
        ("/other?x=/doc/plans", "by-cookie"),
        ("/doc/plans/history", "by-cookie"),
    ],
)
def test_the_path_goes_before_everything_else_and_only_the_path(target: str, session: str) -> None:
    affinity = Affinity(AffinitySettings(sticky=Sticky.SESSION, session_path="/doc/{key}"))
    head = inspect(f"GET {target} HTTP/1.1\r\nHost: h\r\nCookie: rt_session=by-cookie\r\n\r\n".encode())
    assert isinstance(head, Head)
    assert affinity.sticky_id_of(head) == session
