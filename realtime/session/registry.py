"""
The sessions of this worker: found by user, by connection id and by stream id.

Runs in the worker, on its event loop. A session adds itself when its connection begins and discards itself when that
ends. The cluster bus, the API and the wire protocol's streams find sessions here, whatever wire protocol these speak.
The registry never reads from a client and never writes to one; it owns no session and no task.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from realtime.broker.base import Position, Room
from realtime.session.connection import Connection
from realtime.transport.client_log import as_shown, log_received

logger = logging.getLogger("realtime.stream")  # what comes beside a stream is part of that conversation


@dataclass(frozen=True, slots=True)
class Home:
    """Where connections are served: this worker."""

    slot: int = 0
    worker: str = ""
    node: str = ""
    version: str = "0"


class LocalSession(Protocol):
    """A session of this worker, as those see it that have found it here."""

    connection: Connection

    @property
    def stream_id(self) -> str:
        """By this id `/emulation` and the API find the session; "" for a client with a two-way WebSocket."""

    @property
    def is_admitted(self) -> bool:
        """Whether the client is connected as the wire protocol has it, and `on_connect` has admitted it."""

    @property
    def is_present(self) -> bool:
        """Whether the client is admitted, or about to be."""

    @property
    def protocol_name(self) -> str:
        """The encoding that the client speaks, as `connections` names it."""

    @property
    def log_fields(self) -> dict[str, Any]:
        """The client, as fields of a log line."""

    @property
    def takes_now(self) -> bool:
        """Whether the client can take a message at once."""

    def receive(self, message: bytes | str) -> None:
        """Take one whole message of the client."""

    def send_event(self, event: bytes, *, is_volatile: bool = False) -> None:
        """Send an event, as `events.encode_event` gives it; a volatile one only if the client can take it at once."""

    async def call(self, event: bytes, timeout_s: float) -> list[Any]:
        """Send an event, and return the arguments of the client's acknowledgement."""

    async def join(self, name: str) -> None:
        """Bring the client into a room, by the application's name for it."""

    async def part(self, name: str) -> None:
        """Take the client out of a room."""

    def end(self, code: int, reason: str) -> None:
        """Close the connection with a code that the client understands."""

    def refresh(self, expire_at_s: float | None) -> None:
        """Have the connection expire at another Unix time, or never, and notify the client."""

    def log_refusal(self, what: str, why: object, **fields: Any) -> None:
        """Log what a client does not get to know in full. `what` is refused, `fields` are more of the line."""

    async def grant(
        self,
        room: Room,
        *,
        expire_at_s: float | None = None,
        info: bytes | None = None,
        data: bytes | None = None,
        since: Position | None = None,
    ) -> None:
        """Put the client into a room from the server's side."""


class Registry:
    """All sessions of one worker."""

    def __init__(self) -> None:
        self._sessions: dict[str, LocalSession] = {}  # by connection id
        self._streams: dict[str, LocalSession] = {}  # by stream id, only those whose commands come by `/emulation`
        self._not_admitted: set[LocalSession] = set()  # of them; so few that each heartbeat counts the others by it
        self.overruns: Counter[str] = Counter()
        """Limits that clients ran over, by name."""

    def add(self, session: LocalSession) -> None:
        """Add a session whose connection begins. The session calls `discard` when that ends."""
        connection_id = session.connection.id
        assert connection_id not in self._sessions, "a connection id is drawn once, and served once"
        self._sessions[connection_id] = session
        if not session.is_admitted:  # one that has moved here is
            self._not_admitted.add(session)

    def admit(self, session: LocalSession) -> None:
        """Note that a session that was added is admitted from here on, until it is discarded."""
        assert session.is_admitted, "it is counted among the clients"
        self._not_admitted.discard(session)

    def add_stream(self, session: LocalSession) -> None:
        """Let `/emulation` requests reach a session that was added, and whose other half is a stream."""
        assert self._sessions.get(session.connection.id) is session, "a stream belongs to a session that is here"
        assert session.stream_id, "a client that has no stream has no id of one"
        self._streams[session.stream_id] = session

    def discard(self, session: LocalSession) -> None:
        """Forget a session. Harmless when another one serves its connection by now."""
        connection_id = session.connection.id
        self._not_admitted.discard(session)
        if self._sessions.get(connection_id) is session:
            del self._sessions[connection_id]
        if self._streams and self._streams.get(session.stream_id) is session:
            del self._streams[session.stream_id]

    def by_id(self, connection_id: str) -> LocalSession | None:
        """Return the session of a connection, admitted or not; None where it is not here."""
        return self._sessions.get(connection_id)

    def find(self, user: str, connection_id: str = "", stream_id: str = "") -> list[LocalSession]:
        """Return the admitted sessions of a user, or only the one with that connection id, or with that stream id."""
        return [each for each in self._matching(user, connection_id, stream_id) if each.is_admitted]

    def _matching(self, user: str, connection_id: str, stream_id: str) -> list[LocalSession]:
        """Return the sessions of a user, admitted or not; "" for an id stands for any."""
        one = self._sessions.get(connection_id) if connection_id else None
        candidates = self._sessions.values() if not connection_id else [] if one is None else [one]
        return [each for each in candidates if each.connection.user == user and stream_id in ("", each.stream_id)]

    def disconnect(
        self,
        user: str,
        connection_id: str,
        code: int,
        reason: str,
        *,
        stream_id: str = "",
        keep: Collection[str] = (),
    ) -> None:
        """Close a user's connections, or the one that is named, but none of `keep`; also those not admitted yet."""
        for each in self._matching(user, connection_id, stream_id):
            if each.is_present and each.connection.id not in keep:
                each.end(code, reason)

    def receive(self, stream_id: str, data: bytes | str) -> bool:
        """Give a session what its client sent by an `/emulation` request. Return False when the stream is not here."""
        session = self._streams.get(stream_id)
        if session is None:
            return False
        if logger.isEnabledFor(logging.DEBUG):
            log_received(logger, session.log_fields, as_shown(data, is_text=session.protocol_name == "json"))
        session.receive(data)
        return True

    def counts(self) -> tuple[int, int]:
        """Count the admitted sessions, and their users."""
        users = [each.connection.user for each in self._sessions.values() if each.is_admitted]
        return len(users), len(set(users))

    def statistics(self) -> dict[str, Any]:
        """Count the sessions, those that were admitted, and by limit how often clients ran over it."""
        admitted = len(self._sessions) - len(self._not_admitted)
        return {"sessions": len(self._sessions), "clients": admitted, "overruns": dict(self.overruns)}

    def __iter__(self) -> Iterator[LocalSession]:
        """Go through a copy: sessions may end meanwhile."""
        return iter(list(self._sessions.values()))

    def __contains__(self, session: object) -> bool:
        return any(each is session for each in self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)
