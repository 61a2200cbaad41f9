"""
Messages to users whose connections are on their way to another worker, or went there lately.

Pure, in the worker that such a connection leaves. A message to a user reaches all workers at about the same time. While
a connection moves, neither worker has it: the old one has forgotten its session, and the new one does not know it yet.
So the old worker keeps what it receives meanwhile, and the bus sends that on when the new worker has the connection.

    LEAVES ──arrived──▶ ARRIVED, and forgotten after `LINGER_S`      each message is sent on at once
       └─────returned─▶ forgotten                                     the messages are done here

**At least once.** The new worker may do a message of its own and again when it is sent on: its effect is the same. The
time after the arrival is for a message that reaches the old worker late.

This module sends nothing and knows no session.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from realtime.cluster.messages import DisconnectUser, RefreshUser, SubscribeUser, UnsubscribeUser

LINGER_S: Final = 5.0  # much longer than a message is on its way; a few hundred bytes for each connection

UserMessage: TypeAlias = DisconnectUser | SubscribeUser | UnsubscribeUser | RefreshUser


@dataclass(slots=True)
class _Passage:
    """One connection that moves: where to, once that is known, and what came for it until then."""

    worker: str = ""
    until_s: float = 0.0
    messages: list[UserMessage] = field(default_factory=list)


class InTransit:
    """The connections that this worker lets go."""

    __slots__ = ("_arrived", "_passages")

    def __init__(self) -> None:
        self._passages: dict[str, dict[str, _Passage]] = {}  # by user, by connection id
        self._arrived: deque[tuple[str, str, _Passage]] = deque()  # in the order in which they are forgotten

    def leaves(self, user: str, connection_id: str) -> None:
        """Keep what comes for a connection. `arrived` or `returned` must follow."""
        passages = self._passages.setdefault(user, {})
        before = passages.get(connection_id)
        assert before is None or before.worker, "the move before has an outcome, or its messages would be lost"
        passages[connection_id] = _Passage()

    def arrived(self, user: str, connection_id: str, worker: str, now_s: float) -> list[UserMessage]:
        """Note that a worker has a connection. Return what has to be sent there."""
        passage = self._passages[user][connection_id]
        assert not passage.worker, "a move has one outcome"
        passage.worker, passage.until_s = worker, now_s + LINGER_S
        self._arrived.append((user, connection_id, passage))
        messages, passage.messages = passage.messages, []
        return messages

    def returned(self, user: str, connection_id: str) -> list[UserMessage]:
        """Note that a connection stays here, or has ended. Return what has to be done to it here."""
        passage = self._passages[user][connection_id]
        assert not passage.worker, "a move has one outcome"
        self._forget(user, connection_id, passage)
        return passage.messages

    def note(self, message: UserMessage, now_s: float) -> list[tuple[str, UserMessage]]:
        """Keep a message for those that it means. Return what has to be sent on at once, and to which worker."""
        while self._arrived and self._arrived[0][2].until_s <= now_s:
            self._forget(*self._arrived.popleft())
        found: list[tuple[str, UserMessage]] = []
        for connection_id, passage in self._passages.get(message.user, {}).items():
            if message.stream_id or message.connection_id not in ("", connection_id):
                continue  # what moves has no stream
            if isinstance(message, DisconnectUser) and connection_id in message.keep:
                continue
            only = msgspec.structs.replace(message, connection_id=connection_id)
            if passage.worker:
                found.append((passage.worker, only))
            else:
                passage.messages.append(only)
        return found

    def _forget(self, user: str, connection_id: str, passage: _Passage) -> None:
        """Forget a passage, unless the connection has come back and moves again."""
        passages = self._passages.get(user, {})
        if passages.get(connection_id) is passage:
            del passages[connection_id]
            if not passages:
                del self._passages[user]
