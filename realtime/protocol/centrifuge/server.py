"""
The protocol in one worker: makes the session of each connection, and of each that comes from another process.

Runs in the worker. A client says by its handshake which encoding it speaks; there is one dialect for each encoding and
framing, which all of its sessions share. What a session does is in session/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from realtime.auth.credentials import WrongCredentials
from realtime.auth.tokens import Tokens
from realtime.protocol.centrifuge import endpoints, json, protobuf, uni
from realtime.protocol.centrifuge.codec import Codec
from realtime.protocol.centrifuge.dialect import CentrifugeDialect
from realtime.rooms.hub import Hub
from realtime.session import opening
from realtime.session.base import ApplicationCalls, Services
from realtime.session.registry import Home, Registry
from realtime.session.session import Session
from realtime.session.state import BadState, SessionLimits, decode
from realtime.tasks import BEGIN, Begin
from realtime.timing.rate import Rate
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import Framing, Handshake, Parameters, Transport
from sticky.handoff.journal import NO_MARK, Mark

CODECS: Final[dict[str, Codec]] = {each.NAME: each for each in (json, protobuf, uni)}
assert len(CODECS) == 3, "a session that moves names its encoding, and each name means one"


class Centrifuge:
    """The protocol in one worker. Is the transports' `SessionFactory`."""

    subprotocols: Sequence[str] = ("centrifuge-protobuf", "centrifuge-json")

    def __init__(
        self,
        application: ApplicationCalls,
        hub: Hub,
        *,
        wheel: TimerWheel,
        tokens: Tokens,
        limits: SessionLimits,
        home: Home,
        registry: Registry,
        wrong: WrongCredentials | None = None,
        begin: Begin = BEGIN,
    ) -> None:
        """
        Args:
            application: runs what users wrote.
            hub: this worker's rooms.
            wheel: the timers.
            tokens: verifies them.
            limits: what one client may do.
            home: where connections are served.
            registry: where sessions are found as long as they are open.
            wrong: counts and slows tokens that are wrong; none waits unless given.
            begin: starts tasks, at once or in the next turn.
        """
        self.services = Services(
            application,
            hub,
            wheel,
            tokens,
            WrongCredentials(most_s=0) if wrong is None else wrong,
            limits,
            commands_of(limits),
            home,
            registry,
            asyncio.get_running_loop(),
            begin,
        )
        self._dialects: dict[tuple[str, Framing], CentrifugeDialect] = {}

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        """See `ParameterReader`."""
        return endpoints.read_parameters(path, query)

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> Session:
        """Begin a session. It is closed as stale when no `connect` comes in time."""
        dialect = self._dialect(codec_for(handshake, subprotocol), transport)
        return opening.begin(self.services, dialect, transport, handshake)

    async def restore(self, transport: Transport, exported: bytes, mark: Mark = NO_MARK) -> Session:
        """
        Continue a session that was served elsewhere, from what `Session.export` gave.

        Raises:
            BadState: another version wrote it, or it speaks an encoding that this worker does not.
            ClientError: a room of it is not declared here.
            BrokerUnavailable: its rooms cannot be entered now.
        """
        state = decode(exported)
        codec = CODECS.get(state.wire.encoding)
        if codec is None:
            raise BadState(f"a session in the encoding {state.wire.encoding!r}; this worker has {', '.join(CODECS)}")
        dialect = self._dialect(codec, transport)
        return await opening.restore(self.services, dialect, transport, state, mark)

    def _dialect(self, codec: Codec, transport: Transport) -> CentrifugeDialect:
        """Return the one dialect of this encoding and this kind of transport."""
        transport.choose_framing(binary=codec.IS_BINARY)
        key = (codec.NAME, transport.framing)
        dialect = self._dialects.get(key)
        if dialect is None:
            dialect = self._dialects[key] = CentrifugeDialect(codec, transport.framing)
        return dialect


def commands_of(limits: SessionLimits) -> Rate | None:
    """Return how many commands a second, and at once as many more as a client with all its rooms begins with."""
    if not limits.commands_per_second:
        return None
    burst = limits.commands_per_second + limits.rooms_per_connection
    return Rate(burst, burst / limits.commands_per_second)


def codec_for(handshake: Handshake, subprotocol: str | None) -> Codec:
    """Return the encoding that a client asks for (protocol, sections 2.1, 2.2 and 2.5)."""
    if handshake.is_one_way:
        return uni
    asked = handshake.query.get("cf_protocol") or handshake.query.get("format")
    return protobuf if subprotocol == "centrifuge-protobuf" or asked == "protobuf" else json
