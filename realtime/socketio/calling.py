"""
Calling a handler of python-socketio's: a coroutine or a plain function, on the event loop.

Runs in the worker. It decides nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

CONNECT: Final = "connect"
DISCONNECT: Final = "disconnect"
LIFE: Final = (CONNECT, DISCONNECT)
"""What no client sends: connections begin and end."""


async def call(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Call a handler, and return what it returns."""
    value = function(*args)
    return await value if inspect.isawaitable(value) else value


def fitted(function: Callable[..., Any], args: Sequence[Any]) -> Sequence[Any]:
    """
    Return as many of the arguments as a function takes: `connect` handlers may take no `auth`, and `disconnect`
    handlers no `reason`.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return args
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return args
    most = sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
    return args[:most]
