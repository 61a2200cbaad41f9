"""
The errors of `realtime`, in one tree.

    RealtimeError
    ├── SettingsError          a setting is wrong: which, from where, what is allowed
    ├── TargetError            TARGET names nothing that can be served
    ├── DeclarationError       the application declares something that cannot work: file, line, and what is right
    │   └── UnknownHandler     an `on_*` that no application, or no handle of a room, has
    ├── RoomError              a room cannot do what the application, or another program, asks of it
    │   ├── RoomIsPattern      its name is that of a family of rooms
    │   ├── UnknownRoom        no declared pattern matches its name
    │   │   └── UnknownChannel where a client was to be subscribed: a ClientError too
    │   ├── RoomIsDeclared     an emit to several rooms has it among them
    │   └── NotKept            it keeps no presence, or no history: the option that is missing
    ├── UnknownNamespace       an emit goes to a namespace that is not declared
    ├── AnswerError            what a handler returned cannot be said in JSON: which, of which room, in which field
    ├── ReservedEvent          an event's name that Socket.IO keeps for itself
    ├── ConnectionEnded        the client went before it acknowledged an event
    ├── AnswersMissing         not all connections that were called acknowledged in time
    ├── NoAcknowledgements     the client's wire protocol has none
    ├── ConnectionMoved        another worker serves the connection now, and a task here still holds it
    ├── BrokerUnavailable      Redis or the local broker cannot be reached now
    │   ├── BrokerAway         there is no link now: nothing was sent
    │   └── BrokerFull         it can, and keeps no more than it does: reading and leaving go on
    ├── IncompatibleFormat     another release is in use there, which does not understand this one
    ├── ClientError            an answer to one command; the client sees its code and message
    │   └── Reject             the application says no (103 unless it says otherwise)
    ├── Disconnect             the connection has to end, with a code the client understands
    └── TokenError
        ├── TokenExpired
        ├── TokenInvalid
        └── TokenUnverified    it cannot be verified now, and may be later

`Reject` and `Disconnect` are raised by applications; both carry what the client gets and nothing else. An exception
holds facts; `__str__` makes the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import realtime.own  # noqa: F401 - refuses a package that is not ours, before anything else of it is used


class RealtimeError(Exception):
    """Any error of this package that is not a bug."""


class SettingsError(RealtimeError):
    """A setting has a value that cannot be used. `source` is the flag, the variable or the line that gave it."""

    def __init__(self, name: str, source: str, problem: str) -> None:
        super().__init__(name, source, problem)
        self.name, self.source, self.problem = name, source, problem

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}"


class TargetError(RealtimeError):
    """TARGET cannot be loaded, or is nothing that can be served."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(target, problem)
        self.target, self.problem = target, problem

    def __str__(self) -> str:
        return f"{self.target}: {self.problem}"


class DeclarationError(RealtimeError, ValueError, TypeError):
    """
    The application declares something that cannot work. A worker with such an application does not become ready.

    It is a ValueError and a TypeError too, for that is what such a mistake is in Python.

    Attributes:
        where: file and line in the application's own source; "" where Python does not know them.
        problem: what is wrong, and what would be right.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = where, problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" if self.where else self.problem


class UnknownHandler(DeclarationError, AttributeError):
    """
    An `on_*` that an application, or a handle of a room, does not have. An AttributeError, so that `hasattr` answers as
    for any name.
    """


class RoomError(RealtimeError):
    """A room cannot do what is asked of it. `room`: its name; `problem`: why not, and what would be right."""

    def __init__(self, room: str, problem: str) -> None:
        super().__init__(room, problem)
        self.room, self.problem = room, problem

    def __str__(self) -> str:
        return f"room {self.room!r} {self.problem}"


class RoomIsPattern(RoomError):
    """The name has a `{` or a `*`: it means a family of rooms, and one room is asked for."""

    def __init__(self, room: str) -> None:
        super().__init__(room, "is a pattern, and no room: name one room, such as chat:lobby")
        self.args = (room,)


class UnknownRoom(RoomError, KeyError):
    """No declaration matches the room's name. `patterns`: those that there are."""

    def __init__(self, room: str, patterns: Sequence[str]) -> None:
        super().__init__(room, f"is not declared; declared: {', '.join(patterns) or 'none'}")
        self.args = room, patterns
        self.patterns = patterns

    __str__ = RoomError.__str__


