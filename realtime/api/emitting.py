"""
The method `emit` of the API: an event to clients of Socket.IO, from another program.

Runs in the worker. It emits as the application would, and asks no handler of it.
"""

from __future__ import annotations

from realtime.api.messages import EmitRequest, bad_request
from realtime.errors import AnswerError, ReservedEvent, RoomIsDeclared, UnknownNamespace
from realtime.session.target import Emitter, Target


async def emit(emitter: Emitter, request: EmitRequest) -> None:
    """
    Send an event.

    Raises:
        ClientError: the event, a room or the namespace is none that can be emitted to.
        BrokerUnavailable: some clients may have got it.
    """
    try:
        target = Target(emitter, request.namespace).to(*request.rooms).except_(*request.excluded)
        await (target.volatile if request.volatile else target).emit(request.event, *request.args)
    except (AnswerError, ReservedEvent, RoomIsDeclared, UnknownNamespace, TypeError) as error:
        raise bad_request(str(error)) from None
