"""`make demo`: two browsers on one machine meet two workers, and each comes back to its own."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import ExitStack
from http.cookiejar import CookieJar
from urllib.request import HTTPCookieProcessor, build_opener

from websockets.sync.client import connect

from tests.support.server import ROOT, RunningServer


def demo_command() -> list[str]:
    """Return the options and the target of the Makefile's line, without the address."""
    [line] = re.findall(r"^\t@exec \S+/realtime serve (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = shlex.split(line)
    at = words.index("--bind")
    return words[:at] + words[at + 2 :]


class Browser:
    """Keeps cookies, as a browser profile does."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jar = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self._jar))

    def open_page(self) -> None:
        self._opener.open(self._url + "/").read()

    def join(self, stack: ExitStack) -> int:
        """Connect as the page does, for as long as the stack is open; return the slot of the worker."""
        cookie = "; ".join(f"{each.name}={each.value}" for each in self._jar)
        address = self._url.replace("http", "ws", 1) + "/connection/websocket"
        client = stack.enter_context(connect(address, additional_headers={"Cookie": cookie}))
        client.send('{"id": 1, "connect": {}}')
        slot = json.loads(client.recv(30))["connect"]["data"]["slot"]
        assert isinstance(slot, int)
        return slot


def test_two_browsers_meet_two_workers_and_come_back_to_them() -> None:
    *options, target = demo_command()
    workers = int(options[options.index("--workers") + 1])
    with RunningServer(target, *options, workers=workers) as server:
        server.wait_until_full()
        browsers = [Browser(server.url) for _ in range(2)]
        slots = []
        with ExitStack() as stack:
            for browser in browsers:
                browser.open_page()
                slots.append(browser.join(stack))
        assert slots[0] != slots[1]
        with ExitStack() as stack:
            assert [browser.join(stack) for browser in browsers] == slots
