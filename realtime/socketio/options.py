"""
The arguments of `AsyncServer(…)` that concern the server: as settings, without effect, or refused by name.

Pure, at import of the application. A setting that `realtime serve` was given counts before what the program says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from realtime.socketio.exceptions import Unsupported

BUFFER_BYTES: Final = 1_000_000  # of one message, in python-socketio where nothing is said

UNUSED: Final = frozenset(
    (
        "logger", "engineio_logger", "async_handlers", "always_connect", "monitor_clients", "cors_credentials",
        "http_compression", "compression_threshold",
    )
)  # fmt: skip
"""They may be given, and change nothing here, or are read by the server itself."""

ONLY: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "client_manager": ((None,), "workers share rooms by themselves, and machines by `realtime serve --redis URL`"),
    "json": ((None,), "arguments are encoded by msgspec, which knows dataclasses, datetime and UUID as well"),
    "serializer": (("default",), "clients speak JSON with binary attachments"),
    "async_mode": ((None, "asgi"), "leave it out: the server is `realtime serve`"),
    "allow_upgrades": ((True,), "clients choose their transport; a load balancer can refuse WebSockets"),
    "cookie": ((None,), "`realtime serve --sticky session` has a cookie of its own"),
    "transports": ((None,), "both are served; clients choose"),
}
"""By argument: the values that may be given, and what there is for others."""


def check_options(given: Mapping[str, Any]) -> None:
    """
    Refuse what is not supported.

    Raises:
        Unsupported: the text names the argument, and what to use instead.
        TypeError: python-socketio has no such argument either.
    """
    for name, value in given.items():
        if name == "transports" and _has_both(value):
            continue
        if name in ONLY:
            allowed, instead = ONLY[name]
            if not any(value is each or value == each for each in allowed):
                raise Unsupported(f"AsyncServer({name}={value!r})", instead)
        elif name not in UNUSED and name not in _SETTINGS:
            raise TypeError(f"AsyncServer() got an unexpected keyword argument {name!r}")


def _has_both(transports: Any) -> bool:
    return isinstance(transports, list | tuple) and set(transports) == {"polling", "websocket"}


def as_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what the program says as settings of the server.

    Raises:
        Unsupported: a value that no setting has.
    """
    settings: dict[str, Any] = {"message_bytes": BUFFER_BYTES}
    for name, value in given.items():
        if name in _SETTINGS and value is not None:
            settings |= _SETTINGS[name](value)
    return settings


def _ping(value: Any) -> dict[str, Any]:
    seconds = value[0] if isinstance(value, tuple | list) else value  # (interval, grace)
    return {"socketio_ping_s": float(seconds)}


def _origins(value: Any) -> dict[str, Any]:
    if callable(value):
        raise Unsupported("AsyncServer(cors_allowed_origins=…) with a function", "list the origins, or use patterns")
    origins = (value,) if isinstance(value, str) else tuple(value)
    return {"allowed_origins": tuple(each.lower() for each in origins) or ("*",)}  # [] checks nothing


_SETTINGS: Final[Mapping[str, Any]] = {
    "ping_interval": _ping,
    "ping_timeout": lambda value: {"socketio_ping_timeout_s": float(value)},
    "max_http_buffer_size": lambda value: {"message_bytes": int(value)},
    "cors_allowed_origins": _origins,
}
