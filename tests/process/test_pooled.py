"""
Requests of many sessions on one connection, as a pooling proxy sends them: each is answered by its own worker.

Four workers under `--sticky session`; one client mixes sessions on a kept-alive connection in every way that HTTP
allows. The connection stays open, every request is answered once, in order, and by the worker of its session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.http import WHOSE, Client, request
from tests.support.server import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--sticky", "session", "--trusted-proxies", "127.9.0.0/16", "--balance", "round-robin")
    with RunningServer(WHOSE, *options, workers=4) as running:
        running.wait_until_full()
        yield running


@pytest.fixture(scope="module")
def sessions(server: RunningServer) -> dict[str, int]:
    """Twelve sessions that the server gave, and one of the client's own for each slot; with their slots."""
    found: dict[str, int] = {}
    for _ in range(12):
        with Client(server.port) as client:
            answer = client.get()
            found[answer["session"]] = answer["slot"]
    number = 0
    while len(found) < 24:
        number += 1
        with Client(server.port) as client:
            found[f"own-{number}"] = client.get(f"own-{number}")["slot"]
    assert set(found.values()) == {0, 1, 2, 3}
    return found


def moves(server: RunningServer) -> int:
    found = server.status()["counters"].get("given_back", 0)
    assert isinstance(found, int)
    return found


def test_each_request_of_a_connection_is_answered_by_its_own_worker(
    server: RunningServer, sessions: dict[str, int]
) -> None:
    before = moves(server)
    with Client(server.port) as client:
        for _ in range(3):
            for session, slot in sessions.items():
                found = client.get(session)
                assert (found["slot"], found["session"]) == (slot, session)
                assert "set-cookie" not in found["headers"]
    assert moves(server) > before, "this test is of something"


def test_requests_of_one_session_stay_where_they_are(server: RunningServer, sessions: dict[str, int]) -> None:
    before = moves(server)
    for session, slot in sessions.items():
        with Client(server.port) as client:
            assert {client.get(session)["slot"] for _ in range(5)} == {slot}
    assert moves(server) == before


def test_pipelined_requests_are_answered_in_order_each_by_its_own(
    server: RunningServer, sessions: dict[str, int]
) -> None:
    with Client(server.port) as client:
        client.send(b"".join(request(session) for session in sessions))
        assert [client.answer()["slot"] for _ in sessions] == list(sessions.values())


def test_bodies_go_with_their_requests(server: RunningServer, sessions: dict[str, int]) -> None:
    with Client(server.port) as client:
        for session, slot in sessions.items():
            body = f"for {session}".encode()
            client.send(request(session, method="POST", body=body))
            found = client.answer()
            assert (found["slot"], found["body"]) == (slot, body.decode())
        chunked = "Transfer-Encoding: chunked\r\n"
        for session, slot in sessions.items():
            client.send(request(session, chunked, "POST") + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nDigest: 1\r\n\r\n")
            found = client.answer()
            assert (found["slot"], found["body"]) == (slot, "abcdefg")


def test_large_bodies_that_were_read_with_the_head_go_along(server: RunningServer, sessions: dict[str, int]) -> None:
    body = bytes(1_000_000)
    with Client(server.port) as client:
        for session, slot in list(sessions.items())[:8]:
            client.send(request(session, method="POST", body=body))
            found = client.answer()
            assert (found["slot"], found["body"]) == (slot, len(body))


def test_a_head_that_comes_in_pieces_is_waited_for(server: RunningServer, sessions: dict[str, int]) -> None:
    with Client(server.port) as client:
        for session, slot in sessions.items():
            for byte in request(session, method="POST", body=b"body"):
                client.send(bytes([byte]))
            found = client.answer()
            assert (found["slot"], found["body"]) == (slot, "body")


def test_expect_100_continue_is_answered_by_the_owner(server: RunningServer, sessions: dict[str, int]) -> None:
    with Client(server.port) as client:
        for session, slot in sessions.items():
            client.send(request(session, "Expect: 100-continue\r\nContent-Length: 4\r\n", "POST"))
            assert client.stream.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert client.stream.readline() == b"\r\n"
            client.send(b"body")
            found = client.answer()
            assert (found["slot"], found["body"]) == (slot, "body")


def test_a_first_visit_in_between_gets_a_session_that_leads_to_who_answered(
    server: RunningServer, sessions: dict[str, int]
) -> None:
    with Client(server.port) as client:
        for session in list(sessions)[:6]:
            client.get(session)
            visit = client.get()
            assert visit["headers"]["set-cookie"].startswith(f"rt_session={visit['session']}; Path=/; HttpOnly")
            with Client(server.port) as other:
                assert other.get(visit["session"])["slot"] == visit["slot"]


def test_an_upgrade_as_a_later_request_reaches_its_own_worker(server: RunningServer, sessions: dict[str, int]) -> None:
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    for session, slot in list(sessions.items())[:8]:
        other = next(name for name, where in sessions.items() if where != slot)
        with Client(server.port) as client:
            client.get(other)
            client.send(request(session, upgrade))
            assert b" 101 " in client.stream.readline()
            while client.stream.readline() != b"\r\n":
                pass
            opening, length = client.stream.read(2)
            assert opening == 0x81
            if length == 126:
                length = int.from_bytes(client.stream.read(2), "big")
            assert json.loads(client.stream.read(length))["slot"] == slot


def test_each_request_has_its_own_client_when_a_trusted_proxy_says_so(
    server: RunningServer, sessions: dict[str, int]
) -> None:
    with Client(server.port, "127.9.0.1") as client:
        for number, (session, slot) in enumerate(sessions.items()):
            forwarded = f"X-Forwarded-For: 192.0.2.{number}\r\n"
            proto = "X-Forwarded-Proto: https\r\n" if number % 2 else ""
            found = client.get(session, forwarded + proto)
            assert (found["slot"], found["client"][0]) == (slot, f"192.0.2.{number}")
            assert found["scheme"] == ("https" if number % 2 else "http")


def test_what_cannot_be_cut_is_refused_and_the_connection_closed(
    server: RunningServer, sessions: dict[str, int]
) -> None:
    with Client(server.port) as client:
        client.get(next(iter(sessions)))
        client.send(b"GET /p HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 400 " in client.stream.readline()
        assert b"connection: close" in client.stream.read().lower()


def test_first_visits_that_a_proxy_puts_on_one_connection_are_spread_over_the_workers(server: RunningServer) -> None:
    with Client(server.port, "127.9.0.1") as client:
        assert {client.get()["slot"] for _ in range(200)} == {0, 1, 2, 3}
    with Client(server.port, "127.8.0.1") as client:
        assert len({client.get()["slot"] for _ in range(50)}) == 1, "without a proxy it is one client without cookies"
