"""
Patience with a peer that does not take what waits for it.

Runs in the worker, one for each hosted connection: an application waits for its client as long as it likes, and without
an end to that a client which takes nothing holds its connection, and what waits for it, for ever. It reads and writes
nothing, and costs nothing while the peer keeps up.

    IDLE     no timer; `begin` arms one
    WAITING  one timer of `limit_s`; when it fires and the peer has acknowledged something, it is armed again

So a peer that takes one byte within each `limit_s` is waited for without end. That is meant: it is slow, and not gone.
The application decides how much it produces for such a client, since its `send` waits meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from realtime.transport.acknowledged import acknowledged_bytes


class Patience:
    """Calls `on_slow` once a peer has taken nothing for `limit_s` although something waits for it."""

    __slots__ = ("_before", "_limit_s", "_on_slow", "_timer", "_transport")

    def __init__(self, limit_s: float, on_slow: Callable[[], None]) -> None:
        """
        Args:
            limit_s: how long a peer may take nothing.
            on_slow: ends the connection. It is called once for each `begin`, and `end` need not follow.
        """
        assert limit_s > 0, "the settings allow no patience of 0"
        self._limit_s = limit_s
        self._on_slow = on_slow
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._before = 0  # what it had taken when that was looked at last

    def begin(self, transport: Any) -> None:
        """Something waits from now on. Harmless when it has waited before."""
        if self._timer is None:
            self._transport = transport
            self._wait()

    def end(self) -> None:
        """Nothing waits any more, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._transport = None

    def _wait(self) -> None:
        assert self._timer is None, "one timer for one connection"
        self._before = acknowledged_bytes(self._transport)
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            self._transport = None
        elif acknowledged_bytes(self._transport) > self._before:
            self._wait()
        else:
            self._transport = None
            self._on_slow()
