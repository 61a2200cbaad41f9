"""The primary and the hand-over: sticky connections for any Python server."""

from sticky.adopted import Adopted
from sticky.affinity import AffinitySettings, Sticky
from sticky.cluster import Cluster, ClusterSettings, Sidecar
from sticky.hashing import Slot, StickyId
from sticky.lifetime import Lifetime
from sticky.worker import Worker, new_sticky_id

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
]
