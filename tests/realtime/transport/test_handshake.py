"""
The opening handshake (RFC 6455, sections 1.3 and 4.2): who is let in, with which answer, and who is not.

Pure: a request's head goes in, the answer's bytes come out. Each refusal is the plain request with one thing changed.
"""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.centrifuge import endpoints
from realtime.settings.addresses import Origin
from realtime.transport.handshake import Accepted, Admission, Refused, shake_hands
from realtime.transport.peer import Peer

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # section 1.3
PEER = Peer("203.0.113.7", 4711)
CENTRIFUGE = Admission(parameters=endpoints)
PLAIN = {
    "Host": "chat.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /connection/websocket HTTP/1.1", **changed: str | None) -> bytes:
    """Write a request. `Sec_WebSocket_Key="…"` changes or adds a header, None takes it away."""
    fields = {**PLAIN, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def accept(request: bytes, admission: Admission | None = None, peer: Peer = PEER) -> Accepted:
    opening = shake_hands(request, peer, admission or Admission())
    assert isinstance(opening, Accepted), opening
    return opening


def refuse(request: bytes, admission: Admission | None = None) -> tuple[int, dict[str, str]]:
    """Return the status and the headers, by small letters, of a refusal, once what every one has was looked at."""
    opening = shake_hands(request, PEER, admission or Admission())
    assert isinstance(opening, Refused), opening
    assert opening.problem
    status, headers, body = parse(opening.answer)
    assert len(body) == int(headers["content-length"])
    assert headers["connection"] == "close"
    assert headers["content-type"].startswith("text/plain")
    return status, headers


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    top, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = top.decode().split("\r\n")
    version, status = line.split(" ")[:2]
    assert version == "HTTP/1.1"
    pairs = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), "no header twice"
    return int(status), {name.lower(): value for name, value in pairs}, body


# Let in


def test_the_answer_is_that_of_the_standards_example() -> None:
    status, headers, body = parse(accept(head()).answer)
    assert status == 101
    assert headers["upgrade"] == "websocket"
    assert headers["connection"] == "Upgrade"
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert body == b""
    assert not headers.keys() & {"set-cookie", "sec-websocket-protocol", "sec-websocket-extensions"}


@given(st.binary(min_size=16, max_size=16))
def test_every_key_is_answered_by_its_own_digest(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    _, headers, _ = parse(accept(head(Sec_WebSocket_Key=key)).answer)
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    "changed",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "websocket, h2c"},
        {"Upgrade": "h2c,WebSocket\r\nUpgrade: irc/6.9"},
        {"Origin": ""},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade,keep-alive"},
        {"Pragma": "no-cache"},
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
        {"Sec_WebSocket_Extensions": "no extension at all"},
        {"Cookie": "a=b; c=\xe9"},
    ],
)
def test_what_changes_nothing_is_let_in_and_no_extension_is_taken_up(changed: dict[str, str | None]) -> None:
    _, headers, _ = parse(accept(head(**changed)).answer)
    assert "sec-websocket-extensions" not in headers


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("json", "json"),
        ("other, json", "json"),
        ("json, protobuf", "protobuf"),
        ("other", None),
        ("JSON", None),
        ("json, json", "json"),
    ],
)
def test_the_first_of_our_subprotocols_that_was_offered_is_chosen(offered: str | None, chosen: str | None) -> None:
    opening = accept(head(Sec_WebSocket_Protocol=offered), Admission(subprotocols=("protobuf", "json")))
    assert opening.subprotocol == chosen
    assert parse(opening.answer)[1].get("sec-websocket-protocol") == chosen


def test_an_absolute_target_is_read_as_its_path() -> None:
    target = "http://chat.example.com/connection/uni_websocket?a=1"
    told = accept(head(f"GET {target} HTTP/1.1"), CENTRIFUGE).handshake
    assert (told.path, told.query, told.is_one_way) == ("/connection/uni_websocket", {"a": "1"}, True)


def test_the_session_sees_every_protocol_that_was_offered() -> None:
    assert accept(head(Upgrade="websocket, h2c")).handshake.headers["upgrade"] == "websocket, h2c"


