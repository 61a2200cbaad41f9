"""The primary and the hand-over: sticky connections for any Python server."""

from sticky.cluster import Cluster, ClusterSettings, Sidecar
from sticky.keys.affinity import AffinitySettings, Sticky
from sticky.keys.hashing import Slot, StickyId
from sticky.lifetime import Lifetime
from sticky.worker.adopted import Adopted
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
]
