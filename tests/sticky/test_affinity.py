"""What routes a connection: which proxies are believed about the client, and where a sticky id is found."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.errors import SettingsError
from sticky.heads.first_bytes import Head, inspect
from sticky.keys.affinity import UNIX_PEER, Affinity, AffinitySettings, Sticky
from sticky.keys.hashing import Hashing, Slot

HASHING = Hashing(b"a secret of some length", entropy=lambda count: b"\x07" * count)
TRUSTED = tuple(ip_network(text) for text in ("10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1/32"))


def affinity(**settings: Any) -> Affinity:
    return Affinity(AffinitySettings(**settings))


def head(target: bytes = b"/", **headers: bytes | list[bytes]) -> Head:
    """Make a head as it comes off the wire. Several values of one name are several lines."""
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: a"]
    for name, values in headers.items():
        for value in [values] if isinstance(values, bytes) else values:
            lines.append(name.replace("_", "-").encode() + b": " + value)
    read = inspect(b"\r\n".join(lines) + b"\r\n\r\n")
    assert isinstance(read, Head), read
    return read


# --- the client ---


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"192.0.2.7", "192.0.2.7"),
        (b"203.0.113.9, 192.0.2.7", "192.0.2.7"),  # what is left of an untrusted hop is hearsay
        (b"192.0.2.7, 10.0.0.2", "192.0.2.7"),
        (b"203.0.113.9, 192.0.2.7, 10.0.0.2, 2001:db8:1::3", "192.0.2.7"),
        (b"192.0.2.7:51234, 10.0.0.2:80", "192.0.2.7"),
        (b"[2001:db8:7::1]:51234", "2001:db8:7::1"),
        (b"::ffff:192.0.2.7, ::ffff:10.0.0.2", "192.0.2.7"),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),  # all trusted: the client is one of our own
        (b"192.0.2.7, unknown", "10.0.0.1"),  # garbage ends the walk at the proxy that sent it
        (b"192.0.2.7, garbage, 10.0.0.2", "10.0.0.2"),
        (b"garbage, 192.0.2.7", "192.0.2.7"),  # but not what is left of the client
        (b"", "10.0.0.1"),
    ],
)
def test_behind_trusted_proxies_the_client_is_the_nearest_hop_that_is_none(forwarded: bytes, client: str) -> None:
    assert affinity(trusted=TRUSTED).address_of("10.0.0.1", head(x_forwarded_for=forwarded)) == client


def test_several_lines_are_one_list() -> None:
    lines = [b"203.0.113.9", b"192.0.2.7", b"10.0.0.2"]
    assert affinity(trusted=TRUSTED).address_of("10.0.0.1", head(x_forwarded_for=lines)) == "192.0.2.7"


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "2001:db8:2::1", "127.0.0.2", "unix:/run/a.sock", "?"])
def test_no_other_peer_is_believed(peer: str) -> None:
    lying = head(x_forwarded_for=b"203.0.113.9", forwarded=b"for=203.0.113.9;proto=https", x_forwarded_proto=b"https")
    assert affinity(trusted=TRUSTED).address_of(peer, lying) == peer
    assert affinity().address_of(peer, lying) == peer
    assert not affinity(trusted=TRUSTED).secure(peer, lying)
    assert not affinity().secure(peer, lying)


def test_an_ipv4_client_has_one_name_on_a_dual_stack_socket() -> None:
    assert affinity().address_of("::ffff:192.0.2.1", None) == "192.0.2.1"
    behind = head(x_forwarded_for=b"192.0.2.7")
    assert affinity(trusted=TRUSTED).address_of("::ffff:10.0.0.1", behind) == "192.0.2.7"


def test_without_a_head_the_client_is_the_peer() -> None:
    assert affinity(trusted=TRUSTED).address_of("10.0.0.1", None) == "10.0.0.1"
    assert not affinity(trusted=TRUSTED).secure("10.0.0.1", None)


def test_a_peer_on_a_unix_socket_is_a_proxy_unless_it_is_said_not_to_be() -> None:
    behind = head(x_forwarded_for=b"192.0.2.7", x_forwarded_proto=b"https")
    assert affinity().address_of(UNIX_PEER, behind) == "192.0.2.7"
    assert affinity().secure(UNIX_PEER, behind)
    assert affinity(trusted_unix=False).address_of(UNIX_PEER, behind) == UNIX_PEER
    assert not affinity(trusted_unix=False).secure(UNIX_PEER, behind)
    assert affinity().address_of(UNIX_PEER, head()) == UNIX_PEER


def test_forwarded_is_read_where_x_forwarded_for_is_absent() -> None:
    standard = head(forwarded=b'for=192.0.2.7;proto=https, for="10.0.0.2:80";proto=https')
    assert affinity(trusted=TRUSTED).address_of("10.0.0.1", standard) == "192.0.2.7"
    assert affinity(trusted=TRUSTED).secure("10.0.0.1", standard)
    both = head(forwarded=b"for=203.0.113.9", x_forwarded_for=b"192.0.2.7")
    assert affinity(trusted=TRUSTED).address_of("10.0.0.1", both) == "192.0.2.7"


def test_a_header_that_the_proxy_does_not_write_can_be_left_out() -> None:
    """A client's own X-Forwarded-For passes through a proxy that only knows Forwarded."""
    passed_on = head(x_forwarded_for=b"203.0.113.9", x_forwarded_proto=b"https", forwarded=b"for=192.0.2.7;proto=http")
    believing = affinity(trusted=TRUSTED, client_headers=("forwarded",))
    assert believing.address_of("10.0.0.1", passed_on) == "192.0.2.7"
    assert not believing.secure("10.0.0.1", passed_on)
    assert affinity(trusted=TRUSTED, client_headers=()).address_of("10.0.0.1", passed_on) == "10.0.0.1"


