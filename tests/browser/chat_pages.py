"""
People in the chat, as the browser tests and the screenshots need them: a running server with the example, a browser,
and for each person a tab that comes from an address of its own.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.chromium import Chromium, Page
from tests.support.relay import Relay
from tests.support.server import ROOT, RunningServer

CHAT = ROOT / "examples" / "chat" / "app.py"
WORKERS = 4
SETTLED_S = 60.0  # only a hang reaches it
SEARCHED = 60  # addresses; that all of them meet one of two slots or more has a chance of 2**-59

# Keeps each WebSocket that a page opens, with what it received, and whether it was closed.
KEPT_SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  received = [];
  isClosed = false;
  constructor(...values) {
    super(...values);
    window.sockets.push(this);
    this.addEventListener('message', ({ data }) => this.received.push(data));
    this.addEventListener('close', () => this.isClosed = true);
  }
};
"""


class Chat:
    """The example, or a file that wraps it, served by several workers with `--sticky ip`, and a browser."""

    def __init__(self, app: Path = CHAT, *, workers: int = WORKERS) -> None:
        self.server = RunningServer(app, "--sticky", "ip", workers=workers)
        self.browser = Chromium()
        self._exits = ExitStack()

    def __enter__(self) -> Chat:
        with ExitStack() as exits:
            exits.enter_context(self.server)
            exits.enter_context(self.browser)
            self.server.wait_until_full()  # else whose slot is still empty would be served by another one for a while
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def slot_for(self, source: str) -> int:
        """Ask which slot serves the clients of an address."""
        with self.knock(source) as (_, admitted):
            return int(admitted["data"]["slot"])

    def addresses_of_different_slots(self, count: int) -> list[str]:
        """Find client addresses that are served by `count` different workers."""
        found: dict[int, str] = {}
        for number in range(2, 2 + SEARCHED):
            source = f"127.0.0.{number}"
            found.setdefault(self.slot_for(source), source)
            if len(found) == count:
                return list(found.values())
        raise AssertionError(f"{SEARCHED} addresses met {len(found)} slots only")

    def knock(self, source: str, **data: Any) -> _Knock:
        """Connect a bare client from an address, that neither answers nor comes back."""
        return _Knock(self.server.port, source, data)

    def enter(self, name: str, source: str, **options: Any) -> Page:
        """Open the chat for somebody who comes from this address, and wait until it is ready."""
        relay = self._exits.enter_context(Relay(self.server.port, source))
        page = self.browser.page("about:blank", **options)
        first = "location.protocol === 'http:' && !localStorage.getItem('chat.name')"
        keep = f"localStorage.setItem('chat.name', JSON.stringify({json.dumps(name)}))"
        page.call("Page.addScriptToEvaluateOnNewDocument", {"source": f"{KEPT_SOCKETS}; if ({first}) {keep}"})
        page.go(relay.url)
        return ready(page)

    def generations(self) -> list[tuple[int, int, int]]:
        """Return slot, process id and generation of each worker that serves, by slot; the newest of each slot."""
        workers = sorted(self.server.status()["workers"], key=lambda each: int(each["generation"]))
        newest = {each["slot"]: each for each in workers if each["state"] == "ready"}
        return [(slot, each["pid"], each["generation"]) for slot, each in sorted(newest.items())]

    def wait_until_settled(self, workers: int, *, gone: Sequence[int] = ()) -> None:
        """Wait until each slot has one worker, which serves, and the processes in `gone` are none of them."""
        give_up_at = time.monotonic() + SETTLED_S
        while True:
            status = self.server.status()
            found = sorted((each["slot"], each["state"]) for each in status["workers"])
            pids = {each["pid"] for each in status["workers"]}
            is_whole = found == [(slot, "ready") for slot in range(workers)]
            if is_whole and not status["reload"]["left"] and not pids & set(gone):
                return
            assert time.monotonic() < give_up_at, status
            time.sleep(0.05)

    def tab_beside(self, page: Page, **options: Any) -> Page:
        """Open another tab of the same browser."""
        return ready(self.browser.page(page.evaluate("location.href"), profile=page.profile, **options))


