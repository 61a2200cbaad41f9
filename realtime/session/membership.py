"""
How a client comes into rooms, and how the server takes it out of one.

Runs in the worker, on its event loop: inside the session's commands, and where the server begins or ends a
subscription. It enters rooms by the hub, notifies the client, and keeps the client's rooms in the session's state.
It owns no task and decodes no message. How a subscription ends is in subscriber.py.

**A subscription begins in one turn of the event loop.** The hub gives a pending subscription; then, without `await`:

    commit      what the answer says, or that there is none: publications were lost just now
    answer      written by the wire protocol
    activate    from here on publications are written behind the answer

While it is pending, the room stands in `entering`. If the room is left meanwhile, that is noted there, and done later.
A room that the client lost for a reason that passes is kept in `state.lost`: requests there fail only for now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime import codes
from realtime.broker.base import ClientInfo, ConnectionId, Position, Room
from realtime.codes import UnsubscribeCode
from realtime.errors import ClientError
from realtime.json_text import one_line
from realtime.rooms.fanout import Accepts
from realtime.rooms.options import RoomOptions
from realtime.rooms.pending import Insufficient, PendingState
from realtime.session import claims, metering
from realtime.session.base import Dialect, Services, Subscribed
from realtime.session.entry import Entry, check_filter, subscribed
from realtime.session.state import NOTHING, Phase, SessionState, Subscription
from realtime.session.subscriber import RoomSubscriber
from realtime.session.tags import FilterNode, compile_filter
from realtime.transport.base import Transport

# After these an SDK subscribes again by itself: with another token, and from the stream's top.
COMES_AGAIN: Final = frozenset((codes.TOKEN_EXPIRED.code, codes.UNRECOVERABLE.code))

PRIVATE: Final = "$"  # a room of this prefix needs a subscription token


class Member(RoomSubscriber):
    """A client that comes into rooms."""

    __slots__ = ("_idle", "entering")

    def __init__(self, services: Services, dialect: Dialect, transport: Transport, state: SessionState) -> None:
        super().__init__(services, dialect, transport, state)
        # Rooms that are being entered, and how each is to be left again: what was asked for meanwhile.
        self.entering: dict[Room, UnsubscribeCode | None] = {}
        self._idle: asyncio.Event | None = None  # set once nothing is under way; only while `quiesce` waits

    # What a client asks

    async def subscribe(
        self,
        room: Room,
        answer: Callable[[Subscribed], int],
        *,
        token: str = "",
        data: bytes | None = None,
        since: Position | None = None,
        must_recover: bool = False,
        delta: bool = False,
        filter: FilterNode | None = None,
    ) -> None:
        """
        Subscribe the client, which asked for it.

        Args:
            room: its name was checked.
            answer: writes the answer, and returns its size in bytes. It is called once, in the turn in which the
                subscription begins; not where the connection has ended meanwhile.
            token: a subscription token.
            data: for the application's `on_subscribe`.
            since: the position from which the client wants to recover.
            must_recover: the subscription fails (112) where something was lost.
            delta: the client can take differences.
            filter: which publications it wants.

        Raises:
            ClientError: it is not subscribed; the code says why.
            Insufficient: it is not subscribed: publications were lost just now.
            BrokerUnavailable: it is not subscribed.
        """
        state, limits = self.state, self.services.limits
        self._check_room_limit(room)
        options = self.options_of(room)
        if filter is not None:
            check_filter(filter, options, delta=delta)
        if since is not None:
            metering.check_answer(self.services, state, recovers=True)
        subscription = Subscription(room, delta=options.delta and options.recover and delta, filter=filter)
        self.entering[room] = None  # before the first await: a second subscribe to it is refused from here on
        try:
            of_token = await self._authorise(subscription, token) if token or room.startswith(PRIVATE) else None
            of_handler = await self.services.application.subscribe(self.connection, room, data)
            entry = await self._enter(subscription, options, since=since)
            self._answer(entry, of_token if of_handler is None else of_handler, answer, must_recover=must_recover)
        except ClientError as error:
            if error.temporary or error.code in COMES_AGAIN:
                state.lose(room, limits)
            else:
                state.lost -= {room}  # it does not come back
            raise
        except Exception:  # a fault of ours, and answered as temporary
            state.lose(room, limits)
            raise
        finally:
            self._entered(room)

    def _check_room_limit(self, room: Room) -> None:
        """
        See that the client may enter another room.

        Raises:
            ClientError: it is in this one, or enters it now (105), or it has too many (106).
        """
        state, most = self.state, self.services.limits.rooms_per_connection
        if room in state.subscriptions or room in self.entering:
            raise codes.ALREADY_SUBSCRIBED.error()
        if len(state.subscriptions) + len(self.entering) >= most:
            metering.over(self.services, state, "rooms", f"more than {most} rooms")
            raise codes.LIMIT_EXCEEDED.error()

    async def _authorise(self, subscription: Subscription, token: str) -> bytes | None:
        """Check the subscription token, which has to be there; return the data that it carries."""
        if not token:
            raise codes.PERMISSION_DENIED.error()
        found = await claims.of_subscription(self.services, self.state.identity, subscription.room, token)
        subscription.chan_info = None if found.info is None else one_line(found.info)
        subscription.expire_at_s = found.expire_at_s
        return found.data

    def _answer(
        self, entry: Entry, data: bytes | None, answer: Callable[[Subscribed], int], *, must_recover: bool
    ) -> None:
        """
        Answer and activate, or cancel the entry. Not a coroutine: nothing may come between the answer and the first
        publication.
        """
        try:
            if not self.is_open:
                return
            joined = entry.pending.commit()
            wants = entry.pending.since is not None  # in a room that recovers; in others nothing can be lost
            if must_recover and wants and not joined.recovered:
                raise codes.UNRECOVERABLE.error()
            size = answer(subscribed(entry, joined, data))
            if joined.publications:
                metering.charge_answer(self.services, self.state, size)
            self._activate(entry)
        finally:
            if entry.pending.state is not PendingState.ACTIVE:
                self.services.hub.cancel(entry.pending)

    async def prolong(self, room: Room, token: str) -> Subscription:
        """
        Let a subscription live longer, by a newer token.

        Raises:
            ClientError: there is no subscription, or the token is not good for it.
            Disconnect: it never expires, or the token is another client's.
        """
        subscription = self.state.subscriptions.get(room)
        if subscription is None:
            raise codes.PERMISSION_DENIED.error()
        if not token:
            raise codes.BAD_REQUEST.error()
        if subscription.expire_at_s is None:
            raise codes.PROTOCOL.error()
        found = await claims.of_subscription(self.services, self.state.identity, room, token)
        subscription.expire_at_s = found.expire_at_s
        self.watch_expiry(subscription)
        return subscription

    # What the server gives

    async def enter(self, room: Room) -> None:
        """
        Subscribe the client from the server's side: with the answer to its connect, or now, with a notification.

        Raises:
            UnknownChannel: the room is not declared (102).
            ClientError: the client has too many rooms (106), or cannot receive what is published there (108).
        """
        self.options_of(room)  # refused in the application's line, and not when its handler is done
        if self.state.phase is Phase.CONNECTING:
            if self.state.granted is NOTHING:  # which all share
                self.state.granted = {}
            self.state.granted[room] = Subscription(room, server_side=True)
        elif self.state.phase is Phase.CONNECTED:
            await self._subscribe_from_server(Subscription(room, server_side=True))

    async def grant(
        self,
        room: Room,
        *,
        expire_at_s: float | None = None,
        info: bytes | None = None,
        data: bytes | None = None,
        since: Position | None = None,
    ) -> None:
        """
        Put an admitted client into a room from the server's side. One that was granted before is prolonged.

        Args:
            room: any declared one.
            expire_at_s: when it ends, in Unix time; None for never.
            info: JSON that others see of the client in this room.
            data: comes with the client's notification.
            since: what was published after it comes right behind, where the room still has it.

        Raises:
            ClientError: the room is not declared (102), or the client has too many (106).
        """
        before = self.state.subscriptions.get(room)
        if before is not None and before.server_side:
            before.expire_at_s = expire_at_s
            self.watch_expiry(before)
        elif self.state.phase is Phase.CONNECTED:
            granted = Subscription(room, server_side=True, chan_info=info, expire_at_s=expire_at_s)
            await self._subscribe_from_server(granted, data=data, since=since)

    async def _subscribe_from_server(
        self, subscription: Subscription, *, data: bytes | None = None, since: Position | None = None
    ) -> None:
        """
        Put a connected client into a room that it did not ask for, and notify it. Harmless where it is in the room.

        Without all that was published after `since`, the client begins at the stream's top: it has asked for nothing
        that it could miss.
        """
        room = self.room_named(subscription.room)
        if room in self.entering:
            self.entering[room] = None  # also if it was to be left again
            return
        if room in self.state.subscriptions:
            return
        if len(self.state.subscriptions) >= self.services.limits.rooms_per_connection:
            raise codes.LIMIT_EXCEEDED.error()
        self.entering[room] = None
        try:
            entry = await self._enter(subscription, self.options_of(room), since=since)
            try:
                if self.is_open:
                    self.write(self.dialect.subscribed(subscribed(entry, entry.pending.commit(), data)))
                    self._activate(entry)
            finally:
                self.services.hub.cancel(entry.pending)  # harmless for a member
        finally:
            self._entered(room)

    async def enter_granted(self, positions: Mapping[str, Position]) -> list[Entry]:
        """
        Enter the rooms that the server gave before the client was admitted. The caller must commit and activate them,
        or call `cancel`.

        Args:
            positions: from where the client recovers, by room.

        Returns:
            The entries, in the order in which the rooms were given.

        Raises:
            ClientError: a room is not declared, or not for this encoding. None is entered then.
            BrokerUnavailable: nor can one be entered now.
        """
        assert self.state.phase is Phase.CONNECTING, "an admitted client is put into a room at once"
        granted = [(each, self.options_of(each.room)) for each in self.state.granted.values()]
        entries = await self.enter_together(
            [self._enter(each, options, since=positions.get(each.room)) for each, options in granted]
        )
        self.state.granted = NOTHING
        return entries

    async def enter_together(self, entering: Sequence[Coroutine[Any, Any, Entry]]) -> list[Entry]:
        """
        Enter several rooms at a time, so that a client with many waits for the broker once, and not for each. Where
        one fails, or the caller is cancelled, all others are cancelled.
        """
        if len(entering) == 1:  # by far the most frequent, and needs no task
            return [await entering[0]]
        tasks = [asyncio.create_task(each) for each in entering]
        try:
            if tasks:
                await asyncio.wait(tasks)
            return [task.result() for task in tasks]
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.cancel([task.result() for task in tasks if not task.cancelled() and task.exception() is None])
            raise

    async def reenter(self, subscription: Subscription) -> Entry:
        """
        Enter a room in which the client is already, as it was elsewhere: from its position, and seen by others as
        before. The caller must `continue_in` it or cancel it.
        """
        assert subscription.room in self.state.subscriptions, "the state came with the subscription"
        options, shown = self.options_of(subscription.room), subscription.shown
        hub = self.services.hub
        if (local := hub.registry.rooms.get(subscription.room)) is not None:
            hub.delivery.announce_deferred(local)  # the other worker did so, too: from here on all that follows is new
        entry = await self._enter(subscription, options.unseen(), since=subscription.position)
        if options.presence or options.has_leave_hooks:
            subscription.shown = shown or self.state.identity.id  # it was declared otherwise elsewhere
            try:
                await self.services.hub.departures.take_over(subscription.room, options, self._described(subscription))
            except BaseException:
                self.services.hub.cancel(entry.pending)
                raise
        return entry

    def continue_in(self, entries: list[Entry]) -> None:
        """
        Make the client a member where it was one elsewhere: it gets what it missed, as publications, and is not
        notified of anything else. Where something was lost to it, it is removed as by any loss. That can end the
        session, which leaves the rooms that it is in: so by then it is in all others, and in none of these.
        """
        lost = [entry.subscription for entry in entries if not self._continue_in(entry)]
        for subscription in lost:
            self.forget_lost(subscription)
        for subscription in lost:
            self.notify_lost(subscription)

    def _continue_in(self, entry: Entry) -> bool:
        """Return whether nothing was lost."""
        subscription, pending = entry.subscription, entry.pending
        base, subscription.base, subscription.position = subscription.base, None, None
        try:
            joined = pending.commit()
        except Insufficient:
            joined = None
        if joined is None or (pending.since is not None and not joined.recovered):
            self.services.hub.cancel(pending)
            return False
        encoder = self.dialect.delta_encoder if subscription.delta else self.dialect.encoder
        for publication in joined.publications:
            if publication.exclude != self.connection_id or not publication.exclude:
                self.write(encoder.publication(subscription.room, publication))
                base = publication.data
        self.services.hub.activate(pending, base=base if subscription.delta else None)
        return True

    def activate(self, entries: list[Entry]) -> None:
        """Make the client a member, in the turn in which its answer was written."""
        for entry in entries:
            self._activate(entry)

    def cancel(self, entries: list[Entry]) -> None:
        """Undo `enter_granted`. Harmless for what is activated."""
        for entry in entries:
            self.services.hub.cancel(entry.pending)

    # Entering

    async def _enter(self, subscription: Subscription, options: RoomOptions, *, since: Position | None) -> Entry:
        """Register the client as pending in a room. The caller must activate or cancel it."""
        room, info = subscription.room, self._described(subscription)
        subscription.join_leave = options.join_leave and self.dialect.shows_changes
        subscription.positioned = options.recover
        pending = await self.services.hub.enter(
            room,
            self,
            options,
            info=info,
            since=since if options.recover else None,
            watches=subscription.join_leave,
            encoder=self.dialect.delta_encoder if subscription.delta else None,
            accepts=self.accepts(subscription),
        )
        subscription.shown = None if pending.info is None else ConnectionId(pending.info.connection_id)
        return Entry(subscription, options, pending)

    def _described(self, subscription: Subscription) -> ClientInfo:
        """Return what others see of the client in a room in which it is not yet."""
        own = self.connection.describe()
        shown = subscription.shown or own.connection_id
        return msgspec.structs.replace(own, connection_id=shown, chan_info=subscription.chan_info)

    def accepts(self, subscription: Subscription) -> Accepts | None:
        """Return what says which publications the member gets: made from its filter, and asked of the application."""
        asked = self.services.application.accepts(self.connection, subscription.room)
        if subscription.filter is None:
            return asked
        wanted = compile_filter(subscription.filter)
        if asked is None:
            return lambda publication: wanted(publication.tags or {})
        return lambda publication: wanted(publication.tags or {}) and asked(publication)

    def _activate(self, entry: Entry) -> None:
        """
        Make the client a member, in the turn in which its answer was written. From here on the state has the
        subscription, the hub has the member, and a timer runs where it expires.
        """
        assert entry.subscription.room not in self.state.subscriptions, "a client is in a room once"
        self.state.subscriptions[entry.subscription.room] = entry.subscription
        self.services.hub.activate(entry.pending)
        if self.state.holds_little or entry.options.conflate is not None:  # else it was not patient, and is not now
            self.choose_patience()
        if entry.subscription.expire_at_s is not None:
            self.watch_expiry(entry.subscription)

    def _entered(self, room: Room) -> None:
        """Note that a room is being entered no more, whatever came of it, and leave it if that was asked for."""
        assert room in self.entering, "it was noted before the first await"
        how = self.entering.pop(room)
        if not self.entering:
            self.entering.clear()  # a dictionary that was used keeps its table: 120 bytes of each idle connection
        if how is not None:
            self._end_subscription(room, how)
        if self._idle is not None:
            self._idle.set()

    async def exit(self, room: Room, code: int, reason: str) -> None:
        """
        End a subscription from the server's side, and notify the client.

        Raises:
            UnknownChannel: the client is not in the room, and never could be: it is not declared (102). A client may
                be in a room that newer code declares no more.
        """
        if not (room in self.state.subscriptions or room in self.entering or room in self.state.granted):
            self.declared(room)
        self.state.granted.pop(room, None)
        how = UnsubscribeCode(code, reason)
        if room in self.entering:
            self.entering[room] = how
        else:
            self._end_subscription(room, how)
