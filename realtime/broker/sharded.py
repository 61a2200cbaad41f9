"""
A connection that listens to the sharded pub/sub of one cluster node (SSUBSCRIBE, Redis 7).

Runs in the worker. When a slot leaves a node, the node itself sends `sunsubscribe`, at any time, in the form of the
answer to SUNSUBSCRIBE; and SUNSUBSCRIBE may be answered by MOVED instead. Answers can therefore not be matched by their
order alone. Each command is followed by a PING: its pong ends the answer, an error before it is the command's own, and
every `sunsubscribe` is told to `on_push` as what it is, a subscription that is no more. It never subscribes by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import hiredis

from realtime.broker.resp import CommandFailed, Connection, Word

_CONFIRMED: Final = b"ssubscribe"
_ENDED: Final = b"sunsubscribe"


class ShardedEvents(Connection):
    """One socket to a node, once logged in used by `tell` alone."""

    _error: CommandFailed | None = None
    _listens = False

    def tell(self, *words: Word) -> asyncio.Future[Any]:
        """Send SSUBSCRIBE or SUNSUBSCRIBE; the future gets None when it was carried out, or `CommandFailed`."""
        self._listens = True
        return self.ask_with(words, ("PING",))

    def _take(self, reply: Any) -> None:
        if not self._listens:
            super()._take(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._error = CommandFailed(str(reply))
        elif isinstance(reply, list) and reply[0] == _CONFIRMED:
            return
        elif isinstance(reply, list) and reply[0] == _ENDED:
            assert self._on_push is not None, "made to hear pushes"
            self._on_push(reply)
        elif isinstance(reply, list) and reply[0] != b"pong":
            super()._take(reply)  # a message
        else:  # the pong: of a connection without subscriptions it comes as text
            error, self._error = self._error, None
            self._settle(error)
