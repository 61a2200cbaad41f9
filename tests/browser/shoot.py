"""
Make the pictures of the chat: `python -m tests.browser.shoot` writes them into docs/.

- chat.png and chat-dark.png: some people talk on four workers, and the worker under one of them is killed on the way. A
  desktop and a phone stand next to each other on one page, which is what the picture shows.
- chat-reload.png: two people write while `realtime reload` replaces all workers. Their pages are shown before,
  meanwhile and afterwards, each time below the processes that serve.
"""

from __future__ import annotations

import base64
import html
import os
import signal
import tempfile
from pathlib import Path

from sticky.loop.log_lines import WORKER_READY
from tests.browser.chat_pages import WORKERS, Chat, enter_room, exchange, say, wait_for_messages
from tests.support.chromium import Chromium, Page
from tests.support.log_lines import pattern
from tests.support.server import ROOT

DESKTOP = (1180, 760)
PHONE = (375, 760)
GAP = 40
PEOPLE = ("Ada Lindqvist", "Bela Moreau", "Chidi Okafor", "Dora Weiss")

TALK = (
    (1, "Morning! Is the new build out?"),
    (0, "Since eight. Four workers, one harbour."),
    (2, "I am on another slot than you two, and I did not notice."),
    (2, "Which is the point, I suppose."),
    (3, "Same here, from the train."),
    (0, "Good. I am going to pull the plug on one of them now. Tell me if you see anything."),
    (1, "A flicker. It said it was reconnecting, then that it had caught up."),
    (3, "Nothing at all on my side. All messages there?"),
    (1, "All of them, once, in order."),
    (0, "Then we deploy at noon instead of at midnight."),
)
KILLED_BEFORE = 6

STRIP_PAGE = (360, 400)
STRIP_GAP = 24
STRIP_PEOPLE = ("Ada Lindqvist", "Chidi Okafor")
STRIP_SLOTS = (0, 2)  # a reload begins with slot 0: the two move at different times
STRIP = (  # title; how many workers are new by then; what is written
    ("Before", 0, ((0, "I deploy in a minute. Please keep writing."), (1, "All right. What will I see?"))),
    ("During: one worker is new", 1, ((0, "Nothing, I hope. It has begun."), (1, "Nothing here."))),
    ("During: three workers are new", 3, ((1, "When does it reach me?"), (0, "It has. You are on the new code."))),
    ("After", 4, ((1, "I did not notice."), (0, "That was all of it."))),
)
GATED = """
import time
from pathlib import Path

def may_go():
    for each in Path(__file__).parent.glob("go-*"):
        each.unlink()
        return True
    return not Path(__file__).with_name("gated").exists()

while not may_go():  # one successor boots at a time
    time.sleep(0.02)

from examples.chat.app import app
"""
STATUS_CHANGES = """window.changes = 0; new MutationObserver(() => window.changes += 1)
  .observe(document.querySelector('.status'), { childList: true })"""

ELSEWHERE = ((2, "ideas", "A map of who is where, with the tide."), (2, "ideas", "Or a bell when somebody comes in."))


def talk(chat: Chat, pages: list[Page]) -> None:
    """Let them have the conversation, with the plug pulled in the middle."""
    said: list[str] = []
    for number, (who, text) in enumerate(TALK):
        if number == KILLED_BEFORE:
            pid = int(pages[1].evaluate("document.body.dataset.pid"))
            assert pid in chat.server.children(), "a worker of the server that was started here"
            os.kill(pid, signal.SIGKILL)
            pages[1].wait_for("document.body.dataset.resumed === '1'")
        say(pages[who], text)
        said.append(text)
        for page in pages:
            wait_for_messages(page, said)
    for who, room, text in ELSEWHERE:
        enter_room(pages[who], room)
        say(pages[who], text)


