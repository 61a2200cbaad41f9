"""
Primary, worker and parser find the same query id in a request, whatever its target looks like and however it is cut.

The primary inspects a connection's first head, the worker cuts later ones out of its bytes, and the session's code gets
what httptools has parsed. One that saw another id than the others would bring a request to a wrong worker.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sticky.heads.first_bytes import Head, inspect
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot
from sticky.worker.requests import Begin, Requests
from sticky.worker.routes import Routes
from tests.sticky.test_agreement import Reading

HASHING = Hashing(b"a secret of some length", entropy=lambda count: b"\x07" * count)
FOREIGN = Hashing(b"another secret of some length", entropy=bytes)
PATHS = ("/io", "/io/")
SLOTS = 4
IDS = [HASHING.new_query_id(Slot(slot)) for slot in range(SLOTS)]
KNOWN = dict(zip(IDS, range(SLOTS), strict=True))

names = st.sampled_from(["sid", "s%69d", "si%64", "xsid", "sidx", "SID", "si+d", "%2573id", "t", "EIO", ""])
values = st.sampled_from(
    [
        *IDS,
        *(f"%{ord(each[0]):02X}{each[1:]}" for each in IDS),
        *(f"{each}%20" for each in IDS[:1]),
        *(f"+{each}" for each in IDS[:1]),
        *(f"{each}=" for each in IDS[:1]),
        FOREIGN.new_query_id(Slot(1)),
        HASHING.new_sticky_id(Slot(1)),
        "",
        "4",
        "%FF%00",
        "%zz",
    ]
)
pairs = st.tuples(names, st.sampled_from(["=", "==", "", "%3D"]), values).map("".join)
queries = st.lists(pairs, max_size=5).flatmap(
    lambda found: st.sampled_from(["&", "&&", ";", "?", "%26", "/"]).map(lambda between: between.join(found))
)
plain_queries = st.lists(pairs, max_size=3).map("&".join)
paths = st.sampled_from(["/io/", "/io", "/%69o/", "/io%2F", "/io//", "/IO/", "/io/x", "/", "/x/io/", "/io/.", "/io;a/"])
origins = st.sampled_from(["", "", "", "http://a", "HTTP://A"])
targets = st.tuples(origins, paths, st.sampled_from(["?", "?", "?", "??", "&", ""]), queries | plain_queries).map(
    "".join
)


def request(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\nCookie: sid={IDS[3]}\r\n\r\n".encode()


def routing(sticky: Sticky) -> Affinity:
    return Affinity(AffinitySettings(sticky=sticky, query_id_paths=PATHS), HASHING)


def as_the_application_reads(data: bytes) -> int | None:
    """Return the slot of the id that is in httptools' reading of the request, by the rules of forms."""
    url = httptools.parse_url(Reading(data).target)
    if unquote((url.path or b"/").decode()) not in PATHS:
        return None
    query = (url.query or b"").decode()
    found = [value for name, value in parse_qsl(query, keep_blank_values=True, errors="replace") if name == "sid"]
    return KNOWN.get(found[0]) if len(found) == 1 else None


def in_the_primary(data: bytes, sticky: Sticky) -> int | None:
    head = inspect(data)
    assert isinstance(head, Head)
    found = routing(sticky).query_id_of(head)
    return None if found is None else HASHING.slot_of_query_id(found)


def in_a_worker(data: bytes, sticky: Sticky, cuts: list[int]) -> list[int | None]:
    """Return the slots of all requests of a connection, whose bytes come in pieces."""
    routes, requests, found = Routes(routing(sticky), HASHING, Slot(0)), Requests(), []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        requests.feed(data[begin:end])
        while (piece := requests.next()) is not None:
            assert isinstance(piece, Begin)
            sticky_id = routes.of("192.0.2.1", "http", piece.head).sticky_id
            found.append(None if sticky_id is None else HASHING.slot_of(sticky_id))
    return found


@pytest.mark.parametrize("sticky", [Sticky.IP, Sticky.NONE])
@settings(max_examples=300)
@given(st.lists(targets, min_size=1, max_size=4), st.data())
@example([f"/io/?sid={IDS[1]}", f"/io/?sid={IDS[1]}&sid={IDS[2]}", f"/io/?a=b&sid={IDS[2]}"], None)
def test_primary_worker_and_application_read_the_same_id(
    sticky: Sticky, wanted: list[str], draw: st.DataObject | None
) -> None:
    heads = [request(target) for target in wanted]
    expected = [as_the_application_reads(data) for data in heads]
    assert [in_the_primary(data, sticky) for data in heads] == expected
    stream = b"".join(heads)
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(stream) - 1), max_size=6))) if draw is not None else [1]
    assert in_a_worker(stream, sticky, cuts) == expected


def test_the_requests_above_have_ids_of_all_slots_and_of_none() -> None:
    """Else the property would hold of nothing."""
    found = {in_the_primary(request(f"/io/?t=1&sid={each}"), Sticky.NONE) for each in [*IDS, "", "x"]}
    assert found == {None, 0, 1, 2, 3}
