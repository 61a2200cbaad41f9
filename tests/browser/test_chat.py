"""The chat in a real browser: people on different workers, a worker that is killed under one of them, and manners."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from sticky.loop.log_lines import SERVER_TAKEN_OVER, SIDECAR_READY, WORKER_READY
from sticky.process.control import send_request
from tests.browser.chat_pages import (
    WORKERS,
    Chat,
    enter_room,
    exchange,
    messages,
    people,
    ready,
    say,
    wait_for_messages,
    wait_for_people,
)
from tests.support.chromium import Page
from tests.support.log_lines import pattern

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    with Chat() as chat:
        yield chat


@pytest.fixture(scope="module")
def addresses(chat: Chat) -> list[str]:
    """Two client addresses that are served by different workers."""
    return chat.addresses_of_different_slots(2)


@pytest.fixture
def ada(chat: Chat, addresses: list[str]) -> Iterator[Page]:
    page = chat.enter("Ada", addresses[0])
    yield page
    page.close()
    assert page.errors == []


@pytest.fixture
def bela(chat: Chat, addresses: list[str], ada: Page) -> Iterator[Page]:
    page = chat.enter("Bela", addresses[1])
    yield page
    page.close()
    assert page.errors == []


def slot(page: Page) -> int:
    return int(page.evaluate("document.body.dataset.slot"))


def watch(page: Page) -> None:
    """Keep what the page says of its connection from now on."""
    page.evaluate(
        """(() => {
          window.seen = [];
          const look = () => window.seen.push(
            [document.body.dataset.connection, document.querySelector('.status').textContent]);
          const observer = new MutationObserver(look);
          observer.observe(document.body, { attributes: true });
          observer.observe(document.querySelector('.status'), { childList: true, characterData: true, subtree: true });
        })()"""
    )


class TestTwoPeopleOnDifferentWorkers:
    def test_they_see_each_other_and_what_they_write(self, ada: Page, bela: Page) -> None:
        assert slot(ada) != slot(bela)
        assert ada.text(".served .slot") == f"slot {slot(ada)}"
        tags = f"slot {slot(ada)}", f"slot {slot(bela)}"
        wait_for_people(ada, [("Ada", "you", tags[0]), ("Bela", "", tags[1])])
        wait_for_people(bela, [("Bela", "you", tags[1]), ("Ada", "", tags[0])])

        before = messages(ada)
        say(ada, "Is anybody here?")
        bela.wait_for("[...document.querySelectorAll('.text')].at(-1).textContent === 'Is anybody here?'")
        say(bela, "On the other worker, yes.")
        for page in (ada, bela):
            wait_for_messages(page, [*before, "Is anybody here?", "On the other worker, yes."])
        ada.wait_for("document.querySelectorAll('.mine[data-state=\"\"]').length > 0")

    def test_who_is_typing_is_seen_until_the_message_comes(self, ada: Page, bela: Page) -> None:
        bela.click("#text")
        bela.type("Hm")
        ada.wait_for("document.querySelector('.typing').textContent === 'Bela is typing'")
        assert bela.evaluate("document.querySelector('.typing').textContent") == ""
        bela.press("Enter")
        ada.wait_for("document.querySelector('.typing').textContent === ''")

    def test_somebody_who_leaves_is_gone(self, chat: Chat, addresses: list[str], ada: Page) -> None:
        page = chat.enter("Chidi", addresses[1])
        ada.wait_for("document.querySelector('.people').innerText.includes('Chidi')")
        page.close()
        ada.wait_for("!document.querySelector('.people').innerText.includes('Chidi')")

    def test_a_second_tab_is_the_same_person(self, chat: Chat, ada: Page, bela: Page) -> None:
        second = chat.tab_beside(bela)
        slots = f"slot {slot(ada)}", f"slot {slot(bela)}"
        wait_for_people(ada, [("Ada", "you", slots[0]), ("Bela", "2 tabs", slots[1])])
        say(second, "Written in the second tab")
        bela.wait_for("document.querySelector('.message:last-child').matches('.mine')")
        second.close()
        wait_for_people(ada, [("Ada", "you", slots[0]), ("Bela", "", slots[1])])

    def test_another_name_is_seen_by_all_and_kept(self, chat: Chat, ada: Page, bela: Page) -> None:
        second = chat.tab_beside(bela)
        bela.click(".me")
        bela.wait_for("document.querySelector('.rename').open")
        bela.type("Bela of the <b>Harbour</b>")
        bela.press("Enter")
        for page in (ada, bela, second):
            page.wait_for("document.querySelector('.people').innerText.includes('Bela of the <b>Harbour</b>')")
        second.reload()
        assert ready(second).text(".me-name") == "Bela of the <b>Harbour</b>"
        second.close()

    def test_what_is_unread_is_counted_and_marked(self, ada: Page, bela: Page) -> None:
        enter_room(ada, "music")
        for text in ("One", "Two", "Three"):
            say(ada, text)
        bela.wait_for("document.querySelector('.rooms a[href=\"#music\"] .badge').childNodes[0].textContent === '3'")
        assert bela.evaluate("document.title").startswith("(3) ")
        bela.reload()
        ready(bela)
        bela.wait_for("document.querySelector('.rooms a[href=\"#music\"] .badge').childNodes[0].textContent === '3'")
        enter_room(bela, "music")
        bela.wait_for("document.querySelector('.rooms .badge') === null")
        assert not bela.evaluate("document.title").startswith("(")


class TestAWorkerIsKilled:
    """`kill -9` of the worker under one page, while the other goes on writing."""

    def test_the_page_comes_back_with_every_message_once_and_in_order(
        self, chat: Chat, addresses: list[str], ada: Page, bela: Page
    ) -> None:
        for page in (ada, bela):
            enter_room(page, "help")
        say(ada, "Before")
        wait_for_messages(bela, before := messages(ada))
        tags = {name: f"slot {slot(page)}" for name, page in (("Ada", ada), ("Bela", bela))}
        dora = chat.knock(addresses[1], key="dora", name="Dora")
        assert "subscribe" in dora.ask({"subscribe": {"channel": "chat:help"}})
        wait_for_people(ada, [("Ada", "you", tags["Ada"]), ("Bela", "", tags["Bela"]), ("Dora", "", tags["Bela"])])
        watch(bela)

        pid = int(bela.evaluate("document.body.dataset.pid"))
        assert pid in chat.server.children(), "a worker of the server that this test started"
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        during = [f"Message {number}" for number in range(12)]
        for text in during:
            say(ada, text)
        bela.wait_for("document.body.dataset.resumed === '1'")
        wait_for_people(ada, [("Ada", "you", tags["Ada"]), ("Bela", "")], moved=["Bela"])  # home by now, or on the way
        print(f"presence was right {time.monotonic() - killed_at:.2f} s after the kill, slot {slot(bela)} now")
        wait_for_messages(bela, [*before, *during])  # all that Ada wrote is in the room: what comes now is the last
        say(bela, "I was away for a moment")

        expected = [*before, *during, "I was away for a moment"]
        wait_for_messages(bela, expected)
        wait_for_messages(ada, expected)
        seen = bela.evaluate("window.seen")
        assert ["connecting", "Reconnecting…"] in seen
        assert any(state == "connected" and status.startswith("Back again: ") for state, status in seen), seen
        dora.close()

    def test_what_is_written_while_away_is_sent_once_when_back(self, chat: Chat, ada: Page, bela: Page) -> None:
        for page in (ada, bela):
            enter_room(page, "help")
        wait_for_messages(bela, before := messages(ada))
        pid = int(bela.evaluate("document.body.dataset.pid"))
        assert pid in chat.server.children(), "a worker of the server that this test started"
        watch(bela)
        os.kill(pid, signal.SIGKILL)
        bela.wait_for("window.seen.some(([state]) => state === 'connecting')")
        say(bela, "Written while away")
        wait_for_messages(ada, [*before, "Written while away"])
        wait_for_messages(bela, [*before, "Written while away"])
        bela.wait_for("document.querySelector('.message:last-child').dataset.state === ''")


# What is done to the server, and how many workers it has afterwards. Under `scale` a page that is not served by slot 0
# moves there, and home again.
DEPLOYS = {"reload": ["reload"], "upgrade": ["upgrade"], "scale": ["scale 1", "scale 4"]}


class TestADeploy:
    """Both pages' workers, or the primary, are replaced while both write."""

    @pytest.mark.parametrize("deploy", DEPLOYS)
    def test_a_page_shows_nothing_of_it(self, chat: Chat, ada: Page, bela: Page, deploy: str) -> None:
        pages = (ada, bela)
        for page in pages:
            enter_room(page, "music")
        shown = exchange(pages, messages(ada), "Before", "Before, too")
        names = [[who[:2] for who in people(page)] for page in pages]
        pids = [page.evaluate("document.body.dataset.pid") for page in pages]
        received = [page.evaluate("window.sockets.at(-1).received.length") for page in pages]
        for page in pages:
            watch(page)
        for number, step in enumerate(DEPLOYS[deploy]):
            shown = perform(chat, step, pages, shown, f"{deploy} {number}")
        shown = exchange(pages, shown, "After", "After, too")

        assert [[who[:2] for who in people(page)] for page in pages] == names
        moved = [page.evaluate("document.body.dataset.pid") != pid for page, pid in zip(pages, pids, strict=True)]
        assert any(moved) is (deploy != "upgrade"), "an upgrade leaves the workers alone"
        assert deploy != "reload" or all(moved)
        for page, before in zip(pages, received, strict=True):
            assert page.evaluate("window.sockets.map(({ isClosed, readyState }) => [isClosed, readyState])") == [
                [False, 1]
            ], "one WebSocket, which was never closed"
            assert {tuple(each) for each in page.evaluate("window.seen")} <= {("connected", "")}
            pushes = page.evaluate(f"window.sockets[0].received.slice({before}).join('\\n')").split("\n")
            kinds = {kind for each in pushes if each for kind in json.loads(each).get("push", {})}
            assert "pub" in kinds
            assert not kinds & {"join", "leave", "subscribe", "unsubscribe", "disconnect"}
            assert page.evaluate("document.querySelectorAll('.mine:not([data-state=\"\"])').length") == 0


