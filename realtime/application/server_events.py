"""
Events between the workers of an application: `@app.server_event` handles them, `app.server_side_emit` sends them.

Runs in the worker. They go through a private room at the broker, which no client can enter, to all workers of all
machines but the one that emits. A worker whose application handles none does not listen. What is sent while a link is
down is lost; there is no answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from realtime.application.event_handler import EventHandler
from realtime.broker.base import NOT_KEPT, PRIVATE, Published, PublishRequest, Room
from realtime.broker.unreadable import Unreadable
from realtime.errors import DeclarationError
from realtime.log_lines import log
from realtime.session.events import decode_values, encode_event
from realtime.tasks import SideTasks

ROOM: Final = Room(f"{PRIVATE}server events")
CLOSE_S: Final = 5.0  # for handlers that run when the worker ends

logger = logging.getLogger("realtime.app")


class _Sent(msgspec.Struct, array_like=True):
    """An event, and the worker that sent it."""

    worker: str
    event: bytes


class ListeningRooms(Protocol):
    """Brings what is published in a private room: `rooms.private_rooms.PrivateRooms`."""

    async def listen(self, room: Room, receive: Callable[[bytes], None]) -> None: ...


class PublishingBroker(Protocol):
    """Carries the events: the broker."""

    async def publish(self, request: PublishRequest) -> Published: ...


class ServerEvents:
    """The events between workers, of one application. The caller of `start` must call `close`."""

    def __init__(self) -> None:
        self._handlers: dict[str, EventHandler] = {}
        self._tasks = SideTasks(logger)
        self._unreadable = Unreadable()
        self._worker = ""

    def handle(self, event: str, function: Callable[..., Any]) -> None:
        """
        Declare a handler.

        Raises:
            DeclarationError: the event has one, or the handler cannot be called.
        """
        handler = EventHandler(function, takes_conn=False)
        if event in self._handlers:
            before = self._handlers[event].where
            raise DeclarationError(handler.where, f"server event {event!r} is registered twice; before in {before}")
        self._handlers[event] = handler

    async def start(self, rooms: ListeningRooms, worker: str) -> None:
        """
        Listen from now on, if there is a handler.

        Raises:
            BrokerUnavailable: nothing is received.
        """
        self._worker = worker
        if self._handlers:
            await rooms.listen(ROOM, self._receive)

    async def close(self) -> None:
        """Give handlers that run some time."""
        await self._tasks.close(CLOSE_S)

    async def emit(self, broker: PublishingBroker, event: str, args: Sequence[Any]) -> None:
        """
        Send an event to all other workers.

        Raises:
            AnswerError: JSON cannot say an argument.
            BrokerUnavailable: some workers may have got it.
        """
        sent = _Sent(self._worker, encode_event(event, args))
        await broker.publish(PublishRequest(ROOM, msgspec.msgpack.encode(sent), NOT_KEPT))

    def _receive(self, data: bytes) -> None:
        """Run the handler of an event, beside those that run."""
        try:
            sent = msgspec.msgpack.decode(data, type=_Sent)
            name, *args = decode_values(sent.event)
        except msgspec.MsgspecError as error:
            self._unreadable.note("event of a worker", error)
            return
        handler = self._handlers.get(name)
        if sent.worker != self._worker and handler is not None:
            self._tasks.spawn(self._run(handler, args))

    async def _run(self, handler: EventHandler, args: Sequence[Any]) -> None:
        try:
            await handler(None, args, {})
        except Exception:  # noqa: BLE001 - logged with its traceback
            log(logger, logging.ERROR, "server event failed", handler=handler.name, exc_info=True)
