"""
A connection subscribed to the sharded pub/sub of one cluster node (SSUBSCRIBE, Redis 7).

Runs in the worker. It never subscribes by itself.

Replies on such a connection cannot be matched by their order alone, for two reasons. When a hash slot leaves a node,
the node sends `sunsubscribe` at any time, in the form of the reply to SUNSUBSCRIBE. The reply to SUNSUBSCRIBE may also
be MOVED. Each command is therefore followed by a PING. The pong ends the reply, and an error before it belongs to the
command. Every `sunsubscribe` goes to `on_push` as the end of a subscription.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import hiredis

from realtime.broker.redis_connection import CommandFailed, RedisConnection, Word

_CONFIRMED: Final = b"ssubscribe"
_ENDED: Final = b"sunsubscribe"


class ShardedEvents(RedisConnection):
    """One socket to a node. After login, only `send_subscription` and probes use it."""

    _error: CommandFailed | None = None
    _is_subscriber = False

    def send_subscription(self, *words: Word) -> asyncio.Future[Any]:
        """Send SSUBSCRIBE or SUNSUBSCRIBE. The future gets None on success, else it raises `CommandFailed`."""
        self._is_subscriber = True
        return self.request_batch(words, ("PING",))

    def _handle_reply(self, reply: Any) -> None:
        """
        Give a confirmation, or an error, to the request that waits for it. A subscription has no reply of its own here,
        so the PONG of the PING behind it ends the request.
        """
        if not self._is_subscriber:
            super()._handle_reply(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._error = CommandFailed(str(reply))
        elif isinstance(reply, list) and reply[0] == _CONFIRMED:
            return
        elif isinstance(reply, list) and reply[0] == _ENDED:
            assert self._on_push is not None, "every ShardedEvents is made with on_push"
            self._on_push(reply)
        elif isinstance(reply, list) and reply[0] != b"pong":
            super()._handle_reply(reply)  # a message
        else:  # the pong; on a connection without subscriptions it is plain text
            error, self._error = self._error, None
            self._resolve_next(error)
