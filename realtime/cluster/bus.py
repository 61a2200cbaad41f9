"""
`ClusterBus`: messages between the workers of all machines, about sessions that are elsewhere.

Runs in the worker. A client's request can reach another worker than the one that has its stream, and a program that
calls the API knows only a user's name. Both become a message (messages.py), which goes to one worker or to all
(mailbox.py). What a message asks for is done here, on this worker's sessions. It never decides which program may send
one: the API and the application do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import Final, Protocol

import msgspec

from realtime import codes
from realtime.auth.revocation import KEPT_S, MOST, Revocation, Revoked
from realtime.broker.base import Broker, Position, PublishRequest, Retention, Room, WorkerId
from realtime.broker.unreadable import Unreadable
from realtime.cluster.gathering import Gathering
from realtime.cluster.in_transit import InTransit, UserMessage
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.messages import (
    CalledGroup,
    CallGroup,
    DisconnectUser,
    EmitEvent,
    EmulatedInput,
    EndGroup,
    FindGroup,
    FoundGroup,
    Group,
    InputReceived,
    Message,
    MoveGroup,
    RefreshUser,
    Revoke,
    SubscribeUser,
    SurveyReply,
    SurveyRequest,
    UnsubscribeUser,
    decode,
    encode,
)
from realtime.cluster.sockets import LocalRooms, LocalSockets, Outboxes, place_of
from realtime.errors import BrokerUnavailable, ClientError, UnknownChannel
from realtime.log_lines import log
from realtime.rooms.event_rooms import is_event_room
from realtime.session.registry import Home, LocalSession, Registry
from realtime.tasks import SideTasks

SURVEY_S: Final = 2.0  # for all workers to answer
RECEIPT_S: Final = 2.0  # for one worker to say that it received a message; an SDK gives a command up after 5 s
CLOSE_S: Final = 1.0  # for the answers that are under way when a worker ends

REVOCATIONS: Final = Room("\0revoked")  # the stream of what is revoked
REVOCATIONS_KEPT: Final = Retention(MOST, KEPT_S, 2 * KEPT_S)

# What a worker's id looks like: its node, its slot, and what no other process has (sticky/supervision/launcher.py).
# Clients send such ids back; with another text a client could write to all workers, or to a room that is no mailbox.
WORKER: Final = re.compile(r"[^\0]{1,255}-\d+-[0-9a-f]{8}")

logger = logging.getLogger("realtime.cluster")


class BusRooms(LocalRooms, Protocol):
    """The rooms of this worker, and how many members each has here: the hub's registry."""

    def sizes(self) -> dict[Room, int]: ...