def picture_of(page: Page) -> str:
    """Take a picture of a page, for an address of kind `data:`."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "page.png"
        page.screenshot(file)
        return base64.b64encode(file.read_bytes()).decode()


def sheet(browser: Chromium, content: str, *, gap: int, size: tuple[int, int], path: Path, dark: bool = False) -> None:
    """Take a picture of HTML elements side by side."""
    ground = "#05090a" if dark else "#dfe8e5"
    body = f"margin:0;padding:{gap}px;display:flex;gap:{gap}px;background:{ground}"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "sheet.html"
        file.write_text(f'<!doctype html><title>{html.escape(path.name)}</title><body style="{body}">{content}')
        width, height = size
        page = browser.page(file.as_uri(), width=width, height=height)
        page.screenshot(path)
        page.close()
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB")


def side_by_side(browser: Chromium, desktop: Page, phone: Page, *, dark: bool, path: Path) -> None:
    """Take both pictures and put them on one."""
    pictures = []
    for page, (width, height) in ((desktop, DESKTOP), (phone, PHONE)):
        page.prefer(dark=dark, reduced_motion=True)
        shadow = "0 2px 6px rgb(0 0 0/.14), 0 18px 44px rgb(0 0 0/.2)"
        style = f"width:{width}px;height:{height}px;border-radius:18px;box-shadow:{shadow}"
        pictures.append(f'<img style="{style}" src="data:image/png;base64,{picture_of(page)}">')
    size = DESKTOP[0] + PHONE[0] + 3 * GAP, DESKTOP[1] + 2 * GAP
    sheet(browser, "".join(pictures), gap=GAP, size=size, path=path, dark=dark)


def generations_of(chat: Chat, gate: Path, new: int, pages: list[Page]) -> list[tuple[int, int, int]]:
    """Have so many workers replaced, and wait until each page knows which process serves it. Return the workers."""
    before = sum(generation > 1 for _, _, generation in chat.generations())
    for number in range(before, new):
        (gate / f"go-{number}").touch()
    if new == WORKERS:
        chat.wait_until_settled(WORKERS)
    elif new:
        chat.server.log.wait_for(pattern(WORKER_READY), times=WORKERS + new)
    found = chat.generations()
    for page, slot in zip(pages, STRIP_SLOTS, strict=True):
        page.wait_for(f"document.body.dataset.pid === '{found[slot][1]}'")
    return found


def strip(chat: Chat, gate: Path, path: Path) -> None:
    """
    Take pictures of two people who write during a reload, and put them side by side.

    Args:
        chat: serves a file with the content of `GATED`.
        gate: the directory of that file.
        path: of the picture.
    """
    sources = {chat.slot_for(source): source for source in chat.addresses_of_different_slots(WORKERS)}
    width, height = STRIP_PAGE
    pages = [chat.enter(name, sources[slot]) for name, slot in zip(STRIP_PEOPLE, STRIP_SLOTS, strict=True)]
    for page in pages:
        page.resize(width, height, touch=True)
        page.prefer(reduced_motion=True)
        page.evaluate(STATUS_CHANGES)
    columns, said = [], []
    for title, new, talk in STRIP:
        if new == 1:
            (gate / "gated").touch()
            chat.server.send_signal(signal.SIGHUP)
        workers = generations_of(chat, gate, new, pages)
        for who, text in talk:
            said = exchange([pages[who], pages[1 - who]], said, text)
        pictures = [picture_of(page) for page in pages]
        assert workers == chat.generations(), "the pictures show the pages while these workers served"
        columns.append(column(title, workers, pictures))
    for page in pages:
        changes = page.evaluate("[window.changes, window.sockets.length, window.sockets[0].isClosed]")
        assert changes == [0, 1, False], "no page has shown that it reconnects"
    size = len(STRIP) * (width + STRIP_GAP) + STRIP_GAP, 2 * (height + STRIP_GAP) + 110 + STRIP_GAP
    sheet(chat.browser, "".join(columns), gap=STRIP_GAP, size=size, path=path)
    for page in pages:
        assert page.errors == [], page.errors
        page.close()


def column(title: str, workers: list[tuple[int, int, int]], pictures: list[str]) -> str:
    """Return one moment: its title, a box for each worker, and the pages below."""
    boxes = "".join(
        f'<div style="flex:1;padding:6px 8px;border-radius:8px;font:12px/1.4 monospace;'
        f'{"background:#0e756a;color:#fff" if generation > 1 else "background:#fff;color:#14343b"}">'
        f"slot {slot}<br>{pid}</div>"
        for slot, pid, generation in workers
    )
    width, height = STRIP_PAGE
    style = f"display:block;width:{width}px;height:{height}px;border-radius:14px;margin-top:{STRIP_GAP}px"
    shown = "".join(f'<img style="{style}" src="data:image/png;base64,{each}">' for each in pictures)
    heading = f'<div style="font:600 17px sans-serif;color:#14343b;margin-bottom:12px">{html.escape(title)}</div>'
    return f'<div style="width:{width}px">{heading}<div style="display:flex;gap:8px">{boxes}</div>{shown}</div>'


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as directory:
        app = Path(directory) / "gated_chat.py"
        app.write_text(GATED)
        with Chat(app) as chat:
            strip(chat, app.parent, ROOT / "docs" / "chat-reload.png")
    with Chat() as chat:
        sources = chat.addresses_of_different_slots(4)
        width, height = DESKTOP
        pages = [
            chat.enter(name, source, width=width, height=height) for name, source in zip(PEOPLE, sources, strict=True)
        ]
        talk(chat, pages)
        desktop, phone = pages[0], pages[3]
        phone.resize(*PHONE, scale=2, touch=True)
        desktop.resize(*DESKTOP, scale=2)
        for dark, name in ((False, "chat.png"), (True, "chat-dark.png")):
            pages[1].evaluate("document.querySelector('#text').value = ''")
            pages[1].click("#text")
            pages[1].type("x")
            desktop.wait_for("document.querySelector('.typing').textContent")
            desktop.evaluate("document.activeElement.blur()")
            path = ROOT / "docs" / name
            path.parent.mkdir(exist_ok=True)
            side_by_side(chat.browser, desktop, phone, dark=dark, path=path)
        for page in pages:
            assert page.errors == [], page.errors


if __name__ == "__main__":
    main()