def perform(chat: Chat, step: str, pages: Sequence[Page], shown: list[str], name: str) -> list[str]:
    """Do one thing to the server; write whenever a worker is ready, and when all is over. Return all messages."""
    server = chat.server
    mark, gone = server.log.mark(), [pid for _, pid, _ in chat.generations()]
    command, _, workers = step.partition(" ")
    if command == "reload":
        server.send_signal(signal.SIGHUP)
        for ready in range(1, WORKERS + 1):
            server.log.wait_for(pattern(WORKER_READY), since=mark, times=ready)
            shown = exchange(pages, shown, f"{name}: {ready} ready", f"{name}: seen with {ready} ready")
        chat.wait_until_settled(WORKERS, gone=gone)
    elif command == "scale":
        send_request(server.control, {"command": "scale", "workers": int(workers)})
        shown = exchange(pages, shown, f"{name}: begun", f"{name}: seen as it began")
        chat.wait_until_settled(int(workers))
    else:
        server.send_signal(signal.SIGUSR2)
        server.log.wait_for(SERVER_TAKEN_OVER, since=mark)
        shown = exchange(pages, shown, f"{name}: begun", f"{name}: seen as it began")
        server.log.wait_for(pattern(SIDECAR_READY), since=mark)  # the local broker is another one, too
    return exchange(pages, shown, f"{name}: done", f"{name}: seen when it was done")