@pytest.mark.parametrize(
    ("scheme", "secure"), [(b"https", True), (b"wss", True), (b"http", False), (b"https, http", False), (b"", False)]
)
def test_the_scheme_is_what_a_trusted_proxy_says(scheme: bytes, secure: bool) -> None:
    assert affinity(trusted=TRUSTED).secure("10.0.0.1", head(x_forwarded_proto=scheme)) is secure


# --- the key of an address ---


def test_ipv4_is_a_key_as_a_whole() -> None:
    ip = affinity()
    assert ip.key_for("192.0.2.1") != ip.key_for("192.0.2.2")
    assert ip.key_for("::ffff:192.0.2.1") == ip.key_for("192.0.2.1")


def test_ipv6_is_a_key_by_its_64() -> None:
    ip = affinity()
    assert ip.key_for("2001:db8::1") == ip.key_for("2001:db8:0:0:ffff::9") == ip.key_for("2001:db8::1%eth0")
    assert ip.key_for("2001:db8:0:1::1") != ip.key_for("2001:db8::1")


@pytest.mark.parametrize("client", [UNIX_PEER, "unix:/run/a.sock", "", "a.example", "192.0.2.1:80"])
def test_what_is_no_address_is_no_key(client: str) -> None:
    assert affinity().key_for(client) is None


@pytest.mark.parametrize("sticky", [Sticky.SESSION, Sticky.NONE])
def test_an_address_is_no_key_under_another_stickiness(sticky: Sticky) -> None:
    assert affinity(sticky=sticky).key_for("192.0.2.1") is None


def test_a_session_and_an_address_never_share_a_key() -> None:
    assert affinity().key_for("52.48.48.48") != affinity().key_for_sticky_id("4000")
    assert affinity().key_for_sticky_id("a") != affinity().key_for_sticky_id("b")


# --- the session ---

ID = b"AAKBD9OA4DuEvLrOrUO1QC3rBl8O"  # of slot 2


@pytest.mark.parametrize(
    "cookie",
    [
        b"rt_session=" + ID,
        b"rt_session=" + ID + b";",
        b"a=b; rt_session=" + ID + b"; c=d",
        b"a=b;rt_session=" + ID + b";c=d",
        b"\ta=b ;  rt_session = " + ID + b"  ; c",
        b"xrt_session=x; rt_session=" + ID + b"; rt_sessionx=y",
        b'a="b"; rt_session=' + ID + b'; c="d"',
        b'a="b; rt_session=' + ID,  # a quote that is never closed quotes nothing
        b'a={"b":"c"}; rt_session=' + ID,
        b"a==; rt_session=" + ID,
        b"; ;=; rt_session=" + ID,
    ],
)
def test_the_session_is_the_cookie_s_value(cookie: bytes) -> None:
    assert affinity().sticky_id_of(head(cookie=cookie)) == ID.decode()


