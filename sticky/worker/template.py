"""
The template: a process that has imported what a worker needs, and of which the primary has workers forked.

Runs in the template, and in a worker until it is one. A worker's command calls `serve_as_template` before anything
else. In the template that call returns once for each worker: in the worker. It holds nothing that a worker must not
have: no event loop, no thread, no descriptor but its link, and no code of the application, which each worker imports
after the fork. So a reload brings new code.

Each worker is forked twice: the process in between ends at once, so the keeper inherits the worker and reaps it. It
opens the worker's pidfd first, while the worker is its child and its number cannot be another's.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import MutableMapping

from sticky.handoff.channel import CHANNEL_FD
from sticky.handoff.fork_link import TemplateEnd, end_from


def serve_as_template(environ: MutableMapping[str, str] = os.environ) -> None:
    """
    Be the template, where this process was started as one: return in each worker that is forked of it, with that
    worker's environment, and never in the template itself. Elsewhere return at once.

    Args:
        environ: of this process; a worker finds its own there.
    """
    link = end_from(environ)
    if link is None:
        return
    gc.collect()
    gc.freeze()  # a collection in a worker would write to pages that all share
    try:
        link.ready()
        while (asked := link.next()) is not None:
            env, channel = asked
            if _fork(link, channel):
                environ.clear()
                environ.update(env)
                environ[CHANNEL_FD] = str(channel)
                return
            os.close(channel)
    except OSError:  # the primary is gone
        pass
    sys.exit(0)


def _fork(link: TemplateEnd, channel: int) -> bool:
    """Fork a worker, and answer. Return whether this is the worker."""
    try:
        between = os.fork()
    except OSError as error:
        link.failed(str(error.strerror))
        return False
    if between:
        os.waitpid(between, 0)
        return False
    status = 1
    try:
        worker = os.fork()
        if not worker:
            link.close()
            return True
        link.forked(worker, os.pidfd_open(worker))
        status = 0
    except OSError as error:
        link.failed(str(error.strerror))
    os._exit(status)  # what the template would do at its end is not this process's
