"""
Make the README's pictures: `python -m tests.browser.shoot` writes docs/chat.png and docs/chat-dark.png.

Starts the example on four workers, has some people talk, kills the worker under one of them on the way, and puts a
desktop and a phone next to each other on one page, which is what the picture shows.
"""

from __future__ import annotations

import base64
import html
import os
import signal
import tempfile
from pathlib import Path

from tests.browser.chat_pages import Chat, enter_room, say, wait_for_messages
from tests.support.chromium import Chromium, Page
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


def side_by_side(browser: Chromium, desktop: Page, phone: Page, *, dark: bool, path: Path) -> None:
    """Take both pictures and put them on one."""
    pictures = []
    with tempfile.TemporaryDirectory() as directory:
        for page, (width, height) in ((desktop, DESKTOP), (phone, PHONE)):
            page.prefer(dark=dark, reduced_motion=True)
            file = Path(directory) / f"{width}.png"
            page.screenshot(file)
            data = base64.b64encode(file.read_bytes()).decode()
            shadow = "0 2px 6px rgb(0 0 0/.14), 0 18px 44px rgb(0 0 0/.2)"
            style = f"width:{width}px;height:{height}px;border-radius:18px;box-shadow:{shadow}"
            pictures.append(f'<img style="{style}" src="data:image/png;base64,{data}">')
        ground = "#05090a" if dark else "#dfe8e5"
        body = f"margin:0;padding:{GAP}px;display:flex;gap:{GAP}px;background:{ground}"
        sheet = Path(directory) / "sheet.html"
        sheet.write_text(
            f'<!doctype html><title>{html.escape(path.name)}</title><body style="{body}">{"".join(pictures)}'
        )
        width, height = DESKTOP[0] + PHONE[0] + 3 * GAP, DESKTOP[1] + 2 * GAP
        page = browser.page(sheet.as_uri(), width=width, height=height)
        page.screenshot(path)
        page.close()


def main() -> None:
    """Make both pictures."""
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
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB")
        for page in pages:
            assert page.errors == [], page.errors


if __name__ == "__main__":
    main()
