"""
How many files this process may have open.

Each connection is an open file. The soft limit of most systems, 1024, is for programs that use select(2), which cannot
count further; nothing here does. Runs in the primary, whose workers inherit the limit, and in `realtime bench`.
"""

from __future__ import annotations

import contextlib
import resource


def raise_descriptor_limit() -> int:
    """
    Raise the soft limit to the hard one, as far as the system lets this user; return the limit.

    `resource.RLIM_INFINITY` stands for no limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft
