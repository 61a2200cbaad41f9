"""
The log lines of the primary: an event, then its object and its reason as key=value.

    worker ready slot=0 pid=811 ready=1/4
    worker exited slot=3 pid=811 reason="killed by SIGKILL"

Runs in the primary. One thing that happens is one line. The events below are all those of the supervisor's half: an
operator can search for them, and a test can wait for one. The record also has the fields as data, in `record.fields`,
for formatters that write JSON. It never decides what is worth a line.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Final

WORKER_STARTED: Final = "worker started"  # debug: its process runs, and boots
WORKER_READY: Final = "worker ready"
WORKER_ADOPTED: Final = "worker adopted"  # from an earlier primary
WORKER_DRAINING: Final = "worker draining"
WORKER_EXITED: Final = "worker exited"
WORKER_CANNOT_BOOT: Final = "worker cannot boot"
WORKER_NOT_STARTED: Final = "worker not started"
WORKER_NOT_FORKED: Final = "worker not forked"  # it is executed anew: slower, and as good
TEMPLATE_LOST: Final = "template lost"  # of which workers are forked; another one follows
WORKER_RESTART_DELAYED: Final = "worker restart delayed"
WORKER_HUNG: Final = "worker hung"
WORKER_CONDEMNED: Final = "worker condemned"  # its message was not valid, and it is killed
WORKER_PAST_LIFETIME: Final = "worker past its lifetime"
WORKER_KILLED: Final = "worker killed"  # by this process, because it did not end in its time
WORKER_STATE: Final = "worker state"  # debug: each transition
WORKERS_SCALED: Final = "workers scaled"
INTRODUCTION_FAILED: Final = "introduction failed"  # two workers cannot be introduced, so nothing moves between them
RELOAD_STARTED: Final = "reload started"
RELOAD_CONTINUES: Final = "reload continues"  # although a successor was killed
RELOAD_GIVEN_UP: Final = "reload given up"
SIDECAR_READY: Final = "sidecar ready"
SIDECAR_NOT_REPLACED: Final = "sidecar not replaced"  # in an upgrade: the process of before goes on
SIDECAR_ADOPTED: Final = "sidecar adopted"  # from an earlier primary
SIDECAR_EXITED: Final = "sidecar exited"
SIDECAR_NOT_STARTED: Final = "sidecar not started"
SERVER_LISTENING: Final = "server listening"
SERVER_TAKEN_OVER: Final = "server taken over"  # from an earlier primary, which has died
ORPHANS_FOUND: Final = "orphans found"  # processes of a server that has lost its keeper and its primary
ORPHANS_ADOPTED: Final = "orphans adopted"  # the others have ended
ORPHAN_REFUSED: Final = "orphan refused"  # its clients are closed with a reconnect code, and it ends
ORPHAN_KILLED: Final = "orphan killed"  # it does not answer, or does not end
SERVER_RELEASED: Final = "server released"  # to a successor, in an upgrade
SERVER_GIVES_UP: Final = "server gives up"
SERVER_LAME_DUCK: Final = "server lame duck"  # it serves on, and its probes say that it stops
SERVER_STOPPING: Final = "server stopping"
SERVER_STOPPED: Final = "server stopped"
SIGNAL_RECEIVED: Final = "signal received"
HOOK_FAILED: Final = "hook failed"
CONNECTION_LOST: Final = "connection lost"
STATE: Final = "state"  # debug: a transition of the primary or of the sidecars

_PLAIN: Final = re.compile(r"[^\s\"=\\]+")

logger = logging.getLogger("sticky")


def line(event: str, **fields: Any) -> str:
    """
    Return an event with its fields. A field that is None is left out.

    A value with a space, a quotation mark or an equals sign is written as a JSON string: no value can look like another
    field. Line ends are escaped with it, so a line stays one line.
    """
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items() if value is not None)])


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def log(level: int, event: str, /, *, detail: str = "", exc_info: bool = False, **fields: Any) -> None:
    """
    Log an event.

    Args:
        detail: lines of text that follow, such as the traceback that another process has sent.
        exc_info: whether the traceback of the exception that is being handled follows.
        fields: the object and the reason. A `pid` is the object's. The record has it as `worker_pid` or `sidecar_pid`,
            because every record has the pid of the process that logs.
    """
    if not logger.isEnabledFor(level):
        return
    assert "=" not in event, "an event is words, so that it cannot look like a field"
    text = line(event, **fields)
    data = {
        f"{event.split()[0]}_pid" if name == "pid" else name: value if isinstance(value, int | float) else str(value)
        for name, value in fields.items()
        if value is not None
    }
    logger.log(
        level,
        "%s",
        f"{text}\n{detail}" if detail else text,
        exc_info=exc_info,
        extra={"fields": data},
    )
