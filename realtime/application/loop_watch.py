"""
Names the handler that blocks the event loop.

Runs in the worker, in a thread of its own beside the loop. While a handler that is a coroutine computes, or sleeps
without `await`, no other client of the worker is served. The thread looks every tenth of a second whether the loop is
at rest. Where it is not, the thread asks it for a sign. Where none comes within four tenths, the thread looks at the
stack of the loop's thread, and logs which handler stands there at which line. Each line is logged once a minute. It
never stops a handler.

A block of half a second is always seen: it is met by a look within 0.1 s, and the question then waits for 0.4 s.

**At rest** means that the innermost Python frame is the one that runs the loop. uvloop waits and dispatches below that
frame, without frames of its own, so an idle worker is not woken. The standard loop has such frames: it is always asked.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Final

from realtime.application.source import is_ours
from realtime.log_lines import log

LOOK_S: Final = 0.1
PATIENCE_S: Final = 0.4
ONCE_IN_S: Final = 60.0
LINES_MAX: Final = 1000
"""Lines whose last report is remembered; above it all are forgotten."""

BLOCKED: Final = "event loop blocked"

LIBRARY: Final = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), "<frozen")

logger = logging.getLogger("realtime.app")


@dataclass(frozen=True, slots=True)
class Culprit:
    """What stands on the loop: the name of the handler, and where it is now."""

    name: str
    file: str
    line: int


def culprit_of(frame: FrameType | None, handlers: Mapping[CodeType, str]) -> Culprit | None:
    """
    Return what of the application a stack is in; None where it is in nothing of it.

    Args:
        frame: the innermost frame of the loop's thread.
        handlers: the names of the handlers, by their code. Where none of them is on the stack, it may be a task that
            the application began, or a mounted application: then the outermost function of its own source counts.
    """
    outermost = None
    while frame is not None:
        code = frame.f_code
        if code in handlers:
            return Culprit(handlers[code], code.co_filename, frame.f_lineno)
        if not is_ours(code.co_filename) and not code.co_filename.startswith(LIBRARY):
            outermost = Culprit(code.co_qualname, code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return outermost


class Reports:
    """Says which report is due: each line once in a while. Pure: the time is an argument."""

    def __init__(self, once_in_s: float = ONCE_IN_S) -> None:
        self._once_in_s = once_in_s
        self._reported_at: dict[tuple[str, int], float] = {}

    def is_due(self, culprit: Culprit, now: float) -> bool:
        """Say whether this line is to be reported now, and note that it was."""
        place = (culprit.file, culprit.line)
        last = self._reported_at.get(place)
        if last is not None and now - last < self._once_in_s:
            return False
        if len(self._reported_at) >= LINES_MAX:
            self._reported_at.clear()
        self._reported_at[place] = now
        return True


class LoopWatch:
    """Watches the loop that it is started on. The caller of `start` owes `stop`."""

    def __init__(
        self,
        handlers: Mapping[CodeType, str],
        *,
        patience_s: float = PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            handlers: the names of the handlers, by their code.
            patience_s: how long the loop may take to give a sign.
            now: the clock of the reports.
        """
        self._handlers = handlers
        self._patience_s = patience_s
        self._now = now
        self._reports = Reports()
        self._runs = threading.Lock()  # held until `stop`: a wait for an Event would make a lock each time
        self._at_rest: FrameType | None = None
        self._thread: threading.Thread | None = None

    def start(self, loop: AbstractEventLoop) -> None:
        """Begin to watch. To be called on the loop's own thread."""
        assert self._thread is None, "a watch is started once"
        loop.call_soon(self._note_rest)
        watched = threading.get_ident()
        self._runs.acquire()
        self._thread = threading.Thread(target=self._watch, args=(loop, watched), name="loop watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `start` began, once. The thread ends by itself within its patience."""
        self._runs.release()
        self._at_rest = None

    def _note_rest(self) -> None:
        """Note the frame that runs the loop. Called by the loop itself: the caller is that frame."""
        if self._runs.locked():
            self._at_rest = sys._getframe().f_back

    def _watch(self, loop: AbstractEventLoop, watched: int) -> None:
        while not self._runs.acquire(timeout=LOOK_S):
            if sys._current_frames().get(watched) is self._at_rest:
                continue  # no handler runs at this moment
            sign = threading.Event()
            try:
                loop.call_soon_threadsafe(sign.set)
            except RuntimeError:
                return  # the loop is closed
            if not sign.wait(self._patience_s):
                self._report(sys._current_frames().get(watched))
                while not sign.wait(self._patience_s):
                    if not self._runs.locked() or loop.is_closed():
                        return

    def _report(self, frame: FrameType | None) -> None:
        culprit = culprit_of(frame, self._handlers)
        if culprit is not None and self._runs.locked() and self._reports.is_due(culprit, self._now()):
            log(logger, logging.WARNING, BLOCKED, handler=culprit.name, file=culprit.file, line=culprit.line)
