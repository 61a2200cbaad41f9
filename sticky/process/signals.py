"""
Signals as events of the primary's loop.

Runs in the primary. A signal handler only queues: the interpreter writes each signal's number to a socket
(`signal.set_wakeup_fd`), and the loop reads it between two callbacks. So no code of ours is ever interrupted by itself.
It decides nothing about what a signal means.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

from sticky.loop.poller import READ, Poller

BATCH: Final = 4096  # signals read at once; more of them follow in the next round

OnSignals = Callable[[list[signal.Signals]], None]


@contextlib.contextmanager
def queued_signals(poller: Poller, numbers: Sequence[signal.Signals], on_signals: OnSignals) -> Iterator[None]:
    """
    Have `on_signals` called from the loop with each batch of signals that came. Afterwards the handlers are as before.

    Args:
        on_signals: also called with an empty list, for a signal that is none of `numbers` (a hook may have handlers).
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {number: signal.signal(number, _queue) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    wanted = {int(number): number for number in numbers}

    def on_readable(events: int) -> None:
        on_signals([wanted[number] for number in reader.recv(BATCH) if number in wanted])

    poller.watch(reader.fileno(), READ, on_readable, on_failed=lambda: None)  # signals come again
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        poller.forget(reader.fileno())
        reader.close()
        writer.close()


def ignore(numbers: Sequence[signal.Signals]) -> None:
    """Have these of the queued signals ignored: they reach another process as well, which passes them on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def queue(numbers: Sequence[signal.Signals]) -> None:
    """Undo `ignore`."""
    for number in numbers:
        signal.signal(number, _queue)


def _queue(number: int, frame: FrameType | None) -> None:
    """Do nothing: the interpreter has written the number to the wake-up descriptor already."""
