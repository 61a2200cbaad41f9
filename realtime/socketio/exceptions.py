"""
The errors of this package, by the names that python-socketio has for them.

    SocketIOError
    ├── ConnectionError
    │   └── ConnectionRefusedError   raised by a `connect` handler: the client is refused, with these words
    ├── TimeoutError                 no acknowledgement came in time, or none can come any more
    ├── BadNamespaceError            here for `except` clauses alone: servers raise it nowhere
    ├── DisconnectedError            as above
    └── Unsupported                  python-socketio has it, and this package does not: what to use instead

Those that have a namesake among Python's own errors are of that kind too.
"""

from __future__ import annotations

import builtins
from typing import Any

__all__ = [
    "BadNamespaceError",
    "ConnectionError",
    "ConnectionRefusedError",
    "DisconnectedError",
    "SocketIOError",
    "TimeoutError",
    "Unsupported",
]

REJECTED = "Connection rejected by server"


class SocketIOError(Exception):
    """Any error of this package."""


class ConnectionError(SocketIOError, builtins.ConnectionError):
    """A connection does not come about."""


class ConnectionRefusedError(ConnectionError):
    """
    Raise it in a `connect` handler to refuse the client.

    The first argument is the message that the client gets. Further ones are the data beside it: one as it is, several
    as a list.

    Attributes:
        message: what the client gets in words.
        data: what it gets beside them; None for nothing.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.message = str(args[0]) if args else REJECTED
        self.data = None if len(args) < 2 else args[1] if len(args) == 2 else list(args[1:])


class TimeoutError(SocketIOError, builtins.TimeoutError):
    """The client did not acknowledge in time, or has gone."""


class BadNamespaceError(SocketIOError):
    """Here for `except` clauses: an emit to a namespace that is not declared reaches no client, and is no error."""


class DisconnectedError(SocketIOError):
    """Here for `except` clauses: clients of python-socketio raise it."""


class Unsupported(SocketIOError, NotImplementedError):
    """
    The application uses something of python-socketio that this package does not have.

    Attributes:
        name: what it is.
        instead: what to use in its place.
    """

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(name, instead)
        self.name, self.instead = name, instead

    def __str__(self) -> str:
        return f"socketio: {self.name} is not supported: {self.instead}"