class RoomIsDeclared(RoomError):
    """An emit goes to several rooms, and one of them is declared: there it would be a publication."""

    def __init__(self, room: str) -> None:
        super().__init__(
            room, "is declared, so an emit into it is a publication: emit into it alone, and not local or volatile"
        )
        self.args = (room,)


class UnknownNamespace(RealtimeError):
    """An emit goes to a namespace that no declaration matches. `patterns`: those that there are."""

    def __init__(self, namespace: str, patterns: Sequence[str]) -> None:
        super().__init__(namespace, patterns)
        self.namespace, self.patterns = namespace, patterns

    def __str__(self) -> str:
        return f"namespace {self.namespace!r} is not declared; declared: {', '.join(self.patterns)}"


class NotKept(RoomError):
    """The room keeps no presence, or no history. `option`: what its declaration lacks."""

    def __init__(self, room: str, what: str, option: str) -> None:
        super().__init__(room, f"keeps no {what}: declare it with {option}")
        self.args = room, what, option
        self.what, self.option = what, option


class AnswerError(RealtimeError):
    """
    JSON cannot say what a handler returned, or what was published. The client gets "internal server error" (100).

    Attributes:
        what: the handler, with its file and line, or the room that was published to.
        field: the place in the value, such as `$.people[0].born`.
        problem: what stands there.
    """

    def __init__(self, what: str, field: str, problem: str) -> None:
        super().__init__(what, field, problem)
        self.what, self.field, self.problem = what, field, problem

    def __str__(self) -> str:
        return f"{self.what}: JSON cannot say {self.problem} at `{self.field}`"


class ReservedEvent(RealtimeError, ValueError):
    """An application emits or handles an event that Socket.IO's libraries raise themselves. `event`: its name."""

    def __init__(self, event: str) -> None:
        super().__init__(event)
        self.event = event

    def __str__(self) -> str:
        return (
            f"the event {self.event!r} is Socket.IO's own: a client that gets it from a server ends its connection. "
            "Use another name; connections that begin and end call @app.on_connect and @app.on_disconnect"
        )


class ConnectionEnded(RealtimeError):
    """A connection ended before its client acknowledged an event, or had ended when it was called."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(connection_id)
        self.connection_id = connection_id

    def __str__(self) -> str:
        return f"connection {self.connection_id} ended, and its client acknowledges nothing any more"


class AnswersMissing(RealtimeError, TimeoutError):
    """
    Not all connections that were called acknowledged in time.

    Attributes:
        answers: what the others acknowledged with, by connection id.
        silent: the ids of connections that did not.
        workers: workers that did not answer, of whose connections nothing is known.
    """

    def __init__(self, answers: dict[str, Any], silent: Sequence[str], workers: Sequence[str]) -> None:
        super().__init__(answers, silent, workers)
        self.answers, self.silent, self.workers = answers, silent, workers

    def __str__(self) -> str:
        text = (
            f"{len(self.answers)} connections acknowledged in time; missing: {', '.join(self.silent) or 'none known'}"
        )
        return f"{text}; workers that did not answer: {', '.join(self.workers)}" if self.workers else text


class NoAcknowledgements(RealtimeError):
    """A connection was called whose wire protocol has no acknowledgements. `protocol`: which."""

    def __init__(self, connection_id: str, protocol: str) -> None:
        super().__init__(connection_id, protocol)
        self.connection_id, self.protocol = connection_id, protocol

    def __str__(self) -> str:
        return (
            f"connection {self.connection_id} speaks {self.protocol}, whose clients acknowledge no event: "
            "conn.call is for Socket.IO (conn.protocol), and conn.emit is for both"
        )


class ConnectionMoved(RealtimeError):
    """A task holds a `Connection` that another worker serves now, and calls what should reach its client."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(connection_id)
        self.connection_id = connection_id

    def __str__(self) -> str:
        return (
            f"connection {self.connection_id} moved to another worker, and this object reaches its client no more. "
            "A task that outlives a handler keeps conn.id and conn.user, and sends by app.user(…) or a room"
        )