def test_the_session_is_told_what_the_client_asked() -> None:
    request = head(
        "GET /caf%C3%A9?a=1&b=%20&c=&a=2 HTTP/1.1", X_Two="one\r\nx-two: two", Origin="https://chat.example.com"
    )
    told = accept(request, peer=Peer("2001:db8::1", 99, "https", sticky_id="known")).handshake
    assert (told.address, told.client_port, told.scheme, told.sticky_id) == ("2001:db8::1", 99, "https", "known")
    assert told.path == "/café"
    assert told.query == {"a": "2", "b": " ", "c": ""}
    assert told.headers["x-two"] == "one, two"
    assert told.headers["host"] == "chat.example.com"
    assert told.headers["origin"] == "https://chat.example.com"


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("/connection/uni_websocket", None),
        ("/connection/uni_websocket?cf_connect=", None),
        ("/connection/uni_websocket?cf_connect=%7B%22name%22:%22%C3%BC%22%7D", '{"name":"ü"}'.encode()),
        ("/connection/uni_websocket?a=1&cf_connect={}", b"{}"),
        ("/connection/uni_websocket?cf_connect=cut%ED%A0%BD%ff", "cut\ufffd\ufffd\ufffd\ufffd".encode()),
        ("/connection/websocket?cf_connect={}", None),
    ],
    ids=["none", "empty", "quoted", "among others", "no characters", "of another"],
)
def test_the_query_of_a_client_that_only_listens_may_have_its_first_message(target: str, first: bytes | None) -> None:
    accepted = accept(head(f"GET {target} HTTP/1.1"), CENTRIFUGE)
    assert accepted.first == first
    assert "cf_connect" not in accepted.handshake.query, "it may have a token, which nobody is to keep"


@pytest.mark.parametrize(("scheme", "end"), [("http", "SameSite=Lax"), ("https", "SameSite=Lax; Secure")])
def test_a_new_session_is_given_as_a_cookie_and_told(scheme: str, end: str) -> None:
    peer = Peer("203.0.113.7", scheme=scheme, new_sticky_id="0123.abc")
    opening = accept(head(), Admission(session_cookie="place"), peer)
    assert parse(opening.answer)[1]["set-cookie"] == f"place=0123.abc; Path=/; HttpOnly; {end}"
    assert opening.handshake.sticky_id == "0123.abc"
    assert "set-cookie" not in parse(accept(head(), peer=Peer("203.0.113.7", sticky_id="0123.abc")).answer)[1]


# Refused


@pytest.mark.parametrize("version", ["12", "14", "8", "0", "013", "13, 8", "13\r\nSec-WebSocket-Version: 13", "", None])
def test_another_version_than_13_is_told_which_one_there_is(version: str | None) -> None:
    status, headers = refuse(head(Sec_WebSocket_Version=version))
    assert (status, headers["sec-websocket-version"], headers["upgrade"]) == (426, "13", "websocket")


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "short",
        "!!!!",
        KEY[:-2],
        f"{KEY}\r\nSec-WebSocket-Key: {KEY}",
        base64.b64encode(b"x" * 15).decode(),
        base64.b64encode(b"x" * 17).decode(),
    ],
)
def test_a_key_that_is_none_is_refused(key: str | None) -> None:
    assert refuse(head(Sec_WebSocket_Key=key))[0] == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Upgrade": ""},
        {"Connection": None},
        {"Connection": "keep-alive"},
        {"Connection": "close"},
    ],
)
def test_who_asks_for_no_upgrade_is_told_that_one_is_required(changed: dict[str, str | None]) -> None:
    status, headers = refuse(head(**changed))
    assert status in (400, 426)
    if status == 426:
        assert headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    "line",
    [
        "POST / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "get / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "",
        "\r\nGET / HTTP/1.1",
        "hello",
        "PRI * HTTP/2.0",
    ],
)
def test_what_is_no_get_of_http_1_1_is_refused(line: str) -> None:
    assert refuse(head(line))[0] == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"Content_Length": "3"},
        {"Transfer_Encoding": "chunked"},
        {"X": "a\r\n folded"},
        {"X": "a\0b"},
        {"X ": "a"},
        {"": "a"},
        {"X": "y" * 17_000},
        {"Host": None},
    ],
)
def test_a_head_that_no_websocket_has_is_refused(changed: dict[str, str]) -> None:
    assert refuse(head(**changed))[0] in (400, 431)


def test_headers_without_number_are_refused() -> None:
    assert refuse(head(X="a\r\n" + "X: a\r\n" * 300 + "X: a"))[0] in (400, 431)


@pytest.mark.parametrize(
    "name", ["Upgrade", "Connection", "Sec_WebSocket_Key", "Sec_WebSocket_Version", "Sec_WebSocket_Protocol", "Origin"]
)
def test_bytes_that_are_not_ascii_are_refused_where_they_mean_something(name: str) -> None:
    assert refuse(head(**{name: "\xff"}))[0] >= 400


@pytest.mark.parametrize("offered", ["", "a b", "a;b", "json,,"])
def test_subprotocols_that_cannot_be_read_are_refused_or_none(offered: str) -> None:
    opening = shake_hands(head(Sec_WebSocket_Protocol=offered), PEER, Admission(subprotocols=("a",)))
    assert isinstance(opening, Refused) or opening.subprotocol is None


@given(st.binary(max_size=300))
def test_no_head_at_all_raises(junk: bytes) -> None:
    for request in (junk, head()[:30] + junk + b"\r\n\r\n", junk + head()):
        opening = shake_hands(request, PEER, Admission())
        assert opening.answer.startswith(b"HTTP/1.1 ")


