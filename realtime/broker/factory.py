"""
Makes the broker that a URL names.

Runs in the worker. It starts nothing, and imports the code of no other broker.
"""

from __future__ import annotations

from realtime.broker.base import Broker, WorkerId
from realtime.errors import SettingsError

REDIS_SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://",
    "rediss+cluster://",
)  # fmt: skip


def broker_module(url: str) -> str:
    """Return the module that `make_broker` will import for a URL of a server."""
    return "realtime.broker.local" if url.startswith("local:") else "realtime.broker.redis"


def make_broker(url: str | None, *, worker_id: WorkerId, prefix: str = "rt", memory: int | None = None) -> Broker:
    """
    Return the broker that a URL names, not started.

    Args:
        url: None or `memory:`, `local:PATH`, or a Redis URL.
        worker_id: the process that will own the members.
        prefix: the beginning of every key and channel in Redis.
        memory: bytes that the broker in memory may use. The local broker and Redis have their own settings for it.

    Raises:
        SettingsError: no broker has such a URL.
    """
    if url is None or url == "memory:":
        from realtime.broker.memory import MemoryBroker

        return MemoryBroker(worker_id, limit=memory)
    if url.startswith("local:"):
        from realtime.broker.local import LocalBroker

        return LocalBroker(url.removeprefix("local:"), worker_id)
    if url.startswith(REDIS_SCHEMES):
        from realtime.broker.redis import RedisBroker

        return RedisBroker(url, worker_id, prefix=prefix)
    raise SettingsError(
        "redis", "broker URL", f"{url!r} must begin with one of memory:, local:, {', '.join(REDIS_SCHEMES)}"
    )
