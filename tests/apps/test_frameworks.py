"""
Gradio, Streamlit, Shiny and marimo on four workers, in a real browser.

Each keeps a page's state in one process, and its pages make requests beside their stream: clicks, uploads, downloads.
Those have to find that process, also when the page has come back elsewhere than on its own slot's worker. `--sticky
none` is the control: it shows that the requests that are made here need it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from realtime.transport.access import REQUEST_SERVED
from sticky.loop.log_lines import WORKER_READY
from tests.support.chromium import BrowserError, Chromium, Page
from tests.support.log_lines import pattern
from tests.support.require import require
from tests.support.server import ROOT, RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.frameworks]

PEOPLE, CLICKS = 5, 3
MOST = 20  # people who come one after another, until one is lost; each is with a chance of a half at least
DEADLINE_S = 300.0  # only a hang reaches it: four processes import these at once, Gradio alone takes 8 s of a processor
PATIENCE_S = 30.0  # of the control: who is lost on Gradio hears nothing
LOOK_S = 1.0  # how often the log is looked at while a page is waited for
REFUSED = pattern(REQUEST_SERVED, method="(GET|POST|PUT)", path=r"/(?!favicon)\S*", status=r"[45]\d\d")
COUNTED = r"\d+ clicks.*"


class Lost(AssertionError):
    """A page has not found the process that has its state."""


@contextlib.contextmanager
def serve(name: str, sticky: str) -> Iterator[RunningServer]:
    """Serve an example on four workers, at home in an empty directory; nothing is sent to the frameworks' makers."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        config = Path(home) / ".streamlit" / "config.toml"  # its variables are for `streamlit run` alone
        config.parent.mkdir()
        config.write_text("browser.gatherUsageStats = false\n")
        server = RunningServer(
            ROOT / "examples" / name / "app.py",
            *("--sticky", sticky, "--balance", "round-robin", "--access-log", "--drain", "2s"),
            *("--boot", f"{DEADLINE_S:g}s", "--hung", "1m"),
            workers=4,
            env={"HOME": home, "GRADIO_ANALYTICS_ENABLED": "False"},
            python=require("frameworks"),
        )
        server.start()
        stack.push(server)  # it is stopped, and its log shown where a test has failed
        server.wait_until_listening(deadline_s=DEADLINE_S)
        server.log.wait_for(pattern(WORKER_READY, ready="4/4"), deadline_s=DEADLINE_S)
        yield server


def workers_of(server: RunningServer) -> set[int]:
    return {worker["pid"] for worker in server.status()["workers"]}


class Person:
    """
    Somebody with a page of an example.

    Args:
        file: what is uploaded.
        patience_s: for how long the page may show nothing new.

    Attributes:
        lost: what is said of a page whose requests do not find its process.
    """

    lost: ClassVar[str]

    def __init__(
        self, chromium: Chromium, server: RunningServer, file: Path, *, patience_s: float = DEADLINE_S
    ) -> None:
        self.server = server
        self.page: Page = chromium.page(server.url)
        self.file = file
        self.patience_s = patience_s
        self.told = self.see(COUNTED)

    def see(self, line: str) -> str:
        """
        Wait until the page shows a line.

        Raises:
            Lost: the server has refused a request meanwhile, or the patience is over.
        """
        fields = "[...document.querySelectorAll('textarea')].map((each) => each.value + '\\n').join('')"
        script = f"({fields} + document.body.innerText).match(/^{line}$/m)"
        give_up_at = time.monotonic() + self.patience_s
        while True:
            try:
                return str(self.page.wait_for(script, deadline_s=LOOK_S)[0])
            except BrowserError as error:
                if refused := self.server.log.find_all(REFUSED):
                    raise Lost(refused[0].string) from None
                if time.monotonic() > give_up_at:
                    raise Lost(f"nothing for {self.patience_s:g} s: {error}") from None

    def see_another_count(self) -> int:
        """Wait until the page tells another count, or another worker; return the worker's pid."""
        return self.see_count(rf"(?!{self.told}$){COUNTED}")

    def see_count(self, line: str) -> int:
        self.told = self.see(line)
        return int(self.told.rsplit(" ", 1)[1])

    def count(self) -> int:
        """Click, and see that each click is counted by one and the same process; return its pid."""
        start, workers = int(self.told.split()[0]), set()
        for number in range(start + 1, start + 1 + CLICKS):
            self.click()
            workers.add(self.see_another_count())
            if not self.told.startswith(f"{number} clicks") or len(workers) > 1:
                raise Lost(f"{self.told}, after {number} clicks")
        [worker] = workers
        return worker

    def see_upload(self) -> None:
        self.see(f"{self.file.name} has {self.file.stat().st_size} bytes")

    # What differs

    def click(self) -> None:
        self.page.click("#click")

    def make_other_requests(self) -> None:
        """Do what else needs the page's process."""

    def come_back(self, since: int) -> None:
        """Wait until the page has a process again; `since` is where the log was before it lost the one it had."""
        raise NotImplementedError