# Origins


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "chat.example.com", True),
        ("http://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com", True),  # TLS ends in a proxy
        ("https://chat.example.com", "chat.example.com:443", True),
        ("https://chat.example.com:8443", "chat.example.com:8443", True),
        ("http://chat.example.com:8000", "chat.example.com:8001", False),
        ("http://CHAT.example.COM", "chat.Example.com", True),
        ("http://chat.example.com:80", "chat.example.com", True),
        ("http://[2001:db8::1]:8000", "[2001:db8::1]:8000", True),
        ("http://example.com", "chat.example.com", False),
        ("http://chat.example.com.evil.example", "chat.example.com", False),
        ("http://evil.example/chat.example.com", "chat.example.com", False),
        ("http://chat.example.com@evil.example", "chat.example.com", False),
        ("http://evil.example#chat.example.com", "chat.example.com", False),
        ("null", "chat.example.com", False),
        ("", "chat.example.com", True),  # no origin
        ("chat.example.com", "chat.example.com", False),
        ("http://", "", False),
        ("http://[::1", "[::1", False),
        ("http://chat.example.com:port", "chat.example.com:port", False),
        ("http://chat.example.com\r\nOrigin: http://chat.example.com", "chat.example.com", False),
    ],
)
def test_pages_of_the_same_host_may_connect_unless_origins_are_named(
    origin: str | None, host: str | None, allowed: bool
) -> None:
    opening = shake_hands(head(Origin=origin, Host=host), PEER, Admission())
    assert isinstance(opening, Accepted) == allowed
    if not allowed:
        assert opening.answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")


@pytest.mark.parametrize("host", [None, "chat.example.com\r\nHost: chat.example.com"])
def test_a_page_may_not_connect_where_the_request_names_no_host_or_two(host: str | None) -> None:
    assert refuse(head(Origin="http://chat.example.com", Host=host))[0] == 400


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "file://",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "https://tauri.localhost",
        "app://-",
        "app://obsidian.md",
        "chrome-extension://abcdefghijklmnop",
        "moz-extension://0a1b2c3d-4e5f-6789-abcd-ef0123456789",
        "vscode-webview://0a1b2c3d",
        "ms-appx-web://some.app",
    ],
)
def test_pages_of_applications_and_files_may_connect_where_they_are_named(origin: str) -> None:
    admission = Admission(allowed_origins=("https://example.com", Origin().parse(origin)))
    accept(head(Origin=origin), admission)
    assert refuse(head(Origin=origin), Admission(allowed_origins=("https://example.com",)))[0] == 403
    assert refuse(head(Origin=origin))[0] == 403, "where nothing is named, only pages of this host"


@pytest.mark.parametrize("named", ["https://example.com:443", "http://example.com:80", "https://EXAMPLE.com"])
def test_an_origin_may_be_named_with_its_default_port_which_browsers_leave_out(named: str) -> None:
    admission = Admission(allowed_origins=(Origin().parse(named),))
    accept(head(Origin=f"{named.partition('://')[0]}://example.com"), admission)


@pytest.mark.parametrize(
    ("pattern", "origin", "allowed"),
    [
        ("moz-extension://*", "moz-extension://0a1b2c3d-4e5f-6789-abcd-ef0123456789", True),
        ("moz-extension://*", "chrome-extension://abcdefghijklmnop", False),
        ("app://*", "app://", False),
        ("null", "file://", False),
        ("file://", "file://evil.example", False),
        ("file://", "https://evil.example", False),
        ("*", "https://anywhere.example", True),
        ("*", "null", True),
        ("null", "null", True),
        ("https://example.com", "https://example.com", True),
        ("https://example.com", "HTTPS://Example.com", True),
        ("https://example.com", "http://example.com", False),
        ("https://example.com", "https://example.com:8443", False),
        ("https://example.com", "https://a.example.com", False),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b-c.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com.evil.example", False),
        ("https://*.example.com", "https://evil.example/.example.com", False),
        ("https://*.example.com", "https://evil.example#a.example.com", False),
        ("https://*.example.com", "https://user@a.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://*.example.com", "https://aXexample.com", False),
    ],
)
def test_where_origins_are_named_only_those_may_connect(pattern: str, origin: str, allowed: bool) -> None:
    admission = Admission(allowed_origins=("https://never.example", pattern))
    opening = shake_hands(head(Origin=origin), PEER, admission)
    assert isinstance(opening, Accepted) == allowed


def test_the_same_host_is_not_enough_where_origins_are_named() -> None:
    admission = Admission(allowed_origins=("https://example.com",))
    assert refuse(head(Origin="http://chat.example.com"), admission)[0] == 403
    assert accept(head(), admission), "who names no origin is no browser"