class ClusterBus:
    """Sends messages, and does what those ask for that arrive. The owner must call `start` and `close`."""

    def __init__(
        self,
        home: Home,
        broker: Broker,
        mailbox: Mailbox,
        rooms: BusRooms,
        outboxes: Outboxes,
        sessions: Registry,
        revoked: Revoked,
    ) -> None:
        """
        Args:
            home: this worker, which answers requests and gets what is meant for it.
            broker: knows the workers, and keeps what is revoked.
            mailbox: of this worker, not open yet.
            rooms: of this worker.
            outboxes: of its rooms.
            sessions: of this worker: what messages ask for is done to these.
            revoked: which tokens this worker refuses.
        """
        self._home = home
        self._broker = broker
        self._mailbox = mailbox
        self._rooms = rooms
        self._sessions = sessions
        self._revoked = revoked
        self._tasks = SideTasks(logger)
        self._sockets = LocalSockets(home, rooms, outboxes, sessions, self._tasks)
        self._gathering = Gathering(broker, mailbox)
        self._started_s = time.time()
        self._surveys: dict[int, tuple[list[SurveyReply], asyncio.Event]] = {}
        self._receipts: dict[int, asyncio.Future[bool]] = {}  # of input that was sent and is not confirmed
        self._number = 0  # of the latest message that has an answer
        self._unreadable = Unreadable()
        self._in_transit = InTransit()

    async def start(self) -> None:
        """
        Receive messages from now on. The broker must have started.

        Raises:
            BrokerUnavailable: nothing is received.
        """
        await self._mailbox.open(self.receive)

    async def close(self) -> None:
        """Give answers that are under way some time, and begin no others. Comes before the broker is closed."""
        await self._tasks.close(CLOSE_S)

    # Sending

    async def deliver(self, worker: str, stream_id: str, data: bytes) -> bool:
        """
        Bring what a client sent to its session, and return once it is there: what the client sends after that comes
        after it, whichever worker it reaches. Return False where there is no such worker or session, or the worker
        does not say so in time.

        Raises:
            BrokerUnavailable: the session is on another worker, which cannot be reached.
        """
        if worker == self._home.worker:
            return self._sessions.receive(stream_id, data)
        if not WORKER.fullmatch(worker):
            return False
        self._number += 1
        number = self._number
        assert number not in self._receipts, "a number is given once, so no receipt is for another message"
        receipt = self._receipts[number] = asyncio.get_running_loop().create_future()
        try:
            await self._mailbox.send(
                WorkerId(worker), encode(EmulatedInput(stream_id, data, self._home.worker, number))
            )
            async with asyncio.timeout(RECEIPT_S):
                is_here: bool = await receipt
                return is_here
        except TimeoutError:
            log(logger, logging.DEBUG, "- input not confirmed", worker=worker, within_s=RECEIPT_S)
            return False
        finally:
            del self._receipts[number]

    async def send_all(self, message: Message) -> None:
        """
        Have every worker of every machine do something.

        Raises:
            BrokerUnavailable: some may have received it.
        """
        await self._mailbox.send(None, encode(message))

    async def send_here(self, message: Message) -> None:
        """
        Have this worker alone do something. The message goes through the broker, so that it stays behind what was sent
        to all before.

        Raises:
            BrokerUnavailable: this worker may have received it.
        """
        await self._mailbox.send(WorkerId(self._home.worker), encode(message))

    async def find_group(self, group: Group, *, is_local: bool) -> list[FoundGroup]:
        """
        Return the connections of a group, by worker. A worker that does not answer in time is left out, and the log
        says so.

        Raises:
            BrokerUnavailable: no worker can be asked.
        """
        replies, missing = await self._gathering.ask(
            lambda number: FindGroup(self._home.worker, number, group), SURVEY_S, only=self._only(is_local)
        )
        if missing:
            log(logger, logging.WARNING, "- connections incomplete", missing=missing, within_s=SURVEY_S)
        found = [each for each in replies if isinstance(each, FoundGroup)]
        return sorted(found, key=lambda each: (each.node, each.slot))

    async def call_group(
        self, group: Group, event: bytes, within_s: float, *, is_local: bool
    ) -> tuple[list[CalledGroup], list[WorkerId]]:
        """
        Send an event to the connections of a group, and return what they acknowledged with, by worker; and the workers
        that did not answer, of whose connections nothing is known.

        Raises:
            BrokerUnavailable: some connections may have got it.
        """
        replies, missing = await self._gathering.ask(
            lambda number: CallGroup(self._home.worker, number, group, event, within_s),
            within_s + RECEIPT_S,
            only=self._only(is_local),
        )
        return [each for each in replies if isinstance(each, CalledGroup)], missing

    def _only(self, is_local: bool) -> WorkerId | None:
        return WorkerId(self._home.worker) if is_local else None

    @property
    def worker(self) -> str:
        """The id of this worker."""
        return self._home.worker

    def session(self, connection_id: str) -> LocalSession | None:
        """Return the session of a connection that this worker serves; None for any other."""
        return self._sessions.by_id(connection_id)

    async def revoke(self, *, token: str = "", user: str = "", before_s: float = 0.0, until_s: float = 0.0) -> None:
        """
        Refuse tokens from now on, on all workers, and have those connect anew whose connection stands on one.

        Args:
            token: the `jti` of the one that is revoked; else
            user: whose tokens are, all that were issued before
            before_s: this moment, in Unix time; 0 for now.
            until_s: when the last of them has expired, and this may be forgotten; 0 for in 30 days.

        Raises:
            BrokerUnavailable: some workers may know of it; the caller has to repeat it.
        """
        now_s = time.time()
        what = Revocation(until_s or now_s + KEPT_S, token, "" if token else user, 0.0 if token else before_s or now_s)
        await self._broker.publish(PublishRequest(REVOCATIONS, msgspec.msgpack.encode(what), REVOCATIONS_KEPT))
        await self.send_all(Revoke(what))

    async def survey(self, user: str | None = None) -> list[SurveyReply]:
        """
        Ask every worker what it serves, or for the connections of a user. A worker that does not answer in time is
        left out, and the log says so.

        Raises:
            BrokerUnavailable: no worker can be asked.
        """
        expected = len(await self._broker.workers())
        self._number += 1
        number = self._number
        assert number not in self._surveys, "a number is given once, so no answer reaches another question"
        replies, more = self._surveys[number] = ([], asyncio.Event())
        try:
            await self._mailbox.send(None, encode(SurveyRequest(self._home.worker, number, user)))
            async with asyncio.timeout(SURVEY_S):
                while len(replies) < expected:
                    await more.wait()
                    more.clear()
        except TimeoutError:
            log(
                logger,
                logging.WARNING,
                "- survey incomplete",
                answers=len(replies),
                workers=expected,
                within_s=SURVEY_S,
            )
        finally:
            del self._surveys[number]
        return sorted(replies, key=lambda each: (each.node, each.slot))

    # Receiving

    def receive(self, data: bytes) -> None:
        """Do what a message asks for, or give an answer to the call that waits for it."""
        try:
            message = decode(data)
        except msgspec.MsgspecError as error:
            self._unreadable.note("message of a worker", error)
            return
        if isinstance(message, EmitEvent):
            self._sockets.emit(message)
        elif isinstance(message, MoveGroup | EndGroup | FindGroup | FoundGroup | CallGroup | CalledGroup):
            self._receive_of_group(message)
        elif isinstance(message, EmulatedInput):
            received = InputReceived(message.number, self._sessions.receive(message.stream_id, message.data))
            self._tasks.spawn(self._answer(message.asker, received))
        elif isinstance(message, InputReceived):
            receipt = self._receipts.get(message.number)
            if receipt is not None and not receipt.done():
                receipt.set_result(message.is_here)
        elif isinstance(message, SurveyRequest):
            self._tasks.spawn(self._answer(message.asker, self._reply_to(message)))
        elif isinstance(message, SurveyReply):
            if message.number in self._surveys:
                replies, more = self._surveys[message.number]
                replies.append(message)
                more.set()
        elif isinstance(message, Revoke):
            self.receive_revocation(message.revocation)
        else:
            for worker, each in self._in_transit.note(message, time.monotonic()):
                self._tasks.spawn(self._forward(worker, each))
            self._do(message)

    def _receive_of_group(
        self, message: MoveGroup | EndGroup | FindGroup | FoundGroup | CallGroup | CalledGroup
    ) -> None:
        """Do what a message asks for to a group of connections, or take an answer."""
        if isinstance(message, MoveGroup):
            self._sockets.move(message)
        elif isinstance(message, EndGroup):
            self._sockets.end(message)
        elif isinstance(message, FindGroup):
            self._tasks.spawn(self._answer(message.asker, self._sockets.find(message)))
        elif isinstance(message, CallGroup):
            self._tasks.spawn(self._call(message))
        else:
            self._gathering.answered(message)

    async def _call(self, request: CallGroup) -> None:
        """Call the connections of a group that are here, and answer."""
        await self._answer(request.asker, await self._sockets.call(request))

    def _do(self, message: UserMessage) -> None:
        """Do what a message asks for to the sessions of its user that are here."""
        if isinstance(message, DisconnectUser):
            self._sessions.disconnect(
                message.user,
                message.connection_id,
                message.code,
                message.reason,
                stream_id=message.stream_id,
                keep=message.keep,
            )
        else:
            for session in self._sessions.find(message.user, message.connection_id, message.stream_id):
                self._apply(message, session)

    # Connections that move

    def leaves(self, user: str, connection_id: str) -> None:
        """Keep messages for a connection that goes to another worker. `arrived` or `returned` must follow."""
        self._in_transit.leaves(user, connection_id)

    def arrived(self, user: str, connection_id: str, worker: str) -> None:
        """Send what came for a connection to the worker that has it now."""
        for message in self._in_transit.arrived(user, connection_id, worker, time.monotonic()):
            self._tasks.spawn(self._forward(worker, message))

    def returned(self, user: str, connection_id: str) -> None:
        """Do what came for a connection that this worker goes on with; nothing where it has ended."""
        for message in self._in_transit.returned(user, connection_id):
            self._do(message)

    async def _forward(self, worker: str, message: UserMessage) -> None:
        """Send a message to the worker that has its connection now."""
        try:
            await self._mailbox.send(WorkerId(worker), encode(message))
        except BrokerUnavailable as error:
            log(logger, logging.WARNING, "message not forwarded", worker=worker, user=message.user, reason=error)

    def receive_revocation(self, revocation: Revocation) -> None:
        """Refuse what is revoked here, and end the connections that stand on it; they may come with another token."""
        now_s = time.time()
        self._revoked.add(revocation, now_s)
        for session in self._sessions:
            claims = session.connection.claims
            if claims is not None and self._revoked.covers(claims, now_s):
                session.end(codes.CONNECTION_EXPIRED.code, codes.CONNECTION_EXPIRED.reason)

    def _reply_to(self, request: SurveyRequest) -> SurveyReply:
        """Return what this worker serves, or its connections of one user."""
        home = self._home
        reply = SurveyReply(request.number, home.worker, home.node, home.slot, self._started_s, release=home.version)
        if request.user is None:
            clients, users = self._sessions.counts()
            rooms = {str(room): size for room, size in self._rooms.sizes().items() if not is_event_room(room)}
            return msgspec.structs.replace(reply, clients=clients, users=users, rooms=rooms)
        places = [place_of(each) for each in self._sessions.find(request.user)]
        return msgspec.structs.replace(reply, places=places)

    async def _answer(self, asker: str, answer: Message) -> None:
        """Send an answer to the worker that asked. That worker does without it when it is lost."""
        try:
            await self._mailbox.send(WorkerId(asker), encode(answer))
        except BrokerUnavailable as error:
            log(logger, logging.WARNING, "message not answered", worker=asker, reason=error)

    def _apply(self, message: SubscribeUser | UnsubscribeUser | RefreshUser, session: LocalSession) -> None:
        """Do what a message asks for to one session here. What has to be awaited runs as a task of the bus."""
        if isinstance(message, RefreshUser):
            session.refresh(message.expire_at_s)
        elif isinstance(message, UnsubscribeUser):
            self._tasks.spawn(_unsubscribe(session, message))
        else:
            self._tasks.spawn(_subscribe(session, message))


async def _subscribe(session: LocalSession, message: SubscribeUser) -> None:
    """Put a client into a room. The program that asked has its answer already, so a refusal goes to the log alone."""
    since = None if message.since is None else Position(*message.since)
    try:
        await session.grant(
            Room(message.room), expire_at_s=message.expire_at_s, info=message.info, data=message.data, since=since
        )
    except ClientError as error:
        session.log_refusal("subscription", error, room=message.room)


async def _unsubscribe(session: LocalSession, message: UnsubscribeUser) -> None:
    """Take a client out of a room."""
    # The room may be one of older code, and another connection of the user in it: this one has nothing to leave.
    with contextlib.suppress(UnknownChannel):
        await session.connection.unsubscribe(message.room)
