"""
The states of a primary, and the table of its transitions. primary.py explains them. Pure.
"""

from __future__ import annotations

import enum
from typing import Final


class PrimaryState(enum.Enum):
    """Where a run of the primary is."""

    STARTING = "starting"  # no worker was ready yet, and no client is accepted
    SERVING = "serving"
    LAME_DUCK = "lame duck"  # everything is served on, and load balancers learn that it ends
    STOPPING = "stopping"  # no client is accepted any more
    STOPPED = "stopped"  # the loop ends


class PrimaryEvent(enum.Enum):
    """What moves it on."""

    LISTEN = "listen"  # the first worker is ready
    WARN = "warn"  # the stop is to be announced first
    STOP = "stop"  # a signal, a command, or no worker could boot
    ENDED = "ended"  # no worker and no sidecar is left


TRANSITIONS: Final[dict[tuple[PrimaryState, PrimaryEvent], PrimaryState]] = {
    (PrimaryState.STARTING, PrimaryEvent.LISTEN): PrimaryState.SERVING,
    (PrimaryState.STARTING, PrimaryEvent.STOP): PrimaryState.STOPPING,
    (PrimaryState.SERVING, PrimaryEvent.WARN): PrimaryState.LAME_DUCK,
    (PrimaryState.SERVING, PrimaryEvent.STOP): PrimaryState.STOPPING,
    (PrimaryState.LAME_DUCK, PrimaryEvent.STOP): PrimaryState.STOPPING,
    (PrimaryState.STOPPING, PrimaryEvent.ENDED): PrimaryState.STOPPED,
}
