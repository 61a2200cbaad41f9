"""
The upgrade of an Engine.IO connection from polling to a WebSocket.

Runs in the worker. `Probe` is the session of a WebSocket whose request names a connection that polls. It gives that
connection the WebSocket, or closes it: whatever becomes of a probe, polling lives on. It never touches a packet of the
connection's user.

    WAITING   -- `2probe` -->  PROBED: `3probe` is answered, and the poll that is held ends with a noop
    WAITING, PROBED   -- `5` -->  UPGRADING: polls take nothing more; once the poll that is there was answered,
                                  what waits is sent over the WebSocket, and the connection has it
    any other message, the end of the WebSocket, or `UPGRADE_S`  -->  ENDED

**Nothing is written between `3probe` and `5`**: clients lose it. Until then polls bring what is written, each within a
moment, because a client ends its polling before it sends `5`.

**Nothing is lost or swapped at `5`.** The poll that is there is answered first, with what waits or a noop. If that
answer cannot be written, its packets wait for the WebSocket.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from realtime.log_lines import log
from realtime.protocol.socketio.base import Polling, UpgradingTransport
from realtime.protocol.socketio.engine import NORMAL, EngineConnection, Engines
from realtime.protocol.socketio.packets import NOOP, PROBE, PROBE_ANSWER
from realtime.transport.base import ClientSession, Transport
from realtime.transport.left_behind import fallen_behind, note

UPGRADE: Final = "5"
UPGRADE_S: Final = 10.0  # from the WebSocket's acceptance; as the reference server has it

logger = logging.getLogger("realtime.socketio")


class ProbeState(enum.Enum):
    """Of a probe; the head of this file has the transitions."""

    WAITING = "waiting"
    PROBED = "probed"
    UPGRADING = "upgrading"
    ENDED = "ended"


class ProbedTransport(Transport, UpgradingTransport, Protocol):
    """A WebSocket that can be given to a connection."""


class Probe:
    """A WebSocket that is being tried. Is its `ClientSession` until the connection itself is."""

    __slots__ = ("_connection", "_engines", "_polling", "_state", "_timer", "_transport")

    is_patient = False

    def __init__(
        self, engines: Engines, connection: EngineConnection, polling: Polling, transport: ProbedTransport
    ) -> None:
        """Begin to try a WebSocket. No other one is tried for this connection."""
        assert polling.probe is None, "one WebSocket is tried at a time"
        self._engines = engines
        self._connection = connection
        self._polling = polling
        self._transport = transport
        self._state = ProbeState.WAITING
        self._timer = engines.wheel.after(UPGRADE_S, Probe._give_up, self)
        polling.probe = self

    @property
    def log_fields(self) -> Mapping[str, Any]:
        """The client."""
        return self._connection.log_fields

    def receive(self, message: bytes | str) -> None:
        """Take one frame of the WebSocket."""
        if message == PROBE and self._state is ProbeState.WAITING:
            self._state = ProbeState.PROBED
            self._polling.is_probed = True
            self._transport.write(PROBE_ANSWER)
            if fallen_behind:
                note(PROBE_ANSWER)
            self._end_held_poll()
        elif message == UPGRADE and self._state in (ProbeState.WAITING, ProbeState.PROBED):
            self._state = ProbeState.UPGRADING
            self._transport.pause_reading()
            if self._polling.held is None:
                self._upgrade()
            else:
                self._polling.on_answered = self._upgrade
                self._end_held_poll()
        else:
            log(logger, logging.INFO, "x upgrade refused", **self.log_fields, reason=f"a frame while {self._state}")
            self.end(*NORMAL)

    def _end_held_poll(self) -> None:
        if self._polling.held is not None and not self._polling.waiting:
            self._polling.put(NOOP)

    def _upgrade(self) -> None:
        """Give the WebSocket to the connection. The poll that was there is answered."""
        if self._state is not ProbeState.UPGRADING or not self._connection.is_open:
            return
        self._forget()
        self._transport.hand_over(self._connection)
        self._transport.resume_reading()
        self._connection.upgrade(self._transport)

    def _give_up(self) -> None:
        if self._state is not ProbeState.ENDED:
            log(logger, logging.INFO, "- upgrade timed out", **self.log_fields, within_s=UPGRADE_S)
            self.end(*NORMAL)

    def end(self, code: int, reason: str) -> None:
        """Close the WebSocket; the connection polls on. Harmless when the probe has ended."""
        if self._state is not ProbeState.ENDED:
            self._forget()
            self._transport.close(code, reason)

    def _forget(self) -> None:
        self._state = ProbeState.ENDED
        self._timer.cancel()
        polling = self._polling
        if polling.probe is self:
            polling.probe = polling.on_answered = None
            polling.is_probed = False

    def pong_received(self) -> None:
        """Nothing waits for pongs of WebSockets."""

    def drained(self) -> None:
        """Nothing but one frame was written."""

    def connection_lost(self, code: int, reason: str) -> None:
        """Learn that the WebSocket is gone; the connection polls on."""
        if self._state is not ProbeState.ENDED:
            self._forget()


class Unwanted:
    """The session of a second WebSocket for a connection. It is closed at once, and the first one is not touched."""

    __slots__ = ("log_fields",)

    is_patient = False

    def __init__(self, connection: EngineConnection, transport: Transport) -> None:
        self.log_fields: Mapping[str, Any] = connection.log_fields
        transport.close(*NORMAL)

    def receive(self, message: bytes | str) -> None:
        """Nothing of it is read."""

    def end(self, code: int, reason: str) -> None:
        """It ends already."""

    def pong_received(self) -> None:
        """Nothing waits for it."""

    def drained(self) -> None:
        """Nothing was written."""

    def connection_lost(self, code: int, reason: str) -> None:
        """That was asked for."""


def session_for(engines: Engines, connection: EngineConnection, transport: ProbedTransport) -> ClientSession:
    """Return the session of a WebSocket that names a connection."""
    polling = connection.polling
    if polling is None or polling.probe is not None or not connection.is_open:
        return Unwanted(connection, transport)
    return Probe(engines, connection, polling, transport)
