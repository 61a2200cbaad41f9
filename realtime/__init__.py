"""Realtime applications on a sticky cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.application.room_handle import RoomHandle
    from realtime.application.users import UserHandle
    from realtime.application.values import Page, Publication
    from realtime.asgi.app import App
    from realtime.broker.base import ClientInfo, MemberCounts, MembersPage, Position
    from realtime.close_codes import CloseCode
    from realtime.errors import (
        AnswerError,
        BrokerUnavailable,
        ClientError,
        ConnectionMoved,
        DeclarationError,
        Disconnect,
        NotKept,
        RealtimeError,
        Reject,
        RoomError,
        UnknownRoom,
    )
    from realtime.session.connection import Connection

DISTRIBUTION = "realtime-cluster"  # realtime_cluster and own.py know by this line that the package is ours
__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "App",
    "BrokerUnavailable",
    "ClientError",
    "ClientInfo",
    "CloseCode",
    "Connection",
    "ConnectionMoved",
    "DeclarationError",
    "Disconnect",
    "MemberCounts",
    "MembersPage",
    "NotKept",
    "Page",
    "Position",
    "Publication",
    "RealtimeError",
    "Reject",
    "RoomError",
    "RoomHandle",
    "UnknownRoom",
    "UserHandle",
    "__version__",
]

_WHERE = {
    "AnswerError": "realtime.errors",
    "App": "realtime.asgi.app",
    "BrokerUnavailable": "realtime.errors",
    "ClientError": "realtime.errors",
    "ClientInfo": "realtime.broker.base",
    "CloseCode": "realtime.close_codes",
    "Connection": "realtime.session.connection",
    "ConnectionMoved": "realtime.errors",
    "DeclarationError": "realtime.errors",
    "Disconnect": "realtime.errors",
    "MemberCounts": "realtime.broker.base",
    "MembersPage": "realtime.broker.base",
    "NotKept": "realtime.errors",
    "Page": "realtime.application.values",
    "Position": "realtime.broker.base",
    "Publication": "realtime.application.values",
    "RealtimeError": "realtime.errors",
    "Reject": "realtime.errors",
    "RoomError": "realtime.errors",
    "RoomHandle": "realtime.application.room_handle",
    "UnknownRoom": "realtime.errors",
    "UserHandle": "realtime.application.users",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `realtime --help` should not load an event loop."""
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'realtime' has no attribute {name!r}")
