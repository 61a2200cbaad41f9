"""
One log line of a worker: an event, then its object and its reason as key=value.

    = gap found room=chat:lobby after=17 offset=19
    ! command failed connection=5c1e… command=publish reason="the broker does not answer"

Runs in every process of `realtime`. The names of fields are the same everywhere, so that one can search for an object:
`room`, `connection`, `user`, `address`, `worker`, `command`, `handler`, `reason`; a number has its unit in its name.
One thing that happens is one line, which the code that decides on it logs. The record has the fields as data, in
`record.fields`, for lines in JSON. It never decides what is worth a line, and it sets up nothing: logs.py does.
"""

from __future__ import annotations

import logging
from typing import Any

from sticky.loop.log_lines import line


def log(
    logger: logging.Logger, level: int, event: str, /, *, exc_info: BaseException | bool = False, **fields: Any
) -> None:
    """
    Log an event.

    Args:
        logger: of the package.
        level: warnings and errors are for an operator; `info` is a thing that happens rarely; `debug` is the rest.
        event: words, behind a mark where one fits: `x ` something closed, `= ` a state, `- ` a time-out (logs.py).
        exc_info: an exception whose traceback follows; True for the one that is being handled.
        fields: the object and the reason. A field that is None is left out.
    """
    if not logger.isEnabledFor(level):
        return
    assert "=" not in event[1:], "an event is words, so that it cannot look like a field"
    data = {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in fields.items()
        if value is not None
    }
    logger.log(level, "%s", line(event, **data), exc_info=exc_info, extra={"fields": data})
