"""
What workers say to each other: commands for sessions that are elsewhere.

Runs in the worker. A client's request can reach another worker than the one that has its stream, and a program that
calls the API knows only a user's name; both become a letter, which the hub brings to one worker or to all, of every
machine (`Hub.mail`). A letter is plain data in msgpack. What it asks for is done here, on this worker's sessions.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Final

import msgspec

from realtime import codes
from realtime.auth.revocation import KEPT_S, MOST, Revocation, Revoked
from realtime.broker.base import Position, Retention, Room, WorkerId
from realtime.errors import BrokerUnavailable, ClientError
from realtime.rooms.hub import Hub
from realtime.session.registry import Home, LocalSession, Registry

SURVEY_S: Final = 2.0  # for all workers to answer
TAKEN_S: Final = 2.0  # for one worker to say that it took a letter; an SDK gives a command up after 5 s

REVOCATIONS: Final = Room("\0revoked")  # the stream of what is revoked
REVOCATIONS_KEPT: Final = Retention(MOST, KEPT_S, 2 * KEPT_S)

# What a worker's id looks like: its node, its slot, and what no other process has (sticky/launcher.py). Clients send
# such ids back; with another text one could write to all workers, or to who is none.
WORKER: Final = re.compile(r"[^\0]{1,255}-\d+-[0-9a-f]{8}")

logger = logging.getLogger("realtime.post")


class Emulated(msgspec.Struct, frozen=True, tag="e", array_like=True):
    """What a client sent beside its stream, to another worker: `asker`, who is answered."""

    session: str
    data: bytes
    asker: str
    number: int


class Taken(msgspec.Struct, frozen=True, tag="k", array_like=True):
    """What was sent beside a stream has reached its session, or there is no such session."""

    number: int
    is_here: bool


class Disconnect(msgspec.Struct, frozen=True, tag="d", array_like=True):
    """A user's connections are to end: all, or the one `client`, or the one of `session`; but none of `keep`."""

    user: str
    client: str = ""
    keep: tuple[str, ...] = ()
    code: int = 3503
    reason: str = "force disconnect"
    session: str = ""


class Subscribe(msgspec.Struct, frozen=True, tag="s", array_like=True):
    """
    A user's connections are to be in a room: until `expire_at_s` (Unix time; None: until they end), shown to others
    with `info`, notified with `data`, and given what was published after `since`, an epoch and an offset.
    """

    user: str
    room: str
    client: str = ""
    session: str = ""
    expire_at_s: float | None = None
    info: bytes | None = None
    data: bytes | None = None
    since: tuple[str, int] | None = None


class Unsubscribe(msgspec.Struct, frozen=True, tag="u", array_like=True):
    """A user's connections are not to be in a room."""

    user: str
    room: str
    client: str = ""
    session: str = ""


class Refresh(msgspec.Struct, frozen=True, tag="r", array_like=True):
    """A user's connections expire at another time: Unix seconds, 0 for now and None for never."""

    user: str
    client: str = ""
    expire_at_s: float | None = None
    session: str = ""


class Revoke(msgspec.Struct, frozen=True, tag="v", array_like=True):
    """Tokens are not good any more."""

    revocation: Revocation