@pytest.mark.parametrize(
    "cookie",
    [
        b"",
        b"rt_session",
        b"rt_session=",
        b"rt_session=; rt_session=" + ID,
        b"xrt_session=" + ID,
        b"rt_sessionx=" + ID,
        b"-rt_session=" + ID,
        b"RT_SESSION=" + ID,
        b"Rt_session=" + ID,
        b"$rt_session=" + ID,
        b"rt%5Fsession=" + ID,
        b'"rt_session"=' + ID,
        b'rt_session="' + ID + b'"',
        b"a=rt_session=" + ID,
        b"a=b&rt_session=" + ID,
        b"a=b, rt_session=" + ID,
        b"a=b rt_session=" + ID,
        b'a="b; rt_session=' + ID + b'"',
        b'a="b; rt_session=' + ID + b'; c="d',
        b'a="b\\"; rt_session=' + ID + b'"; c=d',
        b'a= "b; rt_session=' + ID + b'; "',
        b"rt_session=" + ID + b"; rt_session=" + ID,
        b"rt_session=" + ID + b"; rt_session=x",
        b"rt_session=" + ID + b" x",
        b"rt_session=" + ID + b"\\",
        b"rt_session=\xc3\xbc",
    ],
)
def test_a_decoy_in_a_cookie_never_decides(cookie: bytes) -> None:
    assert affinity().sticky_id_of(head(cookie=cookie)) is None


def test_a_cookie_may_come_in_several_lines_but_its_name_only_once() -> None:
    assert affinity().sticky_id_of(head(cookie=[b"a=b", b"rt_session=" + ID, b"c=d"])) == ID.decode()
    assert affinity().sticky_id_of(head(cookie=[b"rt_session=" + ID, b"rt_session=" + ID])) is None


@pytest.mark.parametrize(
    "decoy",
    [
        head(b"/rt_session=" + ID),
        head(b"/;rt_session=" + ID),
        head(b"/?rt_session=" + ID),
        head(b"/?sid=" + ID),
        head(referer=b"http://a/?rt_session=" + ID),
        head(referer=b"rt_session=" + ID),
        head(set_cookie=b"rt_session=" + ID),
        head(cookie2=b"rt_session=" + ID),
        head(x_cookie=b"rt_session=" + ID),
        head(rt_session=ID),
        head(x_session=ID),
    ],
    ids=range(11),
)
def test_a_session_is_only_looked_for_where_it_was_configured(decoy: Head) -> None:
    assert affinity().sticky_id_of(decoy) is None


@pytest.mark.parametrize(
    "query",
    [
        b"sid=" + ID,
        b"a=b&sid=" + ID + b"&c=d",
        b"xsid=x&sid=" + ID + b"&sidx=y",
        b"s%69d=" + ID,
        b"&&sid=" + ID,
        b"?&sid=" + ID,
    ],
)
def test_the_session_is_the_query_parameter_s_value(query: bytes) -> None:
    assert affinity(session_param="sid").sticky_id_of(head(b"/chat?" + query)) == ID.decode()


@pytest.mark.parametrize(
    "target",
    [
        b"/?",
        b"/?sid",
        b"/?sid=",
        b"/?xsid=" + ID,
        b"/?sidx=" + ID,
        b"/?SID=" + ID,
        b"/??sid=" + ID,
        b"/sid=" + ID,
        b"/&sid=" + ID,
        b"/a?b=c;sid=" + ID,
        b"/a?b=sid=" + ID,
        b"/a?b=c%26sid=" + ID,
        b"/?sid=" + ID + b"&sid=" + ID,
        b"/?sid=" + ID + b"&s%69d=x",
        b"/?sid&sid=" + ID,
        b"/?sid=" + ID + b"+x",
        b"/?sid=%00",
        b"/?sid=%C3%BC",
        b"http://a/sid=" + ID,
    ],
)
def test_a_decoy_in_the_target_never_decides(target: bytes) -> None:
    assert affinity(session_param="sid").sticky_id_of(head(target)) is None


def test_a_percent_encoded_value_is_the_same_session() -> None:
    both = affinity(session_param="sid")
    assert both.sticky_id_of(head(b"/?sid=a%2Db")) == both.sticky_id_of(head(b"/?sid=a-b")) == "a-b"


def test_the_session_is_the_header_s_value() -> None:
    configured = affinity(session_header="X-Session")
    assert configured.sticky_id_of(head(x_session=ID)) == ID.decode()
    assert configured.sticky_id_of(head(x_session=b"")) is None
    assert configured.sticky_id_of(head(x_session=b"a b")) is None
    assert configured.sticky_id_of(head(x_session=[ID, ID])) is None
    assert configured.sticky_id_of(head(x_session_x=ID)) is None


