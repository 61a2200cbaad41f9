"""Realtime applications on a sticky cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.application.app import App
    from realtime.application.room_handle import RoomHandle
    from realtime.errors import Disconnect, Reject
    from realtime.session.connection import Connection

DISTRIBUTION = "realtime-cluster"  # realtime_cluster.py and own.py know by this line that the package is ours
__version__ = "0.1.0"

__all__ = ["App", "Connection", "Disconnect", "Reject", "RoomHandle", "__version__"]

_WHERE = {
    "App": "realtime.application.app",
    "Connection": "realtime.session.connection",
    "Disconnect": "realtime.errors",
    "Reject": "realtime.errors",
    "RoomHandle": "realtime.application.room_handle",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `realtime --help` should not load an event loop."""
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'realtime' has no attribute {name!r}")