class _Knock:
    """A bare connection: its connect was answered."""

    def __init__(self, port: int, source: str, data: dict[str, Any]) -> None:
        sock = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
        uri = f"ws://127.0.0.1:{port}/connection/websocket"
        self._exits = ExitStack()
        opened = connect(uri, sock=sock, compression=None, open_timeout=10, proxy=None)
        self.socket: ClientConnection = self._exits.enter_context(opened)
        self.admitted: dict[str, Any] = self.ask({"connect": {"data": data}})["connect"]

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send one command and return its reply."""
        self.socket.send(json.dumps({"id": 1} | command))
        while True:
            for line in str(self.socket.recv(timeout=10)).split("\n"):
                reply: dict[str, Any] = json.loads(line)
                if reply.get("id") == 1:
                    return reply

    def __enter__(self) -> tuple[_Knock, dict[str, Any]]:
        return self, self.admitted

    def __exit__(self, *about: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._exits.close()


def ready(page: Page) -> Page:
    """Wait until the page is connected and shows a room with ourselves in it."""
    page.wait_for("document.body.dataset.connection === 'connected' && document.querySelector('.people li')")
    return page


def say(page: Page, text: str) -> None:
    """Write a message as a person does, and see it appear in one's own window."""
    page.click("#text")
    page.type(text)
    page.press("Enter")
    page.wait_for(f"[...document.querySelectorAll('.text')].some((shown) => shown.textContent === {json.dumps(text)})")


def exchange(pages: Sequence[Page], before: Sequence[str], *texts: str) -> list[str]:
    """Have people write in turn, and see each message in every window. Return all messages that are shown now."""
    shown = list(before)
    for number, text in enumerate(texts):
        say(pages[number % len(pages)], text)
        shown.append(text)
        for page in pages:
            wait_for_messages(page, shown)
    return shown


def messages(page: Page) -> list[str]:
    """Return the messages that the page shows, from top to bottom."""
    return page.texts(".message .text")


def wait_for_messages(page: Page, expected: Sequence[str], *, deadline_s: float = 30.0) -> None:
    """Wait until the page shows exactly these messages, in this order."""
    shown = "JSON.stringify([...document.querySelectorAll('.message .text')].map((text) => text.textContent))"
    wanted = json.dumps(json.dumps(list(expected), ensure_ascii=False, separators=(",", ":")))
    page.wait_for(f"{shown} === {wanted}", deadline_s=deadline_s)


PEOPLE = """[...document.querySelectorAll('.people li')].map((person) => [
  person.querySelector('.who').childNodes[0].textContent,
  person.querySelector('.note')?.textContent.trim() ?? '',
  [...person.querySelectorAll('.slot-tag')].map((tag) => tag.textContent).join(' '),
])"""


def people(page: Page) -> list[list[str]]:
    """Return who is shown as present: name, note, slots."""
    return page.evaluate(PEOPLE)  # type: ignore[no-any-return]


def wait_for_people(
    page: Page, expected: Sequence[Sequence[str]], *, moved: Sequence[str] = (), deadline_s: float = 30.0
) -> None:
    """
    Wait until the page shows exactly these people, us first and then by name. Others do not learn of a move, so the
    page may show a slot of before for people who have `moved`.
    """
    wanted = json.dumps(json.dumps([list(person) for person in expected], separators=(",", ":")))
    shown = f"{PEOPLE}.map((each) => {json.dumps(list(moved))}.includes(each[0]) ? each.slice(0, 2) : each)"
    page.wait_for(f"JSON.stringify({shown}) === {wanted}", deadline_s=deadline_s)


def enter_room(page: Page, room: str) -> None:
    """Click a room and wait until it is shown."""
    page.click(f'.rooms a[href="#{room}"]')
    page.wait_for(f"document.querySelector('h1').textContent === {json.dumps(room)}")
