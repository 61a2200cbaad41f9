"""
A session leads to the same slot: by cookie, query parameter or header, however its request is cut, and by nothing else.

Real processes. A cluster of tiny workers says what the primary made of a head; a real server shows what a first visit
is given, and where that leads. "The primary has seen the first part alone" is a state here, never a pause: the control
socket is served by the same loop, so its answer comes after what was sent before it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as websocket

from tests.support.server import RunningServer
from tests.support.tiny_cluster import TinyCluster, answer

WORKERS = 4
NAMES = {"session_cookie": "rt_session", "session_param": "sid", "session_header": "X-Session"}
KEYS = [f"key-{n}" for n in range(120)]
WAYS = ("cookie", "parameter", "header")
ALL = [0, 1, 2, 3]
SESSIONS: dict[str, Any] = {"workers": WORKERS, "sticky": "session", "balance": "round-robin"}


def head_of(way: str, key: str) -> bytes:
    """Write a request that names its session in one way, amid what browsers send."""
    query = f"?a=1&sid={key}&b=2" if way == "parameter" else "?a=1"
    cookie = f"theme=dark; rt_session={key}; lang=en" if way == "cookie" else "theme=dark"
    header = f"x-session: {key}\r\n" if way == "header" else ""
    return f"GET /page{query} HTTP/1.1\r\nHost: tiny\r\nCookie: {cookie}\r\n{header}Accept: */*\r\n\r\n".encode()


def exchange(cluster: TinyCluster, head: bytes) -> dict[str, Any]:
    """Send a whole head at once."""
    with cluster.connect() as sock:
        sock.sendall(head)
        return answer(sock)


def connect(cluster: TinyCluster, stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(cluster.connect())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def first_visits(cluster: TinyCluster) -> dict[str, int]:
    """Visit each slot twice without a session, and return where each new one was made."""
    visits = [cluster.get() for _ in range(2 * WORKERS)]
    assert all(each["session"] is None and each["reason"] == "balance" for each in visits)
    minted = {each["new_session"]: each["slot"] for each in visits}
    assert len(minted) == len(visits), "everybody gets another one"
    assert set(minted.values()) == set(ALL)
    return minted


def wait_for_heads_begun(cluster: TinyCluster, count: int) -> None:
    """Wait until exactly so many connections have not said yet what they want, and the loop has turned once more."""
    cluster.wait_until(lambda status: status["before_head"] == count, f"{count} heads have begun")
    assert cluster.status()["before_head"] == count


@pytest.fixture(scope="module")
def cluster() -> Iterator[TinyCluster]:
    """A cluster that looks for sessions in all three places."""
    with TinyCluster(**SESSIONS, **NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def cookie_only() -> Iterator[TinyCluster]:
    """A cluster that looks for a session where it does by default."""
    with TinyCluster(**SESSIONS) as running:
        yield running


@pytest.fixture(scope="module")
def slots(cluster: TinyCluster) -> dict[str, int]:
    """Where each key leads, by its cookie."""
    return {key: exchange(cluster, head_of("cookie", key))["slot"] for key in KEYS}


@pytest.fixture(scope="module")
def four(slots: dict[str, int]) -> list[str]:
    """One key of each slot, so that a wrong reading would lead elsewhere."""
    return [next(key for key in KEYS if slots[key] == slot) for slot in ALL]


# The same session, the same slot


@pytest.mark.parametrize("way", WAYS)
def test_a_key_always_leads_to_the_same_slot(cluster: TinyCluster, slots: dict[str, int], way: str) -> None:
    for _ in range(3):
        for key in KEYS:
            found = exchange(cluster, head_of(way, key))
            assert (found["slot"], found["session"], found["reason"]) == (slots[key], key, "session")
            assert found["new_session"] is None


def test_keys_are_spread_over_the_slots(slots: dict[str, int]) -> None:
    counts = Counter(slots.values())
    assert sorted(counts) == ALL
    assert max(counts.values()) / (len(KEYS) / WORKERS) <= 1.4


def test_a_new_primary_with_the_same_secret_knows_the_sessions(cluster: TinyCluster, slots: dict[str, int]) -> None:
    minted = first_visits(cluster)
    with TinyCluster(**SESSIONS, **NAMES) as another:
        assert {key: exchange(another, head_of("cookie", key))["slot"] for key in KEYS} == slots
        assert {session: exchange(another, head_of("cookie", session))["slot"] for session in minted} == minted


@pytest.mark.parametrize("way", WAYS)
def test_a_new_session_leads_back_to_the_slot_that_made_it(cluster: TinyCluster, way: str) -> None:
    minted = first_visits(cluster)
    for _ in range(3):
        assert {session: exchange(cluster, head_of(way, session))["slot"] for session in minted} == minted


def test_a_dead_workers_sessions_move_and_come_back_and_the_others_stay(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    config = {"boot": "fail-if", "path": str(broken)}
    with TinyCluster(**SESSIONS, config=config, **NAMES) as running:
        before = first_visits(running)
        before |= {key: exchange(running, head_of("cookie", key))["slot"] for key in KEYS}
        pid = running.pids()[1]
        broken.touch()
        os.kill(pid, signal.SIGKILL)
        running.wait_for_live([0, 2, 3])
        during = {session: exchange(running, head_of("cookie", session)) for session in before}
        assert running.status()["live"] == [0, 2, 3], "the slot was empty all the while"
        moved = {session for session in before if during[session]["slot"] != before[session]}
        assert moved == {session for session in before if before[session] == 1}
        assert all(found["new_session"] is None for found in during.values()), "a session outlives its worker"
        broken.unlink()
        running.wait_for_live(ALL)
        assert {session: exchange(running, head_of("cookie", session))["slot"] for session in before} == before


def test_the_header_goes_before_the_parameter_and_that_before_the_cookie(cluster: TinyCluster) -> None:
    cookie = "Cookie: rt_session=by-cookie\r\n"
    assert cluster.get("/?sid=by-parameter", headers=f"{cookie}X-Session: by-header\r\n")["session"] == "by-header"
    assert cluster.get("/?sid=by-parameter", headers=cookie)["session"] == "by-parameter"
    assert cluster.get("/", headers=cookie)["session"] == "by-cookie"


# However the head comes


@pytest.mark.parametrize("way", WAYS)
def test_a_head_in_two_parts_leads_where_the_whole_does(
    cluster: TinyCluster, slots: dict[str, int], four: list[str], way: str
) -> None:
    for key in four:
        head = head_of(way, key)
        cuts = range(1, len(head))
        with ExitStack() as stack:
            parts = [(connect(cluster, stack), cut) for cut in cuts]
            for sock, cut in parts:
                sock.sendall(head[:cut])
            wait_for_heads_begun(cluster, len(parts))
            for sock, cut in parts:
                sock.sendall(head[cut:])
            found = [answer(sock) for sock, _ in parts]
        assert {(each["slot"], each["session"]) for each in found} == {(slots[key], key)}
        assert all(each["head"].encode("latin-1") == head for each in found), "the worker reads every byte, once"


def test_heads_that_come_byte_by_byte_lead_where_the_whole_does(
    cluster: TinyCluster, slots: dict[str, int], four: list[str]
) -> None:
    with ExitStack() as stack:
        asked = [(connect(cluster, stack), key, head_of(way, key)) for way in WAYS for key in four]
        for n in range(max(len(head) for _, _, head in asked)):
            for sock, _, head in asked:
                sock.sendall(head[n : n + 1])
            wait_for_heads_begun(cluster, sum(len(head) > n + 1 for _, _, head in asked))
        for sock, key, _ in asked:
            found = answer(sock)
            assert (found["slot"], found["session"]) == (slots[key], key)


# What only looks like a session


COOKIE_DECOYS = {
    "the end of a parameter's name": ("/?xrt_session={}", ""),
    "a parameter where none was configured": ("/?rt_session={}", ""),
    "the path": ("/rt_session={}", ""),
    "a path parameter": ("/page;rt_session={}", ""),
    "the end of a cookie's name": ("/", "Cookie: xrt_session={}\r\n"),
    "the beginning of a cookie's name": ("/", "Cookie: rt_session2={}\r\n"),
    "the name in capitals": ("/", "Cookie: RT_SESSION={}\r\n"),
    "the name, encoded": ("/", "Cookie: rt%5Fsession={}\r\n"),
    "another cookie's value": ("/", "Cookie: other=rt_session={}\r\n"),
    "a quoted value": ("/", 'Cookie: other="a; rt_session={}; b"\r\n'),
    "a second cookie after a comma": ("/", "Cookie: a=1, rt_session={}\r\n"),
    "Referer": ("/", "Referer: http://tiny/?rt_session={}\r\n"),
    "a header called as the cookie": ("/", "rt_session: {}\r\n"),
    "Set-Cookie": ("/", "Set-Cookie: rt_session={}\r\n"),
    "a header like Cookie": ("/", "X-Cookie: rt_session={}\r\n"),
    "Cookie2": ("/", "Cookie2: rt_session={}\r\n"),
    "a cookie given twice": ("/", "Cookie: rt_session={}; rt_session=another\r\n"),
    "a cookie given twice, the other way round": ("/", "Cookie: rt_session=another; rt_session={}\r\n"),
    "a cookie in two headers": ("/", "Cookie: rt_session={}\r\nCookie: rt_session=another\r\n"),
    "a cookie given twice with the same value": ("/", "Cookie: rt_session={0}; rt_session={0}\r\n"),
    "what follows the head": ("/", "\r\nCookie: rt_session={}\r\n"),
}
OTHER_DECOYS = {
    "the end of the parameter's name": ("/?xsid={}", ""),
    "the parameter in capitals": ("/?SID={}", ""),
    "another parameter's value": ("/?a=sid={}", ""),
    "a parameter after a semicolon": ("/?a=1;sid={}", ""),
    "a parameter after an encoded ampersand": ("/?a=1%26sid={}", ""),
    "a parameter given twice": ("/?sid={}&sid=another", ""),
    "a parameter given twice, once encoded": ("/?sid={}&%73id=another", ""),
    "the path, as a parameter": ("/sid={}", ""),
    "Referer, with a parameter": ("/", "Referer: http://tiny/?sid={}\r\n"),
    "a cookie called as the parameter": ("/", "Cookie: sid={}\r\n"),
    "a header called as the parameter": ("/", "sid: {}\r\n"),
    "the beginning of the header's name": ("/", "X-Session-Id: {}\r\n"),
    "another header's value": ("/", "X-Note: X-Session: {}\r\n"),
    "a header given twice": ("/", "X-Session: {}\r\nX-Session: another\r\n"),
    "a parameter called as the header": ("/?X-Session={}", ""),
}


def check_undecided(cluster: TinyCluster, decoy: str, path: str, headers: str) -> None:
    """A visit with nothing but a decoy is a first one."""
    found = cluster.get(path.format(decoy), headers=headers.format(decoy))
    assert (found["session"], found["reason"]) == (None, "balance")
    assert found["new_session"] not in (None, decoy)
    back = cluster.get(headers=f"Cookie: rt_session={found['new_session']}\r\n")
    assert (back["slot"], back["session"]) == (found["slot"], found["new_session"])


@pytest.mark.parametrize("name", COOKIE_DECOYS)
def test_no_decoy_decides_where_a_cookie_is_looked_for(cookie_only: TinyCluster, name: str) -> None:
    for decoy, slot in first_visits(cookie_only).items():
        assert cookie_only.get(headers=f"Cookie: rt_session={decoy}\r\n")["slot"] == slot, "elsewhere it would decide"
        check_undecided(cookie_only, decoy, *COOKIE_DECOYS[name])


@pytest.mark.parametrize("name", COOKIE_DECOYS | OTHER_DECOYS)
def test_no_decoy_decides_where_all_three_are_looked_for(cluster: TinyCluster, name: str) -> None:
    for decoy, slot in first_visits(cluster).items():
        assert exchange(cluster, head_of("header", decoy))["slot"] == slot, "elsewhere it would decide"
        check_undecided(cluster, decoy, *(COOKIE_DECOYS | OTHER_DECOYS)[name])


@pytest.mark.parametrize("name", [name for name in COOKIE_DECOYS if "twice" not in name and "two" not in name])
def test_a_decoy_beside_a_real_session_changes_nothing(cookie_only: TinyCluster, name: str) -> None:
    path, headers = COOKIE_DECOYS[name]
    (real, slot), *others = first_visits(cookie_only).items()
    for decoy, _ in others:
        found = cookie_only.get(path.format(decoy), headers=f"Cookie: rt_session={real}\r\n{headers.format(decoy)}")
        assert (found["slot"], found["session"], found["new_session"]) == (slot, real, None)


# The first visit to a real server


APP = """
import json
from pathlib import Path

