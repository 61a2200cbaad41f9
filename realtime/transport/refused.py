"""
A connection whose client is refused for a while, because its requests have crashed workers.

Runs in the worker, which answers in the client's own protocol: a WebSocket is opened and closed with 1013 (try again
later), for a handshake that fails tells a page nothing; anything else gets 503. No application sees it, and nothing but
the head is read.

One deadline bounds all of it, from the first byte to the peer's end of the stream. A client that has crashed workers
may do anything. So whatever it sends is looked at once, for the end of a head, and dropped afterwards.
"""

from __future__ import annotations

import asyncio
import http
import logging
from typing import Any, Final

from websockets.frames import Close, CloseCode, Frame, Opcode

from realtime.log_lines import log
from realtime.transport.adopted import ConnectionOwner
from realtime.transport.handshake import Accepted, Admission, refusal, shake_hands
from realtime.transport.peer import Peer

HEAD_END: Final = b"\r\n\r\n"
LINGER_S: Final = 4.0  # for the head, and for the client to read the answer

CODE: Final = CloseCode.TRY_AGAIN_LATER
REASON: Final = "try again later"
CRASHES: Final = "its requests have crashed workers"
CLOSE: Final = Frame(Opcode.CLOSE, Close(CODE, REASON).serialize()).serialize(mask=False)
ANSWER: Final = refusal(
    http.HTTPStatus.SERVICE_UNAVAILABLE, "Requests of this client have crashed the server: try again later."
)

logger = logging.getLogger("realtime.refused")


class RefusedConnection(asyncio.Protocol):
    """Reads one head, answers it, and ends."""

    def __init__(
        self, peer: Peer, received: bytes, admission: Admission, *, head_bytes: int, owner: ConnectionOwner
    ) -> None:
        """
        Args:
            peer: the client.
            received: bytes that were taken from the descriptor already.
            admission: by which a handshake is answered.
            head_bytes: the most that is read.
            owner: hears of the end.
        """
        self._peer = peer
        self._received = bytearray(received)
        self._admission = admission
        self._head_bytes = head_bytes
        self._owner = owner
        self._is_answered = False
        self._transport: Any = None  # asyncio.Transport; uvloop's is none of its subclasses
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the deadline, and read what was received before."""
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
        if self._received:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Look for the end of the head. A head that is longer than any may be gets the plain answer."""
        self._peer.settlement.first_byte_read()
        if self._is_answered:
            return  # read, and dropped: a socket closed over unread bytes is reset, and the answer lost
        self._received += data
        end = self._received.find(HEAD_END) + len(HEAD_END)
        if end >= len(HEAD_END):
            self._answer(bytes(self._received[:end]))
        elif len(self._received) > self._head_bytes:
            self._answer(b"")

    def _answer(self, head: bytes) -> None:
        """Answer the head, and end our half of the stream. b"" stands for a head that is not read."""
        assert not self._is_answered, "a client gets one answer"
        self._is_answered = True
        self._received.clear()
        opening = shake_hands(head, self._peer, self._admission) if head else None
        is_websocket = isinstance(opening, Accepted)
        self._transport.write(opening.answer + CLOSE if isinstance(opening, Accepted) else ANSWER)
        status = int(CODE) if is_websocket else int(http.HTTPStatus.SERVICE_UNAVAILABLE)
        log(logger, logging.INFO, "x client refused", **self._peer.log_fields, status=status, reason=CRASHES)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS has no half-closed state
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, whichever side it came from."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.ended(self._peer)
