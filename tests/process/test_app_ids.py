"""
Ids that an application makes and answers in the header that carries sessions: they lead back to its worker.

Two workers of one small application that keeps its ids in its own memory. What it saw and what it answered is compared
with what went over the wire; nothing of the tag is seen by it, and a client sends back what it was given.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import RunningServer

APP = r"""
import json
import os

mine = set()  # ids that were made in this process


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    seen = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-app-id"]
    asked = dict(pair.split("=", 1) for pair in scope["query_string"].decode().split("&") if pair)
    new = [each.encode("latin-1") for each in json.loads(bytes.fromhex(asked.get("make", "5b5d")))]
    known = all(each in mine for each in seen)
    mine.update(each.decode("latin-1").strip() for each in new)
    if asked.get("echo"):
        new += [each.encode("latin-1") for each in seen]
    place = scope["state"]["realtime"]
    facts = json.dumps({"seen": seen, "known": known, "slot": place["slot"], "session": place["session"]}).encode()
    headers = [(b"X-App-Id" if asked.get("upper") else b"x-app-id", each) for each in new]
    if scope["type"] == "websocket":
        await receive()
        if asked.get("deny"):
            await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": facts})
            return
        await send({"type": "websocket.accept", "headers": headers})
        await send({"type": "websocket.send", "text": facts.decode()})
        await receive()
        return
    headers += [(b"x-other", b"x-app-id: decoy"), (b"x-app-id2", b"decoy")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": facts, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""

IDS = ["plain-id", "0" * 400, 'with "quotes", commas; and \\', "a~b", "a~AAAAAAAAAAAA", "\xe9\xff", "~", "x" * 28]


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    target: Path = tmp_path_factory.mktemp("ids") / "app.py"
    target.write_text(APP)
    options = ("--sticky", "session", "--session-header", "X-App-Id", "--balance", "round-robin")
    proxies = ("--trusted-proxies", "127.9.0.0/16", "--http", request.param)
    with RunningServer(target, *options, *proxies, workers=2) as running:
        running.wait_until_full()
        yield running


class Client:
    """One kept-alive connection. `headers` of an answer are as they came, in order."""

    def __init__(self, server: RunningServer, address: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), 30, (address, 0))
        self.stream = self.sock.makefile("rb")

    def close(self) -> None:
        self.stream.close()
        self.sock.close()

    def ask(self, *lines: str, query: str = "", version: str = "1.1", method: str = "GET") -> dict[str, Any]:
        head = "".join(f"{line}\r\n" for line in lines)
        self.sock.sendall(f"{method} /?{query} HTTP/{version}\r\nHost: h\r\n{head}\r\n".encode("latin-1"))
        status = self.stream.readline().decode()
        headers = []
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        ids = [value for name, value in headers if name == "x-app-id"]
        found = {"status": status.split()[1], "ids": ids, "headers": headers}
        if found["status"] == "101":
            begin = self.stream.read(2)
            size = begin[1] if begin[1] < 126 else int.from_bytes(self.stream.read(2), "big")
            return {**found, **json.loads(self.stream.read(size))}
        if "transfer-encoding" in dict(headers):
            body = b""
            while size := int(self.stream.readline(), 16):
                body += self.stream.read(size)
                self.stream.readline()
            self.stream.readline()
        elif "content-length" in dict(headers):
            body = self.stream.read(int(dict(headers)["content-length"]))
        else:
            body = self.stream.read()
        return {**found, **json.loads(body)}


def once(server: RunningServer, *lines: str, **asked: Any) -> dict[str, Any]:
    with closing(Client(server)) as client:
        return client.ask(*lines, **asked)


def make(*ids: str) -> str:
    return f"make={json.dumps(ids).encode().hex()}"


def make_one(server: RunningServer, app_id: str, **asked: Any) -> tuple[str, int]:
    """Have an id made; return how the client got it, and the slot."""
    found = once(server, query=make(app_id), **asked)
    [value] = found["ids"]
    return value, found["slot"]


