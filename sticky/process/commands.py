"""
What `realtime status | reload | upgrade | scale | drain | inspect | stop` have the primary do.

Runs in the primary, behind the control socket (control.py), which has checked that a request is a JSON object and no
more. A request that is wrong is answered with an error and changes nothing.

**An answer says that a command was begun**, and not that it is done: a reload can take as long as its drain, and the
primary never waits. The command line asks for the status again until it sees the end. `inspect` alone has an answer
that comes later, because a worker has to give it.

A name that is unknown is an error and no fault: a command of a newer release may speak to this primary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from sticky.keys.hashing import Slot
from sticky.process.control import PendingAnswer

Request = dict[str, Any]
Answer = dict[str, Any] | PendingAnswer

OK: Final = {"ok": True}


class Controlled(Protocol):
    """
    What commands need of the primary. No call waits, and none raises for a value that an operator gave: a number of
    workers that is out of range is brought into it, and the log says so.
    """

    def statistics(self) -> dict[str, Any]:
        """Return what `realtime status` shows."""

    def reload(self) -> bool:
        """Replace every worker. Return False when the server stops, or will soon."""

    def upgrade(self) -> bool:
        """Have a primary with the code of today take over. Return False where that is not possible."""

    def scale(self, workers: int) -> None:
        """Have so many slots from now on: workers are started, or drained, in the background."""

    def drain(self, slot: Slot) -> bool:
        """Replace the worker of one slot. Return False when none serves it."""

    def inspect(self, slot: Slot, on_answer: Callable[[str], None]) -> bool:
        """Call back with what the worker of a slot is doing. Return False when none serves it."""

    def stop(self) -> None:
        """Drain every worker, then end. Harmless when that has begun."""

    def stop_now(self, status: int) -> None:
        """End at once, with this exit status: connections are cut."""


def answer(primary: Controlled, request: Request) -> Answer:
    """Do what a request asks for, and return the answer, or one that is still to come."""
    name = request.get("command")
    command = COMMANDS.get(name) if isinstance(name, str) else None
    if command is None:
        return {"error": f"no such command: {name!r:.100}"}
    return command(primary, request)


# Each command takes the request, since some have parameters. Parameters that are not known are ignored, for the same
# reason as above: the request may come from a newer release.


def _status(primary: Controlled, request: Request) -> Answer:
    return primary.statistics()


def _reload(primary: Controlled, request: Request) -> Answer:
    return OK if primary.reload() else {"error": "the server stops: it is not reloaded any more"}


def _upgrade(primary: Controlled, request: Request) -> Answer:
    return (
        OK if primary.upgrade() else {"error": "this server cannot be upgraded now: it starts, stops, or has no keeper"}
    )


def _scale(primary: Controlled, request: Request) -> Answer:
    workers = _integer(request, "workers")
    if workers is None:
        return {"error": "scale needs `workers`, an integer"}
    primary.scale(workers)
    return OK


def _drain(primary: Controlled, request: Request) -> Answer:
    slot = _integer(request, "slot")
    if slot is None:
        return {"error": "drain needs `slot`, an integer"}
    return OK if primary.drain(Slot(slot)) else _not_served(slot)


def _inspect(primary: Controlled, request: Request) -> Answer:
    slot = _integer(request, "slot")
    if slot is None:
        return {"error": "inspect needs `slot`, an integer"}
    # The worker answers in a turn of its own loop. Where that stands still, the command gives up by its own time-out.
    # An answer that never comes costs the primary one client's place until it is needed (`CLIENTS_MAX`).
    pending = PendingAnswer()
    found = primary.inspect(Slot(slot), lambda text: pending.resolve({"text": text}))
    return pending if found else _not_served(slot)


def _stop(primary: Controlled, request: Request) -> Answer:
    if request.get("now"):
        primary.stop_now(0)
    else:
        primary.stop()
    return OK


COMMANDS: Final[dict[str, Callable[[Controlled, Request], Answer]]] = {
    "status": _status,
    "reload": _reload,
    "upgrade": _upgrade,
    "scale": _scale,
    "drain": _drain,
    "inspect": _inspect,
    "stop": _stop,
}


def _integer(request: Request, name: str) -> int | None:
    value = request.get(name)
    return value if type(value) is int else None  # a bool is an int as well, and none of these


def _not_served(slot: int) -> Answer:
    return {"error": f"slot {slot} has no worker that serves"}
