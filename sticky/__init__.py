"""
The primary and the hand-over: sticky connections for any Python server.

A name is imported from its module when it is first used (PEP 562). A worker therefore does not load the primary, nor a
sidecar the worker: each process of a cluster imports `sticky`, and should start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sticky.cluster import Cluster, ClusterSettings, Sidecar
    from sticky.keys.affinity import AffinitySettings, Sticky
    from sticky.keys.hashing import Slot, StickyId
    from sticky.lifetime import Lifetime
    from sticky.worker.adopted import Adopted
    from sticky.worker.template import serve_as_template
    from sticky.worker.worker import Worker, new_sticky_id

__all__ = [
    "Adopted",
    "AffinitySettings",
    "Cluster",
    "ClusterSettings",
    "Lifetime",
    "Sidecar",
    "Slot",
    "Sticky",
    "StickyId",
    "Worker",
    "new_sticky_id",
    "serve_as_template",
]

_MODULES: Final = {
    "Adopted": "sticky.worker.adopted",
    "AffinitySettings": "sticky.keys.affinity",
    "Cluster": "sticky.cluster",
    "ClusterSettings": "sticky.cluster",
    "Lifetime": "sticky.lifetime",
    "Sidecar": "sticky.cluster",
    "Slot": "sticky.keys.hashing",
    "Sticky": "sticky.keys.affinity",
    "StickyId": "sticky.keys.hashing",
    "Worker": "sticky.worker.worker",
    "new_sticky_id": "sticky.worker.worker",
    "serve_as_template": "sticky.worker.template",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
