"""
What kind of application a callable is, by its parameters alone: ASGI, WSGI, or a factory.

Runs in the worker, at import. It never calls what it looks at.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from realtime.errors import DeclarationError

ASGI_ARGUMENTS: Final = 3  # scope, receive, send
WSGI_ARGUMENTS: Final = 2  # environ, start_response (PEP 3333)
WRAP: Final = "wrap it: a2wsgi.WSGIMiddleware(app), or asgiref.wsgi.WsgiToAsgi(app)"


def is_asgi(value: Any) -> bool:
    """Say whether this can be called as an ASGI application."""
    return callable(value) and not isinstance(value, type) and takes(value, ASGI_ARGUMENTS)


def is_wsgi(value: Any) -> bool:
    """Say whether this can be called as a WSGI application, and not as one of ASGI."""
    return callable(value) and not isinstance(value, type) and not is_asgi(value) and takes(value, WSGI_ARGUMENTS)


def is_factory(value: Any) -> bool:
    """Say whether this can be called without arguments, and is itself nothing that can be served."""
    return callable(value) and not is_asgi(value) and takes(value, 0)


def takes(value: Any, count: int) -> bool:
    """Say whether a callable can be called with so many arguments. True where its parameters are not known."""
    try:
        inspect.signature(value).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def refuse_wsgi(value: Any, where: str) -> None:
    """
    Refuse what is mounted and is no ASGI application.

    Args:
        value: what is to be mounted.
        where: file and line of the mount.

    Raises:
        DeclarationError: the text says what it is, and what would be right.
    """
    if is_asgi(value):
        return
    name = getattr(value, "__name__", type(value).__name__)
    if is_wsgi(value):
        raise DeclarationError(where, f"`{name}` is a WSGI application; {WRAP}")
    raise DeclarationError(where, f"`{name}` is no ASGI application: it is not called as app(scope, receive, send)")
