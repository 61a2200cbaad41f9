"""
What `realtime status | reload | scale | drain | inspect | stop` have the primary do.

Runs in the primary, behind the control socket (control.py), which has checked that a request is a JSON object and no
more. A request that is wrong is answered with an error and changes nothing.
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
    """What commands need of the primary."""

    def statistics(self) -> dict[str, Any]: ...

    def reload(self) -> bool:
        """Replace every worker. Return False when the server stops, or will soon."""

    def scale(self, workers: int) -> None: ...

    def drain(self, slot: Slot) -> bool:
        """Replace the worker of one slot. Return False when none serves it."""

    def inspect(self, slot: Slot, on_answer: Callable[[str], None]) -> bool:
        """Call back with what the worker of a slot is doing. Return False when none serves it."""

    def stop(self) -> None: ...

    def stop_now(self, status: int) -> None: ...


def answer(primary: Controlled, request: Request) -> Answer:
    """Do what a request asks for, and return the answer, or one that is still to come."""
    name = request.get("command")
    command = COMMANDS.get(name) if isinstance(name, str) else None
    if command is None:
        return {"error": f"no such command: {name!r:.100}"}
    return command(primary, request)


def _status(primary: Controlled, request: Request) -> Answer:
    return primary.statistics()


def _reload(primary: Controlled, request: Request) -> Answer:
    return OK if primary.reload() else {"error": "the server stops: it is not reloaded any more"}


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
