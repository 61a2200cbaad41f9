"""
Refuses to be imported where the package around it is another distribution's.

Another distribution on PyPI has a package `realtime` too. Where its `__init__.py` has replaced ours, modules of ours
would still be imported, and fail with confusing errors. What is imported first imports this module first (errors.py
does). `realtime_cluster`, which stands outside of this package and cannot be overwritten with it, says how to mend it.
"""

from __future__ import annotations

import sys

if getattr(sys.modules["realtime"], "DISTRIBUTION", None) != "realtime-cluster":
    import realtime_cluster

    raise ImportError(realtime_cluster.problem() or "the package 'realtime' was replaced while this program ran")