from realtime import App

app = App()
app.static("/", Path(__file__).parent / "public")


@app.on_connect
async def connect(conn, data):
    return {"slot": conn.slot, "session": conn.sticky_id}


async def where(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    here = scope["state"]["realtime"]
    body = json.dumps({"slot": here["slot"], "session": here["session"], "scheme": scope["scheme"]})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": body})
        await send({"type": "websocket.close", "code": 1000})
        return
    headers = [(b"set-cookie", b"theme=dark"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


app.mount("/app", where)
"""
OPTIONS = ("--sticky", "session", "--balance", "round-robin", "--secret", "s" * 32)
HTTPS = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
PAGES = ["/health", "/", "/page.html", "/realtime.js", "/app/anything", "/nothing-here"]
PLAIN = {"Path=/", "HttpOnly", "SameSite=Lax"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("visited") / "app.py"
    path.write_text(APP)
    path.with_name("public").mkdir()
    for name in ("index.html", "page.html"):
        path.with_name("public").joinpath(name).write_text("<p>A page.</p>")
    return path


@pytest.fixture(scope="module")
def server(target: Path) -> Iterator[RunningServer]:
    """A server that clients reach directly."""
    with RunningServer(target, *OPTIONS, workers=WORKERS) as running:
        running.wait_until_full()
        yield running


@pytest.fixture(scope="module")
def behind_proxy(target: Path) -> Iterator[RunningServer]:
    """A server that believes what we say about our clients."""
    with RunningServer(target, *OPTIONS, "--trusted-proxies", "127.0.0.0/8", workers=WORKERS) as running:
        running.wait_until_full()
        yield running


def visit(
    server: RunningServer, *paths: str, headers: Mapping[str, str] | None = None
) -> list[tuple[list[str], bytes]]:
    """Get pages over one connection, and return each one's cookies and body."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with closing(connection):
        found = []
        for path in paths:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            found.append((response.headers.get_all("Set-Cookie", []), response.read()))
        return found


def visit_websocket(
    server: RunningServer, path: str, headers: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Open a WebSocket, and return the handshake's cookies and what it says of its place."""
    url = f"ws://127.0.0.1:{server.port}{path}"
    with websocket(url, additional_headers=headers, compression=None) as opened:
        assert opened.response is not None
        cookies = opened.response.headers.get_all("Set-Cookie")
        if path == "/connection/websocket":
            opened.send('{"id":1,"connect":{}}')
            return cookies, json.loads(opened.recv(30))["connect"]["data"]
        return cookies, json.loads(opened.recv(30))


def place(server: RunningServer, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ask the mounted application where it is and whom it sees."""
    [(_, body)] = visit(server, "/app/where", headers=headers)
    found: dict[str, Any] = json.loads(body)
    return found


def session_in(cookies: list[str], attributes: set[str]) -> str:
    """Return the session that exactly one of these cookies sets, with exactly these attributes."""
    [cookie] = [each for each in cookies if each.startswith("rt_session=")]
    pair, *found = cookie.split("; ")
    assert sorted(found) == sorted(attributes)
    return pair.removeprefix("rt_session=")


def check_leads_back(server: RunningServer, session: str, slot: int) -> None:
    """Come back in every way, and set no cookie anew."""
    headers = {"Cookie": f"theme=dark; rt_session={session}"}
    for _ in range(WORKERS):
        [(cookies, body)] = visit(server, "/health", headers=headers)
        assert (json.loads(body)["slot"], cookies) == (slot, [])
        found = place(server, headers)
        assert (found["slot"], found["session"]) == (slot, session)
    for path in ("/connection/websocket", "/app/ws"):
        cookies, found = visit_websocket(server, path, headers)
        assert (found["slot"], found["session"], cookies) == (slot, session, [])


@pytest.mark.parametrize("path", PAGES)
def test_a_first_request_is_given_a_cookie_that_leads_back(server: RunningServer, path: str) -> None:
    slots = set()
    for _ in range(WORKERS):
        (cookies, body), (more, here) = visit(server, path, "/health")
        session = session_in(cookies, PLAIN)
        slot = json.loads(here)["slot"]
        check_leads_back(server, session, slot)
        # A proxy may have put another client's first visit there: who brings no cookie back is given one of his own.
        assert session_in(more, PLAIN) != session
        check_leads_back(server, session_in(more, PLAIN), slot)
        if path.startswith("/app"):
            found = json.loads(body)
            assert (found["slot"], found["session"]) == (slot, session), "the application knows it at once"
            assert "theme=dark" in cookies, "the application's own cookie is kept"
        slots.add(slot)
    assert slots == set(ALL)


@pytest.mark.parametrize("path", ["/connection/websocket", "/app/ws"])
def test_a_websocket_as_first_visit_is_given_the_cookie_too(server: RunningServer, path: str) -> None:
    slots = set()
    for _ in range(WORKERS):
        cookies, found = visit_websocket(server, path)
        session = session_in(cookies, PLAIN)
        assert found["session"] == session
        check_leads_back(server, session, found["slot"])
        slots.add(found["slot"])
    assert slots == set(ALL)


def test_every_first_visit_is_given_another_session(server: RunningServer) -> None:
    sessions = [session_in(visit(server, "/health")[0][0], PLAIN) for _ in range(50)]
    assert len(set(sessions)) == 50


def test_anybodys_word_does_not_make_the_cookie_secure(server: RunningServer) -> None:
    [(cookies, _)] = visit(server, "/health", headers=HTTPS)
    session_in(cookies, PLAIN)
    for path in ("/connection/websocket", "/app/ws"):
        session_in(visit_websocket(server, path, HTTPS)[0], PLAIN)
    assert place(server, HTTPS)["scheme"] == "http"


@pytest.mark.parametrize("path", PAGES)
def test_the_cookie_is_secure_when_a_trusted_proxy_says_https(behind_proxy: RunningServer, path: str) -> None:
    (cookies, _), (_, here) = visit(behind_proxy, path, "/health", headers=HTTPS)
    session = session_in(cookies, PLAIN | {"Secure"})
    check_leads_back(behind_proxy, session, json.loads(here)["slot"])
    assert place(behind_proxy, HTTPS)["scheme"] == "https"


@pytest.mark.parametrize("path", ["/connection/websocket", "/app/ws"])
def test_a_websockets_cookie_is_secure_as_well(behind_proxy: RunningServer, path: str) -> None:
    cookies, found = visit_websocket(behind_proxy, path, HTTPS)
    check_leads_back(behind_proxy, session_in(cookies, PLAIN | {"Secure"}), found["slot"])


@pytest.mark.parametrize("headers", [{}, HTTPS | {"X-Forwarded-Proto": "http"}, {"X-Forwarded-For": "203.0.113.9"}])
def test_the_cookie_is_not_secure_when_the_proxy_does_not_say_https(
    behind_proxy: RunningServer, headers: dict[str, str]
) -> None:
    session_in(visit(behind_proxy, "/health", headers=headers)[0][0], PLAIN)
    for path in ("/connection/websocket", "/app/ws"):
        session_in(visit_websocket(behind_proxy, path, headers)[0], PLAIN)


def test_a_page_and_its_websocket_meet_the_same_worker(server: RunningServer) -> None:
    for _ in range(2 * WORKERS):
        [(cookies, _)] = visit(server, "/page.html")
        session = session_in(cookies, PLAIN)
        headers = {"Cookie": f"rt_session={session}"}
        _, found = visit_websocket(server, "/connection/websocket", headers)
        assert found == {"slot": place(server, headers)["slot"], "session": session}


@pytest.mark.parametrize("path", ["/connection/websocket", "/app/ws"])
def test_a_websocket_may_follow_a_page_on_its_connection(server: RunningServer, path: str) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/health")
        page = connection.getresponse()
        session = session_in(page.headers.get_all("Set-Cookie", []), PLAIN)
        page.read()
        connection.request("GET", f"{path}?a=1", headers=upgrade)
        with closing(connection.getresponse()) as switched:
            assert switched.status == 101
            again = session_in(switched.headers.get_all("Set-Cookie", []), PLAIN)
    slot = place(server, {"Cookie": f"rt_session={session}"})["slot"]
    check_leads_back(server, session, slot)
    check_leads_back(server, again, slot)
