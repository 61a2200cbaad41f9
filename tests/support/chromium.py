"""
A headless Chromium for tests, driven over the DevTools protocol.

`Chromium` starts the browser with an empty profile in a temporary directory and ends it again. A `Page` is one tab; a
`profile` is what tabs share (cookies, localStorage): two profiles are two people's browsers. Clicks and keys are real
input events. Whoever waits, waits for a condition in the page, with a deadline. What the page logs as an error is kept
in `Page.errors`.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.require import require

DEADLINE_S = 60.0  # only a hang reaches it
ADDRESS = re.compile(r"DevTools listening on (ws://\S+)")

# Without a GPU, a first-run page, and requests of the browser's own; and no tab is slowed down for not being in front.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    # Pages of frameworks ask for fonts and scripts elsewhere: these are never to be had, wherever the tests run.
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)

# What a key event must say beside its name.
KEYS: dict[str, tuple[str, int, str]] = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Escape": ("Escape", 27, ""),
    "Space": (" ", 32, " "),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Backspace": ("Backspace", 8, ""),
}
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class BrowserError(AssertionError):
    """The browser refused a command, a script in a page threw, or a condition did not become true."""


class Chromium:
    """One browser process."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[str] | None = None
        self._socket: ClientConnection | None = None
        self._exits = contextlib.ExitStack()
        self._ids = itertools.count(1)
        self._answers: dict[int, Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Chromium:
        profile = Path(self._directory.name) / "profile"
        self._process = subprocess.Popen(
            [require("browser"), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            address = self._find_address()
            opened = connect(address, max_size=None, compression=None, open_timeout=DEADLINE_S, proxy=None)
            self._socket = self._exits.enter_context(opened)
        except BaseException:
            self.close()
            raise
        self._start(self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and everything it started."""
        process = self._process
        assert process is not None, "a browser is closed after it was opened"
        self._exits.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group that start_new_session made: ours alone
        process.wait(DEADLINE_S)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        if process.stderr is not None:
            process.stderr.close()
        self._directory.cleanup()

    def _start(self, target: Any) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _find_address(self) -> str:
        """Read what the browser says until it has said where it listens; a thread reads on, lest the pipe fills."""
        process = self._process
        assert process is not None
        stream = process.stderr
        assert stream is not None
        found: Future[str] = Future()

        def read() -> None:
            said = []
            for line in stream:
                said.append(line)
                if not found.done() and (match := ADDRESS.search(line)):
                    found.set_result(match[1])
            if not found.done():
                found.set_exception(BrowserError("the browser ended: " + "".join(said[-20:])))

        self._start(read)
        return found.result(DEADLINE_S)

    # The protocol

    def _read(self) -> None:
        assert self._socket is not None
        try:
            for text in self._socket:
                message = json.loads(text)
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.on_event(message["method"], message["params"])
        except ConnectionClosed:
            pass  # the browser is gone: whoever waits is told below
        for answer in self._answers.values():
            answer.set_exception(BrowserError("the browser is gone"))

    def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> dict[str, Any]:
        """Send a DevTools command and return its result."""
        assert self._socket is not None
        number = next(self._ids)
        answer = self._answers[number] = Future()
        command: dict[str, Any] = {"id": number, "method": method, "params": dict(params or {})}
        if session is not None:
            command["sessionId"] = session
        self._socket.send(json.dumps(command))
        reply = answer.result(deadline_s)
        if "error" in reply:
            raise BrowserError(f"{method}: {reply['error']['message']}")
        return reply["result"]  # type: ignore[no-any-return]

    # What a test uses

    def profile(self) -> str:
        """Make a profile: other cookies, another localStorage."""
        return self.call("Target.createBrowserContext")["browserContextId"]  # type: ignore[no-any-return]

    def page(
        self, url: str, *, profile: str | None = None, width: int = 1280, height: int = 800, dark: bool = False
    ) -> Page:
        """Open a tab of this size and go to an address. Without a `profile` the tab gets one of its own."""
        profile = profile or self.profile()
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": profile})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, target, session, profile)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        page.call("Emulation.setLocaleOverride", {"locale": "en-GB"})
        page.resize(width, height)
        page.prefer(dark=dark)
        page.go(url)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, target: str, session: str, profile: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session
        self.profile = profile
        self.errors: list[str] = []

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, deadline_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Send this tab a DevTools command."""
        return self._browser.call(method, params, session=self._session, deadline_s=deadline_s)

    def on_event(self, method: str, params: Mapping[str, Any]) -> None:
        """Keep what went wrong in the page. Runs in the browser's reading thread."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "assert"}:
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())

    # Looking

    def evaluate(self, script: str, *, deadline_s: float = DEADLINE_S) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate",
            {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True},
            deadline_s=deadline_s,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait_for(self, condition: str, *, deadline_s: float = DEADLINE_S) -> Any:
        """
        Wait until a JavaScript expression is true, and return its value.

        Raises:
            BrowserError: it did not become true; says what the page showed.
        """
        script = f"""new Promise((resolve) => {{
            const give_up = Date.now() + {deadline_s * 1000};
            const look = () => {{
              let value = null;
              try {{ value = ({condition}); }} catch {{}}
              if (value) resolve(value);
              else if (Date.now() > give_up) resolve(null);
              else setTimeout(look, 15);
            }};
            look();
        }})"""
        value = self.evaluate(script, deadline_s=deadline_s + 10)
        if value is None:
            shown = self.evaluate("document.body.innerText")
            raise BrowserError(f"not within {deadline_s:g} s: {condition}\n--- errors: {self.errors}\n{shown}")
        return value

    def text(self, selector: str) -> str:
        """Return the visible text of the first element that matches."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")  # type: ignore[no-any-return]

    def texts(self, selector: str) -> list[str]:
        """Return the text of every element that matches, in order."""
        return self.evaluate(  # type: ignore[no-any-return]
            f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.textContent)"
        )

    def screenshot(self, path: str | os.PathLike[str]) -> None:
        """Write what the tab shows as a PNG file."""
        shot = self.call("Page.captureScreenshot", {"format": "png"})
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    # Doing

    def go(self, url: str) -> None:
        """Go to an address, and wait until its scripts have run."""
        self.evaluate("window.isThePageBefore = true")
        answer = self.call("Page.navigate", {"url": url})
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        self.wait_for("!window.isThePageBefore && document.readyState === 'complete'")

    def reload(self) -> None:
        """Load the page anew."""
        self.evaluate("window.isThePageBefore = true")
        self.call("Page.reload")
        self.wait_for("!window.isThePageBefore && document.readyState === 'complete'")

    def resize(self, width: int, height: int, *, scale: float = 1, touch: bool = False) -> None:
        """Give the tab another size, in CSS pixels; `touch` makes it a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", size)
        self.call("Emulation.setTouchEmulationEnabled", {"enabled": touch})

    def prefer(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        """Say what the person prefers."""
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", {"features": features})

    def click(self, selector: str, *, shadow: str | None = None) -> None:
        """Click the middle of the first element that matches, or of what `shadow` names in its shadow root."""
        inside = f".shadowRoot.querySelector({json.dumps(shadow)})" if shadow else ""
        box = self.wait_for(
            f"""(() => {{
              const element = document.querySelector({json.dumps(selector)}){inside};
              element.scrollIntoView({{ block: 'nearest' }});
              const box = element.getBoundingClientRect();
              const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
              const hit = element.getRootNode().elementFromPoint(x, y);
              return element.contains(hit) || hit?.contains(element) ? {{ x, y }} : null;
            }})()"""
        )
        at = {"x": box["x"], "y": box["y"], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, **at})

    def choose(self, selector: str, *paths: str | os.PathLike[str]) -> None:
        """Choose files in the first file input that matches, as a person does in the dialog."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"!!{element}")
        found = self.call("Runtime.evaluate", {"expression": element})["result"]["objectId"]
        self.call("DOM.setFileInputFiles", {"files": [os.fspath(path) for path in paths], "objectId": found})

    def type(self, text: str) -> None:
        """Write into whatever has the focus."""
        self.call("Input.insertText", {"text": text})

    def press(self, key: str, *modifiers: str) -> None:
        """Press and release a key, e.g. `press("Tab", "Shift")`."""
        name, code, text = KEYS[key]
        mask = sum(MODIFIERS[each] for each in modifiers)
        event = {"key": name, "code": key, "windowsVirtualKeyCode": code, "modifiers": mask}
        produced = {"text": text} if text and not mask else {}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown" if produced else "rawKeyDown", **event, **produced})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def close(self) -> None:
        """Close the tab, as a person does."""
        self._browser.call("Target.closeTarget", {"targetId": self._target})
