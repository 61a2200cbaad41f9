"""
A stream of messages to a client, as the body of one long response.

Runs in the worker, inside the request that it answers. `Stream` is the `Transport` of a session whose client has no
WebSocket, and of a program that follows a room. It owns no task but its request's, which sleeps until there is
something to write. It never reads: what such a client sends comes by requests of their own.

Theory of operation
-------------------
`write` and `close` only note what is to be sent, and wake `pump`. `pump` runs in the request's task. It joins what has
come since, hands it to the ASGI server, and waits until the server has written it: that wait is the back pressure.

    CAUGHT UP    nothing is under way; `write` has no limit, so what a client missed can be of any size
    CONGESTED    `pump` waits for the server; above the limit on unsent bytes, what waits is dropped, and `on_slow` is
                 called when the turn is over. Patience with one wait ends after `outbound_s`, unless the owner is
                 patient and the peer acknowledges something meanwhile.
    ENDED        `close` was called; `pump` sends what still waits, and returns

`pump` ends in three ways: the stream has ended, the client is too slow (`TimeoutError`), or the request is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from realtime import codes
from realtime.settings import Settings
from realtime.transport.asgi import Send
from realtime.transport.base import Framing

GOODBYE_S: Final = 4.0  # for a slow client to take what is on its way, and that it was slow
SLOW: Final = (codes.SLOW.code, codes.SLOW.reason)


class Lines:
    """A `Framing`: each message is one line."""

    name = "lines"
    takes_several = True

    def frame(self, payload: bytes) -> bytes:
        return payload + b"\n"


class Bare:
    """A `Framing` for messages that say themselves how long they are."""

    name = "bare"
    takes_several = True

    def frame(self, payload: bytes) -> bytes:
        return payload


class Events:
    """A `Framing`: each message is an event of an EventSource (HTML standard, section 9.2)."""

    name = "events"
    takes_several = False

    def frame(self, payload: bytes) -> bytes:
        return b"data: %b\n\n" % payload


LINES: Final = Lines()
BARE: Final = Bare()
EVENTS: Final = Events()


def messages_in(data: bytes, framing: Framing) -> Iterator[bytes | str]:
    """
    Give the messages in framed bytes, for the log.

    Args:
        data: whole messages, one after the other.
        framing: one of those above. What is `BARE` is binary, and given as one: only its encoding knows its parts.
    """
    if framing is BARE:
        yield data
        return
    for each in data.decode(errors="replace").split("\n"):
        if each:  # an event ends with an empty line
            yield each.removeprefix("data: ")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Each is a setting of the same name."""

    message_bytes: int = Settings.message_bytes
    outbound_bytes: int = Settings.outbound_bytes
    outbound_s: float = Settings.outbound_s

    @classmethod
    def from_settings(cls, settings: Settings) -> StreamLimits:
        """Return the limits that are set."""
        return cls(settings.message_bytes, settings.outbound_bytes, settings.outbound_s)


class Stream:
    """
    A `Transport` that is the body of an answer.

    Its owner is a subclass where it wants to know of progress: `is_patient`, `on_drained` and `on_slow`. As it is, a
    slow client is closed as `slow`, and nothing is known of its TCP connection.
    """

    has_close_frame = False

    def __init__(self, text: Framing, binary: Framing, limits: StreamLimits) -> None:
        """
        Args:
            text, binary: how messages of the two kinds of encodings are framed; text, unless the session chooses.
            limits: of what waits for the client.
        """
        self.framing = text
        self.ended: tuple[int, str] | None = None  # how, once it is known
        self._binary = binary
        self._limits = limits
        self._waiting: list[bytes] = []
        self._size = 0  # bytes of `_waiting`, and of what the server has not written yet
        self._wake = asyncio.Event()
        self._congested_since: float | None = None
        self._is_full = False  # what waited was dropped, and `on_slow` is called when the turn is over
        self._patience: asyncio.Timeout | None = None  # with a client that has not taken everything
        self._watch: asyncio.TimerHandle | None = None  # of how much it takes meanwhile

    # What an owner may do otherwise

    @property
    def is_patient(self) -> bool:
        """Whether a client that takes something, though slowly, is served on."""
        return False

    def on_drained(self) -> None:
        """Learn that the server has written everything that was handed to it."""

    def on_slow(self) -> None:
        """End the stream: more waits for its client than may."""
        self.close(*SLOW)

    def acknowledged_bytes(self) -> int:
        """See `Transport`. Only the connection below knows it."""
        return 0

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport`."""

    # Transport

    def choose_framing(self, *, binary: bool) -> None:
        """See `Transport`."""
        if binary:
            self.framing = self._binary

    def write(self, data: bytes) -> None:
        """
        As `Transport.write`. What is too much is dropped at once; `on_slow` is called when the turn is over. As over
        a WebSocket, the limit counts while the client does not take everything: what it missed can be more than that.
        """
        if self.ended is not None or self._is_full:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._congested_since is not None and self._size > self._limits.outbound_bytes:
            self._size -= sum(map(len, self._waiting))
            assert self._size >= 0, "what the server has not written yet is counted until it has"
            self._waiting.clear()
            self._is_full = True
            # Not within this call: the session may be writing to all members of a room, and would end in the middle.
            asyncio.get_running_loop().call_soon(self._end_slow)
        self._wake.set()

    def _end_slow(self) -> None:
        self._is_full = False  # there is room for a goodbye
        if self._patience is not None and not self._patience.expired():
            soon = asyncio.get_running_loop().time() + min(GOODBYE_S, self._limits.outbound_s)
            self._patience.reschedule(min(soon, self._patience.when() or soon))
        if self.ended is None:
            self.on_slow()

    def close(self, code: int, reason: str) -> None:
        """See `Transport`. The first call decides how the stream ends."""
        if self.ended is None:
            self.ended = (code, reason)
            self._wake.set()

    def pause_reading(self) -> None:
        """Requests beside the stream are not held; a session that gets too many ends."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def is_congested_since(self) -> float | None:
        """See `Transport`."""
        return self._congested_since

    def buffered(self) -> int:
        """See `Transport`."""
        return self._size

    async def pump(self, send: Send) -> None:
        """
        Write until the end. The caller sends the response's head before, and its last body afterwards.

        Raises:
            TimeoutError: the client does not take everything for too long, or with `is_patient` takes nothing.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            body, self._waiting = b"".join(self._waiting), []
            if body:
                self._congested_since = loop.time()
                before = self.acknowledged_bytes() if self.is_patient else 0
                self._watch = loop.call_later(self._limits.outbound_s, self._check, before)
                try:
                    async with asyncio.timeout(None) as self._patience:
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                        # uvicorn returns from a body before it has left. From an empty one it returns once it has.
                        await send({"type": "http.response.body", "body": b"", "more_body": True})
                finally:
                    self._watch.cancel()
                    self._congested_since = self._patience = None
                self._size -= len(body)
                assert self._size >= sum(map(len, self._waiting)), "bytes are counted once, and written once"
                self.on_drained()
            if self.ended is not None and not self._waiting:
                return

    def _check(self, before: int) -> None:
        """Lose patience with a client that has not taken everything in time, unless it takes what it can."""
        loop, now = asyncio.get_running_loop(), self.acknowledged_bytes()
        if self.ended is None and self.is_patient and now > before:
            self._watch = loop.call_later(self._limits.outbound_s, self._check, now)
        elif self._patience is not None and not self._patience.expired():
            self._patience.reschedule(loop.time())
