"""
Socket.IO as python-socketio has it: `from realtime import socketio`, in place of `import socketio`.

What is not here is refused by name, with what there is instead; docs/from-socketio.md has it all in a table.
"""

from __future__ import annotations

from typing import NoReturn

from realtime.socketio import exceptions as exceptions
from realtime.socketio.asgi_app import ASGIApp
from realtime.socketio.missing import instead_of_name
from realtime.socketio.namespace import AsyncNamespace
from realtime.socketio.server import AsyncServer

__all__ = ["ASGIApp", "AsyncNamespace", "AsyncServer"]


def __getattr__(name: str) -> NoReturn:
    """Refuse what python-socketio has and this package has not, by name."""
    raise AttributeError(instead_of_name(name) or f"module {__name__!r} has no attribute {name!r}")