def test_the_header_goes_before_the_parameter_and_that_before_the_cookie() -> None:
    configured = affinity(session_header="x-session", session_param="sid")
    assert configured.sticky_id_of(head(b"/?sid=query", x_session=b"header", cookie=b"rt_session=cookie")) == "header"
    assert configured.sticky_id_of(head(b"/?sid=query", cookie=b"rt_session=cookie")) == "query"
    assert configured.sticky_id_of(head(cookie=b"rt_session=cookie")) == "cookie"
    assert configured.sticky_id_of(head()) is None


def test_a_name_that_comes_twice_decides_nothing_but_leaves_the_next_place_to_decide() -> None:
    configured = affinity(session_param="sid")
    assert configured.sticky_id_of(head(b"/?sid=a&sid=b", cookie=b"rt_session=cookie")) == "cookie"


def test_the_cookie_s_name_can_be_another() -> None:
    configured = affinity(session_cookie="sessionid")
    assert configured.sticky_id_of(head(cookie=b"rt_session=a; sessionid=b")) == "b"


pieces = st.sampled_from([b"rt_session", b"=", b";", b" ", b'"', b"\\", b"\t", b"a", b",", b"&", b"\xff", b"%"])


@given(st.lists(st.lists(pieces, max_size=14).map(b"".join), max_size=2), st.binary(max_size=30))
def test_any_cookie_and_any_query_are_read_without_an_error(cookies: list[bytes], query: bytes) -> None:
    configured = affinity(session_param="a", session_cookie="rt_session")
    request = Head("GET", b"/?" + query, tuple((b"cookie", value) for value in cookies), 0)
    session = configured.sticky_id_of(request)
    assert session is None or (session and session.isascii() and '"' not in session)


# --- the id of a session in the query of certain paths ---

QUERY_ID = HASHING.new_query_id(Slot(3)).encode()
PATHS = ("/io/", "/io")


def reader(sticky: Sticky = Sticky.IP, **settings: Any) -> Affinity:
    return Affinity(AffinitySettings(sticky=sticky, query_id_paths=PATHS, **settings), HASHING)


@pytest.mark.parametrize("sticky", Sticky)
@pytest.mark.parametrize(
    "target",
    [
        b"/io/?sid=" + QUERY_ID,
        b"/io?sid=" + QUERY_ID,
        b"/io/?EIO=4&transport=polling&t=abc&sid=" + QUERY_ID,
        b"/io/?sid=" + QUERY_ID + b"&EIO=4&transport=polling",
        b"/io/?a&&sid=" + QUERY_ID + b"&",
        b"/io/?x=1?&sid=" + QUERY_ID,
        b"/io/?%73id=" + QUERY_ID,
        b"/io/?sid=%" + QUERY_ID[:1].hex().encode() + QUERY_ID[1:],
        b"/%69o/?sid=" + QUERY_ID,
        b"http://a/io/?sid=" + QUERY_ID,
    ],
)
def test_a_query_id_is_found_wherever_it_stands_in_the_query_of_its_paths(sticky: Sticky, target: bytes) -> None:
    assert reader(sticky).query_id_of(head(target)) == QUERY_ID.decode()


@pytest.mark.parametrize(
    "target",
    [
        b"/io/",
        b"/io/?",
        b"/io/?sid",
        b"/io/?sid=",
        b"/io/?xsid=" + QUERY_ID,
        b"/io/?sidx=" + QUERY_ID,
        b"/io/?SID=" + QUERY_ID,
        b"/io/??sid=" + QUERY_ID,
        b"/io/?a=b;sid=" + QUERY_ID,
        b"/io/?a=sid=" + QUERY_ID,
        b"/io/?a=b%26sid=" + QUERY_ID,
        b"/io/sid=" + QUERY_ID,
        b"/io/&sid=" + QUERY_ID,
        b"/io/%3Fsid=" + QUERY_ID,
        b"/io/?sid=" + QUERY_ID + b"x",
        b"/io/?sid=" + QUERY_ID + b"%20",
        b"/io/?sid=+" + QUERY_ID,
        b"/io/?sid=" + QUERY_ID[:-1] + (b"A" if QUERY_ID[-1:] != b"A" else b"B"),
        b"/io/?sid=" + HASHING.new_sticky_id(Slot(3)).encode(),
        b"/io/?sid=" + Hashing(b"x" * 16, entropy=bytes).new_query_id(Slot(3)).encode(),
        b"/?sid=" + QUERY_ID,
        b"/io//?sid=" + QUERY_ID,
        b"/io/x?sid=" + QUERY_ID,
        b"/IO/?sid=" + QUERY_ID,
        b"/x/io/?sid=" + QUERY_ID,
        b"http://a/x/io/?sid=" + QUERY_ID,
        b"http://a?x=/io/&sid=" + QUERY_ID,
    ],
)
def test_what_only_looks_like_a_query_id_is_none(target: bytes) -> None:
    assert reader().query_id_of(head(target)) is None


