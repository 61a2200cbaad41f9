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
        AnswersMissing,
        BrokerUnavailable,
        ClientError,
        ConnectionEnded,
        ConnectionMoved,
        DeclarationError,
        Disconnect,
        NoAcknowledgements,
        NotKept,
        RealtimeError,
        Reject,
        ReservedEvent,
        RoomError,
        RoomIsDeclared,
        UnknownNamespace,
        UnknownRoom,
    )
    from realtime.session.connection import Connection
    from realtime.session.target import FoundConnection, Target

DISTRIBUTION = "realtime-cluster"  # realtime_cluster and own.py know by this line that the package is ours
__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "AnswersMissing",
    "App",
    "BrokerUnavailable",
    "ClientError",
    "ClientInfo",
    "CloseCode",
    "Connection",
    "ConnectionEnded",
    "ConnectionMoved",
    "DeclarationError",
    "Disconnect",
    "FoundConnection",
    "MemberCounts",
    "MembersPage",
    "NoAcknowledgements",
    "NotKept",
    "Page",
    "Position",
    "Publication",
    "RealtimeError",
    "Reject",
    "ReservedEvent",
    "RoomError",
    "RoomHandle",
    "RoomIsDeclared",
    "Target",
    "UnknownNamespace",
    "UnknownRoom",
    "UserHandle",
    "__version__",
]

_WHERE = {
    "AnswerError": "realtime.errors",
    "AnswersMissing": "realtime.errors",
    "App": "realtime.asgi.app",
    "BrokerUnavailable": "realtime.errors",
    "ClientError": "realtime.errors",
    "ClientInfo": "realtime.broker.base",
    "CloseCode": "realtime.close_codes",
    "Connection": "realtime.session.connection",
    "ConnectionEnded": "realtime.errors",
    "ConnectionMoved": "realtime.errors",
    "DeclarationError": "realtime.errors",
    "Disconnect": "realtime.errors",
    "FoundConnection": "realtime.session.target",
    "MemberCounts": "realtime.broker.base",
    "MembersPage": "realtime.broker.base",
    "NoAcknowledgements": "realtime.errors",
    "NotKept": "realtime.errors",
    "Page": "realtime.application.values",
    "Position": "realtime.broker.base",
    "Publication": "realtime.application.values",
    "RealtimeError": "realtime.errors",
    "Reject": "realtime.errors",
    "ReservedEvent": "realtime.errors",
    "RoomError": "realtime.errors",
    "RoomHandle": "realtime.application.room_handle",
    "RoomIsDeclared": "realtime.errors",
    "Target": "realtime.session.target",
    "UnknownNamespace": "realtime.errors",
    "UnknownRoom": "realtime.errors",
    "UserHandle": "realtime.application.users",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `realtime --help` should not load an event loop."""
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'realtime' has no attribute {name!r}")
