"""
The paths of a load balancer's probes. Plain data: router, host check, access log and the primary's settings share them.

Requests for `/livez` and `/readyz` are served for every host, and get no line in the access log: a balancer asks by an
address, every second or two. `/health` is an operator's as well, and is logged.
"""

from __future__ import annotations

from typing import Final

HEALTH: Final = "/health"
LIVE: Final = "/livez"
READY: Final = "/readyz"
PROBES: Final = frozenset((LIVE, READY))
FOR_EVERY_HOST: Final = frozenset(path.encode() for path in (HEALTH, LIVE, READY))
