"""NiceGUI on four workers, in a real browser: each page lives in one process, and its clicks find it there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from realtime.transport.access import REQUEST_SERVED
from tests.support.chromium import BrowserError, Chromium
from tests.support.log_lines import pattern
from tests.support.server import ROOT, RunningServer

pytestmark = pytest.mark.browser

APP = ROOT / "examples" / "nicegui" / "app.py"
PEOPLE, CLICKS = 6, 5
LOADED = pattern(REQUEST_SERVED, method="GET", path="/", status=200)


def serve(sticky: str) -> RunningServer:
    return RunningServer(APP, "--sticky", sticky, "--balance", "round-robin", "--access-log", workers=4)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


def test_everybody_clicks_and_is_counted_by_the_process_that_made_the_page(chromium: Chromium) -> None:
    workers = set()
    with serve("session") as server:
        server.wait_until_full()
        for _ in range(PEOPLE):
            page = chromium.page(server.url)
            page.wait_for("document.querySelector('.told')?.textContent === '0 clicks'")
            page.wait_for("window.socket?.connected")
            for number in range(1, CLICKS + 1):
                page.evaluate("document.querySelector('.click').click()")
                page.wait_for(f"document.querySelector('.told').textContent === '{number} clicks'")
            workers.add(page.evaluate("document.querySelector('.worker').textContent"))
            page.close()
        assert not server.log.find_all("Invalid session")
    assert len(workers) > 1, "they are on several workers"


@pytest.mark.slow
def test_without_stickiness_a_page_does_not_find_its_process(chromium: Chromium) -> None:
    with serve("none") as server:
        server.wait_until_full()
        for _ in range(PEOPLE):
            with contextlib.suppress(BrowserError):  # it is gone again before it is complete
                chromium.page(server.url)
        # Where its socket meets another process, which does not know it, the page is told to load itself anew.
        while True:
            mark = server.log.mark()
            if len(server.log.find_all(LOADED)) > PEOPLE:
                break
            server.log.wait_for(LOADED, since=mark)