class Question(msgspec.Struct, frozen=True, tag="q", array_like=True):
    """Asks every worker what it has; the answer goes to `asker`. With `user`: where that user is."""

    asker: str
    number: int
    user: str | None = None


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One connection of a user."""

    client: str
    address: str
    rooms: list[str]
    transport: str = ""
    protocol: str = ""


class Told(msgspec.Struct, frozen=True, tag="t", array_like=True):
    """What one worker has."""

    number: int
    worker: str
    node: str
    slot: int
    since_s: float
    clients: int = 0
    users: int = 0
    rooms: dict[str, int] = {}
    places: list[Place] = []


Letter = Emulated | Taken | Disconnect | Subscribe | Unsubscribe | Refresh | Revoke | Question | Told

_decode = msgspec.msgpack.Decoder(Letter).decode
_encode = msgspec.msgpack.Encoder().encode


class ClusterBus:
    """Sends letters, and does what those ask for that come."""

    def __init__(self, home: Home, sessions: Registry, revoked: Revoked) -> None:
        """
        Args:
            home: this worker, which answers questions and gets what is meant for it.
            sessions: what letters ask for is done to these.
            revoked: which tokens this worker refuses.
        """
        self._home = home
        self._sessions = sessions
        self._revoked = revoked
        self._hub: Hub | None = None
        self._begun_s = time.time()
        self._questions: dict[int, tuple[list[Told], asyncio.Event]] = {}
        self._untaken: dict[int, asyncio.Future[bool]] = {}
        self._number = 0

    def serve(self, hub: Hub) -> None:
        """Say what carries letters. Comes before the hub starts."""
        self._hub = hub

    async def deliver(self, worker: str, session: str, data: bytes) -> bool:
        """
        Bring what a client sent to its session, and return once it is there: what the client sends after that comes
        after it, whichever worker it reaches. Return False where there is no such worker or session, or the worker
        does not say so in time.

        Raises:
            BrokerUnavailable: the session is of another worker, which cannot be reached.
        """
        assert self._hub is not None, "it serves"
        if worker == self._home.worker:
            return self._sessions.receive(session, data)
        if not WORKER.fullmatch(worker):
            return False
        self._number += 1
        number = self._number
        taken = self._untaken[number] = asyncio.get_running_loop().create_future()
        try:
            await self._hub.mail(WorkerId(worker), _encode(Emulated(session, data, self._home.worker, number)))
            async with asyncio.timeout(TAKEN_S):
                is_here: bool = await taken
                return is_here
        except TimeoutError:
            logger.debug("! %s took nothing of what a client sent", worker)
            return False
        finally:
            del self._untaken[number]

    async def tell_all(self, letter: Letter) -> None:
        """
        Have every worker of every machine do something.

        Raises:
            BrokerUnavailable: some may have been told.
        """
        assert self._hub is not None, "it serves"
        await self._hub.mail(None, _encode(letter))

    async def revoke(self, *, token: str = "", user: str = "", before_s: float = 0.0, until_s: float = 0.0) -> None:
        """
        Refuse tokens from now on, on all workers, and have those connect anew whose connection stands on one.

        Args:
            token: the `jti` of the one that is revoked; else
            user: whose tokens are, all that were issued before
            before_s: this moment, in Unix time; 0 for now.
            until_s: when the last of them has expired, and this may be forgotten; 0 for in 30 days.

        Raises:
            BrokerUnavailable: some workers may know of it; it is to be repeated.
        """
        assert self._hub is not None, "it serves"
        now_s = time.time()
        what = Revocation(until_s or now_s + KEPT_S, token, "" if token else user, 0.0 if token else before_s or now_s)
        await self._hub.keep(REVOCATIONS, msgspec.msgpack.encode(what), REVOCATIONS_KEPT)
        await self.tell_all(Revoke(what))

    def take_revocation(self, revocation: Revocation) -> None:
        """Refuse what is revoked here, and end the connections that stand on it; they may come with another token."""
        now_s = time.time()
        self._revoked.add(revocation, now_s)
        for session in self._sessions:
            claims = session.connection.claims
            if claims is not None and self._revoked.covers(claims, now_s):
                session.end(codes.CONNECTION_EXPIRED.code, codes.CONNECTION_EXPIRED.reason)

    async def survey(self, user: str | None = None) -> list[Told]:
        """
        Ask every worker what it has, or where a user is. One that does not answer in time is left out.

        Raises:
            BrokerUnavailable: nobody can be asked.
        """
        assert self._hub is not None, "it serves"
        expected = len(await self._hub.workers())
        self._number += 1
        number = self._number
        told, more = self._questions[number] = ([], asyncio.Event())
        try:
            await self._hub.mail(None, _encode(Question(self._home.worker, number, user)))
            async with asyncio.timeout(SURVEY_S):
                while len(told) < expected:
                    await more.wait()
                    more.clear()
        except TimeoutError:
            logger.warning("! %d of %d workers did not answer", expected - len(told), expected)
        finally:
            del self._questions[number]
        return sorted(told, key=lambda each: (each.node, each.slot))

    def receive(self, message: bytes) -> None:
        """Do what a letter asks for."""
        letter = _decode(message)
        if isinstance(letter, Emulated):
            assert self._hub is not None, "it serves"
            taken = Taken(letter.number, self._sessions.receive(letter.session, letter.data))
            self._hub.spawn(self._reply(letter.asker, taken))
            return
        if isinstance(letter, Taken):
            waiting = self._untaken.get(letter.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(letter.is_here)
            return
        if isinstance(letter, Question):
            assert self._hub is not None, "it serves"
            self._hub.spawn(self._tell(letter))
            return
        if isinstance(letter, Told):
            if letter.number in self._questions:
                told, more = self._questions[letter.number]
                told.append(letter)
                more.set()
            return
        if isinstance(letter, Revoke):
            self.take_revocation(letter.revocation)
            return
        if isinstance(letter, Disconnect):
            self._sessions.disconnect(
                letter.user, letter.client, letter.code, letter.reason, stream_id=letter.session, keep=letter.keep
            )
            return
        for session in self._sessions.find(letter.user, letter.client, letter.session):
            self._do(letter, session)

    async def _tell(self, question: Question) -> None:
        assert self._hub is not None, "it serves"
        home = self._home
        answer = Told(question.number, home.worker, home.node, home.slot, self._begun_s)
        if question.user is None:
            clients, users = self._sessions.counts()
            rooms = {str(room): size for room, size in self._hub.sizes().items()}
            answer = msgspec.structs.replace(answer, clients=clients, users=users, rooms=rooms)
        else:
            places = [
                Place(
                    each.connection.id,
                    each.connection.address,
                    sorted(each.connection.rooms),
                    each.connection.transport,
                    each.protocol_name,
                )
                for each in self._sessions.find(question.user)
            ]
            answer = msgspec.structs.replace(answer, places=places)
        await self._reply(question.asker, answer)

    async def _reply(self, asker: str, answer: Letter) -> None:
        assert self._hub is not None, "it serves"
        try:
            await self._hub.mail(WorkerId(asker), _encode(answer))
        except BrokerUnavailable as error:
            logger.warning("! a letter of %s is not answered: %s", asker, error)

    def _do(self, letter: Subscribe | Unsubscribe | Refresh, session: LocalSession) -> None:
        assert self._hub is not None, "it serves"
        if isinstance(letter, Refresh):
            session.refresh(letter.expire_at_s)
        elif isinstance(letter, Unsubscribe):
            self._hub.spawn(session.connection.unsubscribe(letter.room))
        else:
            self._hub.spawn(_subscribe(session, letter))


async def _subscribe(session: LocalSession, letter: Subscribe) -> None:
    since = None if letter.since is None else Position(*letter.since)
    try:
        await session.grant(
            Room(letter.room), expire_at_s=letter.expire_at_s, info=letter.info, data=letter.data, since=since
        )
    except ClientError as error:
        session.log_refusal(f"room {letter.room}", error)
