"""
What clients ask of a namespace: CONNECT, events and DISCONNECT become calls of the session and of the application.

Runs in the worker, inside the task of one session. Commands begin in the order in which their packets came; handlers of
events run beside one another. Acknowledgements by clients are no commands: a handler may await one (namespaces.py).
What a command means is in session/ and application/; nothing here decides about rooms, tokens or rates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from realtime import codes
from realtime.codes import ErrorCode
from realtime.errors import BrokerUnavailable, ClientError, Disconnect, Reject, TokenUnverified
from realtime.log_lines import log
from realtime.protocol.socketio.namespace_transport import NamespaceTransport, connect_packet
from realtime.session import metering, requests
from realtime.session.requests import Connected
from realtime.session.session import Session

NO_HANDLER: Final = (codes.METHOD_NOT_FOUND.code, "event not found")
CLIENT_LEFT: Final = "client namespace disconnect"
CLIENT_LEFT_CODE: Final = 1000  # the client said goodbye

logger = logging.getLogger("realtime.session")


class Connect(Struct, frozen=True):
    """CONNECT. `auth` is the JSON text of its object; None where the client sent none."""

    auth: bytes | None


class ClientEvent(Struct, frozen=True):
    """An event. `name`: None where it is a number, which no handler has. `number`: of the acknowledgement wanted."""

    name: str | None
    args: Sequence[Any]
    number: int | None


class Leave(Struct, frozen=True):
    """DISCONNECT."""


Command: TypeAlias = Connect | ClientEvent | Leave


class EventWording(Protocol):
    """How answers are written: of a dialect, as commands need it."""

    namespace: str

    def acknowledgement(self, number: int, values: bytes) -> bytes: ...

    def refused(self, refusal: bytes) -> bytes: ...


async def execute(wording: EventWording, session: Session, command: Command) -> None:
    """
    Run one command, and answer it, also where it failed. It is a method of the dialect, written here.

    Raises:
        Disconnect: the connection has to end.
    """
    if isinstance(command, ClientEvent):
        session.publish_concurrently(_event(wording, session, command))
    elif isinstance(command, Connect):
        await _connect(wording, session, command)
    else:
        if not session.services.begin.is_eager:
            await asyncio.sleep(0)  # handlers of events that came before begin first
        session.connection_lost(CLIENT_LEFT_CODE, CLIENT_LEFT)


# CONNECT


async def _connect(wording: EventWording, session: Session, command: Connect) -> None:
    """Admit the client, or refuse it. Where it may come back by itself, its connection is closed instead."""
    transport = session.transport
    assert isinstance(transport, NamespaceTransport), "a session of this protocol has no other transport"
    try:
        token, data = _token_in(command.auth) if session.services.tokens.are_configured else ("", command.auth)
        await requests.connect(
            session,
            lambda connected: _admitted(session, transport, connected),
            token=token,
            data=data,
            entering=session.join_all,
        )
    except Disconnect as end:
        if codes.comes_back(end.code):
            raise
        _refuse(wording, session, transport, {"message": end.reason, "data": {"code": end.code}})
    except ClientError as error:
        _refuse(wording, session, transport, _refusal(error))
    except (BrokerUnavailable, TokenUnverified) as error:
        log(logger, logging.WARNING, "connect failed", **session.state.log_fields, reason=error)
        raise codes.SERVER_ERROR.error() from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        _log_failed(session, "connect", reason="it waited for something that was cancelled")
        _refuse(wording, session, transport, _internal())
    except Exception:  # noqa: BLE001 - logged with its traceback
        _log_failed(session, "connect")
        _refuse(wording, session, transport, _internal())


def _token_in(auth: bytes | None) -> tuple[str, bytes | None]:
    """Return the token in what a client sent with CONNECT, and the rest of it. No handler and no log sees a token."""
    if auth is None:
        return "", None
    fields = msgspec.json.decode(auth, type=dict[str, msgspec.Raw])
    token = fields.pop("token", None)
    if token is None:
        return "", auth
    try:
        return msgspec.json.decode(token, type=str), msgspec.json.encode(fields)
    except msgspec.DecodeError:
        raise codes.BAD_REQUEST.error() from None


def _admitted(session: Session, transport: NamespaceTransport, connected: Connected) -> None:
    """Answer CONNECT. What the handler returned is not in the answer, for clients show nothing but its `sid`."""
    if transport.is_overfull:
        session.finish(codes.SLOW)
        return
    transport.open(connect_packet(transport.namespace, session.connection.id))


def _refuse(wording: EventWording, session: Session, transport: NamespaceTransport, refusal: dict[str, Any]) -> None:
    """Answer CONNECT with an error, and end the session. The connection and its other namespaces stay."""
    if not session.is_open:
        return
    transport.refuse(wording.refused(_said(refusal)))
    session.connection_lost(codes.DENIED.code, codes.DENIED.reason)
    transport.close(codes.DENIED.code, codes.DENIED.reason)


def _refusal(error: ClientError) -> dict[str, Any]:
    """Return what a client gets that is refused: the words, and the application's data or the code."""
    if not isinstance(error, Reject) or (error.data is None and not error.is_bare):
        return {"message": error.message, "data": _about(error)}
    return {"message": error.message} if error.data is None else {"message": error.message, "data": error.data}


