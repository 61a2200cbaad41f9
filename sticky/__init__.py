"""The primary and the hand-over: sticky connections for any Python server."""

from sticky.affinity import AffinitySettings, Sticky
from sticky.cluster import Cluster, ClusterSettings, Sidecar
from sticky.hashing import SessionId, Slot
from sticky.lifetime import Lifetime
from sticky.worker import Adopted, Worker, session_id

__all__ = [
    "Adopted",
    "AffinitySettings",
    "Cluster",
    "ClusterSettings",
    "Lifetime",
    "SessionId",
    "Sidecar",
    "Slot",
    "Sticky",
    "Worker",
    "session_id",
]