class OnGradio(Person):
    """A click is a request, its result comes by a stream; a stream at another process waits for ever."""

    lost = "path=/gradio_api/queue/|after 2 clicks|after 3 clicks|nothing for"


class OnStreamlit(Person):
    """A click goes through the WebSocket, an upload does not."""

    lost = "method=PUT path=/_stcore/upload_file/"

    def click(self) -> None:
        self.page.click("[data-testid=stButton] button")

    def make_other_requests(self) -> None:
        self.page.choose("[data-testid=stFileUploader] input[type=file]", self.file)
        self.see_upload()

    def come_back(self, since: int) -> None:
        asked = pattern(REQUEST_SERVED, method="GET", path="/_stcore/host-config", status=200)
        self.server.log.wait_for(asked, since=since, deadline_s=DEADLINE_S)
        self.page.wait_for("!!document.querySelector('[data-test-connection-state=CONNECTED]')", deadline_s=DEADLINE_S)


class OnShiny(Person):
    """A click goes through the WebSocket, a download and an upload do not."""

    lost = "/session/"

    def make_other_requests(self) -> None:
        self.page.wait_for("document.querySelector('#download').getAttribute('href')")
        loaded = self.page.evaluate("fetch(document.querySelector('#download').href).then((answer) => answer.text())")
        if loaded != self.told:
            raise Lost(f"GET /session/…/download: {loaded}")
        self.page.choose("#file", self.file)
        self.see_upload()


class OnMarimo(Person):
    """A click is a request, its result comes through the WebSocket."""

    lost = "method=POST path=/api/kernel/"

    def click(self) -> None:
        self.page.click("marimo-button", shadow="button")

    def come_back(self, since: int) -> None:
        self.see(r"0 clicks, by worker \d+")


PEOPLE_ON: dict[str, type[Person]] = {
    "gradio": OnGradio,
    "streamlit": OnStreamlit,
    "shiny": OnShiny,
    "marimo": OnMarimo,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "letter.txt"
    path.write_text("hello")
    return path


@pytest.mark.parametrize("name", PEOPLE_ON)
def test_everybodys_requests_find_the_process_that_has_the_page(chromium: Chromium, name: str, file: Path) -> None:
    workers = set()
    with serve(name, "session") as server:
        people = [PEOPLE_ON[name](chromium, server, file) for _ in range(PEOPLE)]  # all are there before one clicks
        for person in people:
            workers.add(person.count())
            person.make_other_requests()
        assert not server.log.find_all(REFUSED)
        for person in people:
            person.page.close()
    assert len(workers) > 1, "they are on several workers"


@pytest.mark.parametrize("name", PEOPLE_ON)
def test_without_stickiness_somebodys_requests_do_not(chromium: Chromium, name: str, file: Path) -> None:
    with serve(name, "none") as server, pytest.raises(Lost, match=PEOPLE_ON[name].lost):  # noqa: PT012
        for _ in range(MOST):
            person = PEOPLE_ON[name](chromium, server, file, patience_s=PATIENCE_S)
            person.count()
            person.make_other_requests()


@pytest.mark.parametrize("name", ["streamlit", "marimo"])
def test_a_page_that_came_back_elsewhere_has_all_its_requests_there(chromium: Chromium, name: str, file: Path) -> None:
    with serve(name, "session") as server:
        person = PEOPLE_ON[name](chromium, server, file)
        before, killed, since = workers_of(server), person.count(), server.log.mark()
        os.kill(killed, signal.SIGKILL)
        while not (successors := workers_of(server) - before):
            pass
        [successor] = successors
        os.kill(successor, signal.SIGSTOP)  # it boots when the page is back
        person.come_back(since)
        os.kill(successor, signal.SIGCONT)
        server.log.wait_for(pattern(WORKER_READY, pid=successor, ready="4/4"), since=since, deadline_s=DEADLINE_S)
        person.make_other_requests()
        elsewhere = person.see_count(r"0 clicks, by worker \d+")  # what was counted is lost with its process
        assert elsewhere not in (killed, successor)
        assert person.count() == elsewhere
        assert not server.log.find_all(REFUSED)
        person.page.close()