def test_a_query_id_that_occurs_twice_decides_nothing_whatever_the_two_are() -> None:
    """Of two, one reader takes the first and another the last. So neither leads anywhere, as with any sticky id."""
    other = HASHING.new_query_id(Slot(1)).encode()
    assert reader().query_id_of(head(b"/io/?sid=" + other)), "each of the two alone is one"
    for second in (QUERY_ID, other, b"", b"x"):
        for pair in ((QUERY_ID, second), (second, QUERY_ID)):
            assert reader().query_id_of(head(b"/io/?sid=%b&EIO=4&s%%69d=%b" % pair)) is None


def test_a_query_id_counts_only_in_the_query() -> None:
    assert reader().query_id_of(head(b"/io/", cookie=b"sid=" + QUERY_ID, sid=QUERY_ID)) is None


def test_the_name_of_the_query_id_can_be_another() -> None:
    configured = reader(query_id_param="session")
    assert configured.query_id_of(head(b"/io/?sid=" + QUERY_ID)) is None
    assert configured.query_id_of(head(b"/io/?session=" + QUERY_ID)) == QUERY_ID.decode()


def test_without_paths_no_query_id_is_read() -> None:
    assert Affinity(AffinitySettings(), HASHING).query_id_of(head(b"/io/?sid=" + QUERY_ID)) is None


@given(st.binary(max_size=60), st.sampled_from(["/io/", "/io", "/", "*", "/i%6F/", "/%ff/"]))
def test_any_query_at_any_path_is_read_without_an_error(query: bytes, path: str) -> None:
    request = Head("GET", path.encode() + b"?" + query, (), 0)
    assert reader().query_id_of(request) is None


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"session_cookie": ""}, "session_cookie"),
        ({"session_cookie": "a b"}, "session_cookie"),
        ({"session_cookie": "a=b"}, "session_cookie"),
        ({"session_cookie": "\xfc"}, "session_cookie"),
        ({"session_header": "X Session"}, "session_header"),
        ({"session_header": ""}, "session_header"),
        ({"session_param": ""}, "session_param"),
        ({"query_id_param": ""}, "query_id_param"),
        ({"client_headers": ("X-Forwarded-For",)}, "client_headers"),
        ({"client_headers": ("x-real-ip",)}, "client_headers"),
    ],
)
def test_a_name_that_could_never_be_found_is_refused_by_name(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        AffinitySettings(**settings)


# A header whose ids the application makes

OURS = HASHING.new_sticky_id(Slot(3))
TAGGED = HASHING.tag(b'an "id"; with all \\ it likes', Slot(2))


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ([b"X-Session: " + TAGGED], TAGGED.decode()),
        ([b"x-SESSION:" + TAGGED, b"Cookie: rt_session=" + OURS.encode()], TAGGED.decode()),
        ([b"X-Session: invented"], "invented"),
        ([b"X-Session: invented", b"Cookie: rt_session=invented-too"], "invented"),
        ([b"X-Session: invented", b"Cookie: rt_session=" + OURS.encode()], OURS),
        ([b"X-Session: " + OURS.encode(), b"Cookie: rt_session=" + HASHING.new_sticky_id(Slot(1)).encode()], OURS),
        ([b"X-Session: " + TAGGED, b"X-Session: " + TAGGED, b"Cookie: rt_session=" + OURS.encode()], OURS),
        ([b"X-Session: " + TAGGED[:-1] + b"!", b"Cookie: rt_session=" + OURS.encode()], OURS),
        ([b"X-Session:", b"Cookie: rt_session=" + OURS.encode()], OURS),
        ([b"X-Session: not an id"], None),
    ],
    ids=lambda value: type(value).__name__,  # ids that are drawn make another name of the test in each process
)
def test_a_header_that_names_no_worker_does_not_go_before_a_cookie_that_does(
    headers: list[bytes], session: str | None
) -> None:
    settings = AffinitySettings(sticky=Sticky.SESSION, session_header="X-Session")
    found = inspect(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n")
    assert isinstance(found, Head)
    assert Affinity(settings, HASHING).sticky_id_of(found) == session