@pytest.mark.parametrize("app_id", IDS)
def test_an_id_leads_back_and_neither_side_sees_that_it_does(server: RunningServer, app_id: str) -> None:
    slots = set()
    for _ in range(4):
        value, slot = make_one(server, app_id)
        slots.add(slot)
        for method in ("GET", "DELETE"):
            found = once(server, f"X-APP-ID: {value}", method=method)
            assert (found["slot"], found["seen"], found["known"]) == (slot, [app_id], True)
            assert found["session"] == app_id
            assert "set-cookie" not in dict(found["headers"])
        again = once(server, f"x-app-id: {value}", query="echo=1")
        assert again["ids"] == [value], "an answer repeats what the client sent"
    assert slots == {0, 1}, "ids were made by both workers"


def test_a_header_name_in_capitals_and_several_values_are_the_same(server: RunningServer) -> None:
    value, slot = make_one(server, "one")
    found = once(server, query=make("one", "two") + "&upper=1", version="1.0")
    assert [each.rpartition("~")[0] for each in found["ids"]] == ["one", "two"]
    both = once(server, *[f"x-app-id: {each}" for each in found["ids"]])
    assert both["seen"] == ["one", "two"], "neither decides, and the application sees neither tag"
    assert once(server, query=make("", "one"))["ids"][0] == "", "what names nothing stays so"
    assert once(server, f"x-app-id: {value}", version="1.0")["slot"] == slot


def test_what_bears_no_tag_of_ours_passes_as_it_is(server: RunningServer) -> None:
    with RunningServer(server.argv[4], "--sticky", "session", "--session-header", "X-App-Id", workers=1) as other:
        foreign, _ = make_one(other, "abc")
    for strange in ("invented", foreign, "a~AAAAAAAAAAAA", "x" * 5000):
        found = [once(server, f"x-app-id: {strange}", query="echo=1") for _ in range(4)]
        assert {(each["slot"], *each["seen"], *each["ids"]) for each in found} == {(found[0]["slot"], strange, strange)}


def test_an_id_that_leads_nowhere_does_not_go_before_a_cookie_that_does(server: RunningServer) -> None:
    for _ in range(4):
        first = once(server)
        cookie = f"Cookie: {dict(first['headers'])['set-cookie'].partition(';')[0]}"
        assert {once(server, cookie, f"x-app-id: made-up-{n}")["slot"] for n in range(6)} == {first["slot"]}
        value, slot = make_one(server, "mine")
        assert once(server, cookie, f"x-app-id: {value}")["slot"] == slot, "one that leads somewhere does"


def test_requests_of_many_ids_share_a_proxys_connection(server: RunningServer) -> None:
    made = [make_one(server, f"id-{number}") for number in range(8)]
    for address in ("127.0.0.1", "127.9.0.1"):
        with closing(Client(server, address)) as client:
            for _ in range(2):
                for number, (value, slot) in enumerate(made):
                    found = client.ask(f"x-app-id: {value}", query=make("other"))
                    assert (found["slot"], found["seen"]) == (slot, [f"id-{number}"])
                    assert once(server, f"x-app-id: {found['ids'][0]}")["slot"] == slot


def test_a_websockets_handshake_carries_them_too(server: RunningServer) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    upgrade = (*upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    slots: dict[str, set[int]] = {"socket": set(), "denied": set()}
    for name, asked in (("socket", ""), ("denied", "&deny=1")):
        for _ in range(4):
            opened = once(server, *upgrade, query=make(name) + asked)
            assert opened["status"] == ("403" if asked else "101")
            [value] = opened["ids"]
            for further in (upgrade, ()):
                again = once(server, *further, f"X-App-Id: {value}", query="echo=1")
                assert (again["slot"], again["seen"], again["ids"]) == (opened["slot"], [name], [value])
            slots[name].add(opened["slot"])
    assert slots == {"socket": {0, 1}, "denied": {0, 1}}, "ids were made by both workers"