INJECTIONS = [
    "<img src=x onerror=\"document.body.dataset.hacked='yes'\">",
    "<script>document.body.dataset.hacked='yes'</script>",
    '"><svg onload=alert(1)>&lt;b&gt;',
    "javascript:document.body.dataset.hacked='yes'",
]


class TestManners:
    def test_text_and_names_are_never_html(self, chat: Chat, addresses: list[str], ada: Page) -> None:
        enter_room(ada, "ideas")
        mallory = chat.enter(INJECTIONS[0], addresses[1])
        enter_room(mallory, "ideas")
        for text in INJECTIONS:
            say(mallory, text)
            ada.wait_for(f"[...document.querySelectorAll('.text')].at(-1)?.textContent === {json.dumps(text)}")
        mallory.type("x")
        ada.wait_for("document.querySelector('.typing').textContent.includes('<img')")
        for page in (ada, mallory):
            inside = ".log img, .log script, .log svg, .people img, .typing img, .me-name img"
            assert page.evaluate(f"document.querySelectorAll('{inside}').length") == 0
            assert page.evaluate("document.body.dataset.hacked") is None
        mallory.close()
        assert mallory.errors == []

    def test_everything_can_be_done_with_the_keyboard(self, ada: Page, bela: Page) -> None:
        ada.reload()
        ready(ada)
        ada.evaluate("document.activeElement.blur()")
        ada.press("Tab")
        assert ada.evaluate("document.activeElement.className") == "skip"
        ada.press("Enter")
        ada.wait_for("document.activeElement.id === 'text'")
        ada.type("By keyboard")
        ada.press("Enter")
        bela.wait_for("[...document.querySelectorAll('.text')].at(-1)?.textContent === 'By keyboard'")

        ada.press("ArrowDown", "Alt")
        ada.wait_for("document.querySelector('h1').textContent === 'ideas'")
        ada.press("ArrowUp", "Alt")
        ada.wait_for("document.querySelector('h1').textContent === 'lobby'")
        ada.evaluate("document.querySelector('.skip').focus()")
        for _ in range(3):
            ada.press("Tab")
        assert ada.evaluate("document.activeElement.hash") == "#help"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert ada.evaluate(outline) != "none", "one sees where the focus is"
        ada.press("Enter")
        ada.wait_for("document.querySelector('h1').textContent === 'help'")

        ada.evaluate("document.querySelector('.me').focus()")
        ada.press("Enter")
        ada.wait_for("document.querySelector('.rename').open")
        ada.press("Escape")
        ada.wait_for("!document.querySelector('.rename').open && document.activeElement.matches('.me')")

    def test_a_screen_reader_finds_its_way(self, ada: Page) -> None:
        nodes = ada.call("Accessibility.getFullAXTree")["nodes"]
        found = {
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        }
        for landmark in (
            ("navigation", "Rooms"),
            ("main", ""),
            ("complementary", "People here"),
            ("log", "Conversation"),
            ("heading", "Lobby"),
            ("textbox", "Message"),
            ("button", "Send"),
        ):
            assert landmark in found, [name for role, name in found if role == landmark[0]]
        unnamed = [role for role, name in found if role in {"button", "link", "textbox"} and not name]
        assert unnamed == []
        ada.wait_for("document.querySelector('.log').ariaLive === 'polite'")

    def test_a_phone_shows_one_thing_at_a_time_and_never_scrolls_sideways(self, ada: Page) -> None:
        ada.resize(360, 740, touch=True)
        say(ada, "Donaudampfschifffahrtsgesellschaftskapitän" * 4)
        fits = "document.documentElement.scrollWidth <= innerWidth && document.querySelector('.scroller')"
        fits += ".scrollWidth <= innerWidth"
        assert ada.evaluate(fits)
        assert not ada.evaluate("document.querySelector('.rooms a').checkVisibility({ visibilityProperty: true })")
        ada.click(".open-rooms")
        ada.wait_for("document.activeElement.matches('.rooms a')")
        enter_room(ada, "music")
        ada.wait_for("document.activeElement.matches('.open-rooms')")
        ada.click(".open-people")
        ada.wait_for("document.querySelector('.people').checkVisibility({ visibilityProperty: true })")
        ada.press("Escape")
        ada.wait_for("!document.querySelector('.people').checkVisibility({ visibilityProperty: true })")
        assert ada.evaluate(fits)
        heights = """[...document.querySelectorAll('.top button, .send, .rooms a')]
          .map((target) => target.getBoundingClientRect().height)"""
        assert min(ada.evaluate(heights)) >= 44, "everything can be met with a thumb"

    def test_reading_older_messages_is_not_disturbed(self, ada: Page, bela: Page) -> None:
        for page in (ada, bela):
            enter_room(page, "ideas")
            page.resize(1000, 420)
        for number in range(8):
            say(ada, f"A line to fill the page, number {number}\nand another")
        bela.wait_for("[...document.querySelectorAll('.text')].at(-1)?.textContent.includes('number 7')")
        bela.evaluate("document.querySelector('.scroller').scrollTo(0, 0)")
        bela.wait_for("document.querySelector('.scroller').scrollTop === 0")
        say(ada, "Something new below")
        bela.wait_for("!document.querySelector('.pill').hidden")
        assert bela.evaluate("document.querySelector('.scroller').scrollTop") == 0
        bela.click(".pill")
        bela.wait_for("document.querySelector('.pill').hidden")
        assert people(bela)[0][0].startswith("Bela")
