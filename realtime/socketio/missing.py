"""
What python-socketio has and this package does not, by name, with what there is instead.

Pure. The module's face and `AsyncServer` look here for a name that they do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_MANAGER: Final = "workers share rooms by themselves, and machines by `realtime serve --redis URL`"
_THREADED: Final = "write coroutines, and use AsyncServer; blocking code runs in asyncio.to_thread"
_CLIENT: Final = "clients are in the package python-socketio: `import socketio`"
_ENGINE: Final = "Engine.IO is the server's own; its settings are those of `realtime serve`"
_SERVED: Final = "the server is `realtime serve app:sio`"

NAMES: Final[Mapping[str, str]] = {
    "Server": _THREADED,
    "Namespace": "write coroutines, and use AsyncNamespace",
    "WSGIApp": "use ASGIApp; a WSGI application in it is wrapped by a2wsgi.WSGIMiddleware",
    "Middleware": "use ASGIApp",
    "SimpleClient": _CLIENT,
    "AsyncSimpleClient": _CLIENT,
    "Client": _CLIENT,
    "AsyncClient": _CLIENT,
    "ClientNamespace": _CLIENT,
    "AsyncClientNamespace": _CLIENT,
    "get_tornado_handler": _SERVED,
    **dict.fromkeys(
        (
            "Manager", "AsyncManager", "PubSubManager", "RedisManager", "AsyncRedisManager", "KombuManager",
            "KafkaManager", "ZmqManager", "AsyncAioPikaManager",
        ),
        f"{_MANAGER}; other programs emit by /api/emit or `realtime emit`",
    ),
}  # fmt: skip

METHODS: Final[Mapping[str, str]] = {
    "instrument": "the Admin UI is not served: `realtime status`, `rooms`, `where` and `tail` show what is there",
    "attach": _SERVED,
    "handle_request": _SERVED,
    "shutdown": "`realtime stop` ends the server",
    "eio": _ENGINE,
    "manager": "use rooms(sid), enter_room and leave_room",
    "environ": "use get_environ(sid)",
    "handlers": "use on, event and register_namespace",
    "namespace_handlers": "use register_namespace",
}


def instead_of_name(name: str) -> str:
    """Return the sentence for a name of python-socketio; "" for one that it does not have."""
    return f"socketio: {name} is not supported: {NAMES[name]}" if name in NAMES else ""


def instead_of_method(name: str) -> str:
    """Return the sentence for an attribute that an `AsyncServer` does not have."""
    if name in METHODS:
        return f"socketio: AsyncServer.{name} is not supported: {METHODS[name]}"
    return f"'AsyncServer' object has no attribute {name!r}"
