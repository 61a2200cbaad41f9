"""The routes of one worker: which later requests of a connection it serves, and which go back to the primary."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from sticky.heads.first_bytes import Head, inspect
from sticky.keys.affinity import UNIX_PEER, Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot
from sticky.loop.timers import Timers
from sticky.worker import routes as module
from sticky.worker.routes import Route, Routes
from tests.support.fake_poller import FakePoller

HASHING = Hashing(b"a secret of some length")
HERE, ELSEWHERE = Slot(1), Slot(2)
PROXY = "10.0.0.1"


def head(*lines: str) -> Head:
    found = inspect("\r\n".join(("GET / HTTP/1.1", "Host: a", *lines, "", "")).encode())
    assert isinstance(found, Head), found
    return found


def routes(sticky: Sticky = Sticky.SESSION, timers: Timers | None = None, **settings: Any) -> Routes:
    affinity = Affinity(AffinitySettings(sticky=sticky, trusted=(ip_network("10.0.0.0/8"),), **settings), HASHING)
    return Routes(affinity, HASHING, HERE, timers=timers)


def polling(query_id: str, *lines: str) -> Head:
    found = inspect("\r\n".join((f"GET /io/?sid={query_id} HTTP/1.1", "Host: a", *lines, "", "")).encode())
    assert isinstance(found, Head), found
    return found


def cookie(sticky_id: str) -> str:
    return f"Cookie: rt_session={sticky_id}"


def test_a_request_has_the_address_scheme_and_sticky_id_that_its_proxy_passes_on() -> None:
    request = head("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", cookie("abc"))
    assert routes().of(PROXY, "http", request) == Route("192.0.2.1", "https", "abc", lacks_sticky_id=False)
    assert routes().of("192.0.2.9", "http", request) == Route("192.0.2.9", "http", "abc", lacks_sticky_id=False)
    assert routes().of(PROXY, "http", head()) == Route(PROXY, "http", None, lacks_sticky_id=True)
    assert routes(Sticky.IP).of(PROXY, "http", request) == Route("192.0.2.1", "https", None, lacks_sticky_id=False)


def test_a_tag_of_this_slot_leads_here_unless_keys_of_it_are_elsewhere() -> None:
    known = routes()
    ours, theirs = (known.of(PROXY, "http", head(cookie(HASHING.new_sticky_id(slot)))) for slot in (HERE, ELSEWHERE))
    assert known.leads_here(ours)
    assert not known.leads_here(theirs)
    known.some_are_elsewhere = True
    assert not known.leads_here(ours)
    known.learn(ours.address, ours.sticky_id)
    assert known.leads_here(ours), "the primary has sent it"


def test_what_the_primary_has_sent_leads_here_until_it_is_forgotten() -> None:
    known = routes()
    route = known.of(PROXY, "http", head(cookie("of-an-application")))
    assert not known.leads_here(route)
    known.learn(route.address, route.sticky_id)
    assert known.leads_here(route)
    known.forget([key] if (key := known.key_of(route.address, route.sticky_id)) else [])
    assert not known.leads_here(route)
    known.learn(route.address, route.sticky_id)
    known.forget()
    assert not known.leads_here(route)


def test_a_key_that_is_away_and_has_a_connection_here_leads_here() -> None:
    known = routes()
    route = known.of(PROXY, "http", head(cookie("abc")))
    known.keys.enter(known.key_of(route.address, route.sticky_id), away=True)
    assert known.leads_here(route)


@pytest.mark.parametrize("sticky", [Sticky.SESSION, Sticky.NONE])
def test_a_request_without_anything_to_route_by_is_served_where_it_is(sticky: Sticky) -> None:
    known = routes(sticky)
    assert known.leads_here(known.of(PROXY, "http", head()))


def test_by_address_every_client_is_learned_also_one_without_an_address() -> None:
    known = routes(Sticky.IP)
    for address in ("192.0.2.1", "2001:db8::1", UNIX_PEER):
        route = Route(address, "http", None, lacks_sticky_id=False)
        assert not known.leads_here(route)
        known.learn(address, None)
        assert known.leads_here(route)


def test_what_is_learned_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 2)
    known = routes()
    for number in range(3):
        known.learn("192.0.2.1", f"id-{number}")
    found = [known.leads_here(Route("192.0.2.1", "http", f"id-{number}", False)) for number in range(3)]
    assert found == [False, False, True]


def test_a_refused_key_is_refused_for_its_time() -> None:
    timers = FakePoller()
    known = routes(timers=timers)
    route = Route("192.0.2.1", "http", None, lacks_sticky_id=True)
    key = known.crash_key(route)
    assert not known.refuses(key)
    known.refuse(key, 60.0)
    timers.run_for(59.0)
    assert known.refuses(key)
    timers.run_for(1.0)
    assert not known.refuses(key)
    known.refuse(b"another", 60.0)
    assert set(known.refused) == {b"another"}, "and then it takes no memory any more"


@pytest.mark.parametrize(
    ("sticky", "peer", "differs", "pools"),
    [
        (Sticky.IP, "192.0.2.1", False, False),
        (Sticky.IP, PROXY, True, True),
        (Sticky.SESSION, "192.0.2.1", True, False),
        (Sticky.NONE, "192.0.2.1", False, False),
    ],
)
def test_which_connections_can_have_requests_of_different_clients(
    sticky: Sticky, peer: str, differs: bool, pools: bool
) -> None:
    assert (routes(sticky).differ(peer), routes(sticky).pools(peer)) == (differs, pools)


def test_an_id_of_the_application_gets_this_slot_and_loses_it_on_any_worker() -> None:
    known = routes(session_header="X-Session")
    assert known.header == b"x-session"
    assert known.untag(known.tag(b"their id")) == b"their id"
    assert known.untag(b"no tag") == b"no tag"
    assert HASHING.slot_of(known.new_sticky_id()) == HERE
    assert routes(Sticky.IP, session_header="X-Session").header is None


@pytest.mark.parametrize("sticky", Sticky)
def test_a_query_id_made_here_leads_to_this_slot_under_every_stickiness(sticky: Sticky) -> None:
    known = routes(sticky, query_id_paths=("/io/",))
    assert HASHING.slot_of_query_id(known.new_query_id()) == HERE
    assert known.leads_here(known.of("192.0.2.1", "http", polling(known.new_query_id())))


@pytest.mark.parametrize("sticky", Sticky)
def test_a_query_id_of_another_slot_leads_there_until_the_primary_sends_it_here(sticky: Sticky) -> None:
    known = routes(sticky, query_id_paths=("/io/",))
    query_id = HASHING.new_query_id(ELSEWHERE)
    route = known.of("192.0.2.1", "http", polling(query_id, cookie(known.new_sticky_id())))
    assert route == Route("192.0.2.1", "http", query_id, lacks_sticky_id=False)
    assert not known.leads_here(route), "also where a cookie leads here"
    assert known.key_of(route.address, route.sticky_id) == known.key_of("192.0.2.9", query_id), "it is the key"
    known.learn(route.address, route.sticky_id)
    assert known.leads_here(route), "its slot is gone, or it has moved: the primary knows"
    known.forget()
    assert not known.leads_here(route)


@pytest.mark.parametrize("sticky", Sticky)
def test_a_query_id_of_this_slot_goes_through_the_primary_while_keys_may_be_elsewhere(sticky: Sticky) -> None:
    known = routes(sticky, query_id_paths=("/io/",))
    known.some_are_elsewhere = True
    assert not known.leads_here(known.of("192.0.2.1", "http", polling(known.new_query_id())))


def test_a_session_that_came_from_another_slot_is_found_here_by_its_query_id() -> None:
    known = routes(Sticky.NONE, query_id_paths=("/io/",))
    query_id = HASHING.new_query_id(ELSEWHERE)
    known.keys.enter(known.key_of("192.0.2.1", query_id), away=True)
    assert known.leads_here(known.of("192.0.2.9", "http", polling(query_id)))


def test_a_request_without_a_query_id_has_the_address_as_its_key_also_beside_one_that_has_it() -> None:
    known = routes(Sticky.IP, query_id_paths=("/io/",))
    known.learn("192.0.2.1", HASHING.new_query_id(HERE))
    assert not known.leads_here(known.of("192.0.2.1", "http", head())), "that only the primary knows"
    known.learn("192.0.2.1", None)
    assert known.leads_here(known.of("192.0.2.1", "http", head()))


@pytest.mark.parametrize("sticky", Sticky)
def test_a_client_whose_requests_crash_is_known_by_its_address_not_by_its_query_id(sticky: Sticky) -> None:
    """Else it would be another client after each crash."""
    known = routes(sticky, query_id_paths=("/io/",))
    first, second = (known.of("192.0.2.1", "http", polling(HASHING.new_query_id(HERE))) for _ in range(2))
    assert known.crash_key(first) == known.crash_key(second) != b""
