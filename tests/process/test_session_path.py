"""
A segment of the path is the session: all who name it meet at one worker, by WebSocket, by HTTP, and on one connection.

Three workers of an application that says who served a request.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect as websocket

from tests.support.http import WHOSE, Client
from tests.support.server import ROOT, RunningServer

DOCUMENTS = [f"doc-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--sticky", "session", "--session-path", "/doc/{key}", "--balance", "round-robin", "--secret", "s" * 32)
    with RunningServer(WHOSE, *options, "--trusted-proxies", "127.9.0.0/16", workers=3) as running:
        running.wait_until_full()
        yield running


def ask(client: Client, path: str, headers: str = "") -> tuple[int, str | None]:
    client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n".encode())
    found = client.answer()
    return found["slot"], found["session"]


def slot_by_websocket(server: RunningServer, path: str, **options: str) -> int:
    url = f"ws://127.0.0.1:{server.port}{path}"
    with websocket(url, additional_headers=options) as socket:
        found = json.loads(socket.recv())["slot"]
        assert isinstance(found, int)
        return found


@pytest.fixture(scope="module")
def slots(server: RunningServer) -> dict[str, int]:
    found = {}
    for name in DOCUMENTS:
        with Client(server.port) as client:
            found[name], session = ask(client, f"/doc/{name}")
            assert session == name
    assert set(found.values()) == {0, 1, 2}, "documents are spread over the workers"
    return found


def test_all_who_open_a_document_meet_at_one_worker(server: RunningServer, slots: dict[str, int]) -> None:
    for name, slot in slots.items():
        encoded = "".join(f"%{byte:02x}" for byte in name.encode())
        for path in (f"/doc/{name}", f"/doc/{encoded}?token=1"):
            assert slot_by_websocket(server, path) == slot
            assert slot_by_websocket(server, path, Cookie="rt_session=somebody") == slot


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.0.1"])
def test_each_request_of_a_connection_goes_by_its_own_path(
    server: RunningServer, slots: dict[str, int], address: str
) -> None:
    with Client(server.port, address) as client:
        for _ in range(2):
            for name, slot in slots.items():
                assert ask(client, f"/doc/{name}", "Cookie: rt_session=somebody\r\n") == (slot, name)


def test_other_paths_go_by_the_cookie(server: RunningServer, slots: dict[str, int]) -> None:
    with Client(server.port) as first:
        slot, session = ask(first, "/")
    for name in slots:
        for path in (f"/doc/{name}/more", f"/?at=/doc/{name}", f"/x/doc/{name}", "/doc", "/doc/"):
            with Client(server.port) as client:
                assert ask(client, path, f"Cookie: rt_session={session}\r\n") == (slot, session)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--sticky", "session", "--session-path", "/doc"), "/doc/{key}"),
        (("--sticky", "session", "--session-path", "/doc-{key}"), "/doc/{key}"),
        (("--session-path", "/doc/{key}"), "session_path has no meaning with sticky ip: set sticky to session"),
    ],
)
def test_what_cannot_work_is_refused_at_start(options: tuple[str, ...], why: str) -> None:
    argv = [sys.executable, "-m", "realtime", "serve", WHOSE, "--bind", "127.0.0.1:0", *options]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "--session-path" in ended.stderr
    assert why in ended.stderr
