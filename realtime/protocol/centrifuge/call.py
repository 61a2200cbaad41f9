"""
One command that runs, and how it is answered.

Runs in the worker, inside the task of one session. A `Call` encodes answers and errors for one client; it decides
nothing, and ends with its command.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec import UNSET, Raw, UnsetType

from realtime import codes
from realtime.codes import ErrorCode
from realtime.errors import BrokerUnavailable, ClientError
from realtime.log_lines import log
from realtime.protocol.centrifuge import uni
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.messages import Result
from realtime.session import metering
from realtime.session.session import Session
from realtime.session.state import Phase

TTL_MAX_S: Final = 365 * 86400

logger = logging.getLogger("realtime.session")


class Call:
    """One command that runs: of which session, with which id, and in which encoding it is answered."""

    __slots__ = ("_frame", "codec", "id", "method", "session")

    def __init__(self, session: Session, codec: Codec, frame: Callable[[bytes], bytes], id: int, method: str) -> None:
        self.session = session
        self.codec = codec
        self._frame = frame
        self.id = id
        self.method = method

    def answer(self, result: Result) -> int:
        """Answer the command, which succeeded. Return the size of the answer in bytes."""
        reply = self.codec.reply(self.id, self.method, result)
        assert self.method != "send", "`send` has no answer (section 7.4)"
        self.session.write(self._frame(reply))  # as `write`, in place: most commands have an answer and nothing else
        return len(reply)

    def write(self, reply: bytes) -> int:
        """Write an answer that is encoded. Return its size in bytes."""
        assert self.method != "send", "`send` has no answer (section 7.4)"
        self.session.write(self._frame(reply))
        return len(reply)

    def charge(self, size: int) -> None:
        """Count a large answer."""
        metering.charge_answer(self.session.services, self.session.state, size)

    def fail(self, error: ClientError | ErrorCode) -> None:
        """
        Answer the command, which failed. A failed `connect` refuses the client: its connection stays until it goes, and
        every further command ends it (section 4, 2). A one-way client has no answers, so its connection ends here.
        """
        session = self.session
        if self.method == "send":
            return  # it has no answer
        temporary = error.temporary
        if session.state.wire.is_one_way:
            session.finish(uni.disconnect_for(error))
            return
        self.write(self.codec.error_reply(self.id, error))
        if session.state.phase is Phase.CONNECTING:
            # A temporary error must not become a final code afterwards.
            is_for_now = temporary or error.code == codes.TOKEN_EXPIRED.code
            session.refuse(uni.disconnect_for(error) if is_for_now else None)

    def log_unavailable(self, error: BrokerUnavailable) -> None:
        """Name the connection that the broker failed; not each of all, while it is away."""
        level = logging.WARNING if self.session.services.hub.is_served else logging.DEBUG
        log(
            logger,
            level,
            "command failed",
            connection=self.session.connection_id,
            command=self.method,
            reason=error,
        )

    def log_failed(self, reason: str | None = None) -> None:
        """Log the exception that is being handled: a fault of the application or of ours. `reason`: beside it."""
        fields = {} if reason is None else {"reason": reason}
        log(
            logger,
            logging.ERROR,
            "command failed",
            connection=self.session.connection_id,
            command=self.method,
            **fields,
            exc_info=True,
        )

    def raw(self, data: bytes | None) -> Raw | UnsetType:
        """Return a payload as it stands in an answer."""
        return UNSET if data is None else Raw(self.codec.payload(data))


def payload(data: Raw | UnsetType) -> bytes | None:
    """Return a payload apart from the message that it came in, which is not kept for its sake."""
    return None if isinstance(data, UnsetType) or not data else bytes(data)


def ttl(expire_at_s: float | None) -> tuple[bool, int]:
    """Return the fields `expires` and `ttl`: whole seconds, at least 1 and at most a year (section 5.1)."""
    if expire_at_s is None:
        return False, 0
    return True, max(1, min(int(expire_at_s - time.time()), TTL_MAX_S))
