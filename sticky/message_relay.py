"""
Messages between the parts of an application: from the primary or any worker to one worker, to all, or to the primary.

Runs in the primary, through which all of them go. Nothing grows without bound and nobody waits for ever: when a worker
does not take its messages, whoever sends to it is not read from (its own `send` then says that the channel is full) for
a second at most; after that its messages are dropped, and counted, until it takes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec

from sticky.channel import MESSAGE_MAX, Kind
from sticky.errors import OutOfTurn
from sticky.hashing import Slot
from sticky.messages import DATA_DEPTH_MAX, is_shallow
from sticky.poller import Poller
from sticky.worker_handle import WorkerHandle

PRIMARY: Final = "primary"
ALL: Final = "all"
HOLD_S: Final = 1.0
LOOK_S: Final = 0.01  # how often it is looked whether a held sender can go on


class Say(Protocol):
    """Says something to a worker, now or when its channel has room."""

    def __call__(self, worker: WorkerHandle, kind: Kind, *fields: Any) -> None: ...


class Post:
    """Carries messages. `live` is the supervisor's: which worker serves which slot now."""

    def __init__(
        self,
        poller: Poller,
        live: Mapping[Slot, WorkerHandle],
        *,
        say: Say,
        read_from: Callable[[WorkerHandle, bool], None],
        on_message: Callable[[dict[str, Any]], None],
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            read_from: has a worker be read from, or not.
            on_message: told of what is for the primary: {"from": "slot:3", "data": …}.
        """
        self._poller = poller
        self._live = live
        self._say = say
        self._read_from = read_from
        self._on_message = on_message
        self._counters = counters
        self._held: set[int] = set()  # pids of senders
        self._given_up: set[int] = set()  # pids of workers for which nobody is held any more

    def carry(self, sender: WorkerHandle, to: str, data: Any) -> None:
        """
        Carry a message from a worker. "all" is every other worker that serves; whom nobody knows nobody misses.

        Raises:
            OutOfTurn: it is larger than it may be, or nested deeper.
        """
        name = f"slot:{sender.slot}"
        if to == PRIMARY:
            self._on_message({"from": name, "data": data})
            return
        addressed = [worker for worker in self._addressed(to) if to != ALL or worker is not sender]
        try:
            encoded = _encoded(data)
        except ValueError as error:
            raise OutOfTurn(str(error)) from error
        self._give(addressed, name, encoded)
        if any(self._crowded(worker) for worker in addressed) and sender.pid not in self._held:
            self._held.add(sender.pid)
            self._read_from(sender, False)
            self._look(sender, addressed, self._poller.now() + HOLD_S)

    def _go_on(self, sender: WorkerHandle) -> None:
        self._held.discard(sender.pid)
        self._read_from(sender, True)

    def send(self, to: str, data: Any) -> int:
        """Send from the primary. Return to how many workers; one that does not take its messages does not count."""
        return self._give(list(self._addressed(to)), PRIMARY, _encoded(data))

    def _addressed(self, to: str) -> Iterable[WorkerHandle]:
        return (worker for slot, worker in self._live.items() if to in (ALL, f"slot:{slot}"))

    def _give(self, addressed: Iterable[WorkerHandle], sender: str, data: msgspec.Raw) -> int:
        given = 0
        for worker in addressed:
            if worker.is_full:
                self._counters["messages_dropped"] += 1
                continue
            self._say(worker, Kind.MESSAGE, sender, data)
            self._given_up.discard(worker.pid) if not worker.sayings else None
            given += 1
        return given

    def _crowded(self, worker: WorkerHandle) -> bool:
        return bool(worker.sayings) and worker.pid not in self._given_up and self._live.get(worker.slot) is worker

    def _look(self, sender: WorkerHandle, addressed: list[WorkerHandle], until: float) -> None:
        """Have the sender go on when everybody has taken its messages, or somebody will not."""
        crowded = [worker.pid for worker in addressed if self._crowded(worker)]
        if crowded and self._poller.now() < until:
            self._poller.after(
                LOOK_S, lambda: self._look(sender, addressed, until), on_failed=lambda: self._go_on(sender)
            )
            return
        self._given_up.intersection_update([worker.pid for worker in self._live.values()])  # the others have ended
        self._given_up.update(crowded)
        self._go_on(sender)


def _encoded(data: Any) -> msgspec.Raw:
    """
    Write data once, for all who get it.

    Raises:
        ValueError: it is larger than a message may be, or nested deeper than any process can read.
    """
    if not is_shallow(data):
        raise ValueError(f"the data of a message is nested deeper than {DATA_DEPTH_MAX}")
    encoded = msgspec.msgpack.encode(data)
    if len(encoded) > MESSAGE_MAX:
        raise ValueError(f"a message of {len(encoded)} bytes is larger than {MESSAGE_MAX}")
    return msgspec.Raw(encoded)
