"""
The paths of a load balancer's probes. Plain data: router, host check, access log and the primary's settings share them.

All of them are below `--own-prefix`. Requests for `/livez` and `/readyz` are served for every host, and get no line in
the access log: a balancer asks by an address, every second or two. `/health` is an operator's as well, and is logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HEALTH: Final = "/health"
LIVE: Final = "/livez"
READY: Final = "/readyz"
PROBES: Final = frozenset((LIVE, READY))
FOR_EVERY_HOST: Final = frozenset((HEALTH, LIVE, READY))


def below(own_prefix: str, paths: Iterable[str]) -> frozenset[str]:
    """Return these paths as clients ask for them: below the prefix, which is empty or begins with a slash."""
    return frozenset(own_prefix + path for path in paths)