def _said(refusal: dict[str, Any]) -> bytes:
    """Return a refusal as a JSON text; without its data where JSON cannot say them."""
    try:
        return msgspec.json.encode(refusal)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        log(logger, logging.ERROR, "data of a refusal left out", reason="JSON cannot say them")
        return msgspec.json.encode({"message": refusal["message"]})


def _about(error: ClientError | ErrorCode) -> dict[str, Any]:
    """Return what a client's program gets to know of an error."""
    return {"code": error.code, "temporary": True} if error.temporary else {"code": error.code}


def _internal() -> dict[str, Any]:
    return {"message": codes.INTERNAL.message, "data": _about(codes.INTERNAL)}


# Events


async def _event(wording: EventWording, session: Session, event: ClientEvent) -> None:
    """
    Run the handler of an event, and acknowledge it where the client wants that. It runs as a task of its own, so it
    raises nothing.
    """
    number = event.number
    try:
        if session.services.commands is not None:
            metering.count_command(session.services, session.state, has_answer=number is not None)
        if event.name is None:
            raise ClientError(*NO_HANDLER)
        values = await session.services.application.take_event(
            session.connection, event.name, event.args, wants_answer=number is not None
        )
        if number is not None and values is not None:
            session.write(wording.acknowledgement(number, values))
    except Disconnect as end:
        session.end(end.code, end.reason)
    except ClientError as error:
        _fail(wording, session, event, error, error)
    except BrokerUnavailable as error:
        level = logging.WARNING if session.services.hub.is_served else logging.DEBUG
        log(logger, level, "event failed", connection=session.connection_id, name=event.name, reason=error)
        _fail(wording, session, event, codes.UNAVAILABLE)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        _log_failed(session, event.name or "", reason="it waited for something that was cancelled")
        _fail(wording, session, event, codes.INTERNAL)
    except Exception:  # noqa: BLE001 - logged with its traceback
        _log_failed(session, event.name or "")
        _fail(wording, session, event, codes.INTERNAL)


def _fail(
    wording: EventWording,
    session: Session,
    event: ClientEvent,
    error: ClientError | ErrorCode,
    refusal: ClientError | None = None,
) -> None:
    """
    Acknowledge an event with an error: one argument, `{"error": {"code": …, "message": …}}`. Where the client wants no
    acknowledgement it gets nothing, so the log has the refusal.
    """
    if event.number is None:
        if refusal is not None:
            session.log_refusal("event", refusal, name=event.name or "")
        return
    said = {"message": error.message, **_about(error)}
    if isinstance(error, Reject) and error.data is not None:
        said["data"] = error.data
    try:
        values = msgspec.json.encode([{"error": said}])
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        del said["data"]
        values = msgspec.json.encode([{"error": said}])
    session.write(wording.acknowledgement(event.number, values))


def _log_failed(session: Session, event: str, reason: str | None = None) -> None:
    """Log the exception that is being handled: a fault of the application or of ours."""
    fields = {} if reason is None else {"reason": reason}
    log(logger, logging.ERROR, "event failed", connection=session.connection_id, name=event, **fields, exc_info=True)