class IncompatibleFormat(RealtimeError):
    """
    A worker does not start: what is there is of a release that does not understand this one.

    Attributes:
        where: the broker, as logs show it.
        theirs: what is there, and of which release.
        ours: this release.
        advice: what the operator can do.
    """

    def __init__(self, where: str, theirs: str, ours: str, advice: str) -> None:
        super().__init__(where, theirs, ours, advice)
        self.where, self.theirs, self.ours, self.advice = where, theirs, ours, advice

    def __str__(self) -> str:
        return f"{self.where}: {self.theirs} does not understand {self.ours}: {self.advice}"


class BrokerUnavailable(RealtimeError):
    """The broker did not answer; what was asked may or may not have happened."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.address, self.problem = address, problem

    def __str__(self) -> str:
        return f"broker at {self.address}: {self.problem}"


class BrokerAway(BrokerUnavailable):
    """There is no link to the broker now: what was asked was not sent, and has not happened."""


class BrokerFull(BrokerUnavailable):
    """The broker in memory holds as much as it may; what was asked has not happened. `limit` is in bytes."""

    def __init__(self, address: str, limit: int) -> None:
        super().__init__(address, f"it is full: it keeps no more than {limit} bytes (--broker-memory)")
        self.args = address, limit
        self.limit = limit


class ClientError(RealtimeError):
    """One command fails. `temporary`: the client may try again by itself."""

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        super().__init__(code, message)
        self.code, self.message, self.temporary = code, message, temporary

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class UnknownChannel(UnknownRoom, ClientError):
    """
    A client was to be subscribed to a room that no declaration matches. The text names the patterns; the client gets
    102 and "unknown channel", as clients call it, and nothing else.
    """

    def __init__(self, room: str, patterns: Sequence[str]) -> None:
        UnknownRoom.__init__(self, room, patterns)
        self.code, self.message, self.temporary = 102, "unknown channel", False


class Reject(ClientError):
    """
    The application refuses what a client asked. The client gets `message` and `code`, and nothing else.

    Codes: 103 "permission denied", or the application's own from 400 to 1999. A client of Socket.IO gets `data` as
    well: anything that JSON can say.
    """

    is_bare = False
    """Whether a client of Socket.IO that is refused gets no data where there are none, in place of the code."""

    def __init__(
        self, message: str = "permission denied", code: int = 103, *, temporary: bool = False, data: Any = None
    ) -> None:
        super().__init__(code, message, temporary=temporary)
        self.data = data


class Disconnect(RealtimeError):
    """
    The connection ends. Codes from 3000 to 3499 and 4000 to 4499 let the client come back, 3500 to 3999 and 4500 to
    4999 tell it not to; 4000 to 4999 are the application's own. `reason` is at most 32 ASCII characters.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code})"


class TokenError(RealtimeError):
    """A token cannot be accepted. The problem goes to the log, never to the client."""


class TokenExpired(TokenError):
    """The token was good once: the client should fetch another."""


class TokenInvalid(TokenError):
    """The token is not one of ours, or not for this."""


class TokenUnverified(TokenError):
    """
    It cannot be said now whether the token is good: its key is not known yet, or it is about to begin to be valid. The
    client may come again with the same token.
    """
