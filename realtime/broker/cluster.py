"""
All nodes of a Redis Cluster at a time, with sharded pub/sub (Redis 7 or newer).

Runs in the worker. There is one link to each master. The route of a command is in cluster_route.py, the subscriptions
are in cluster_subscriptions.py. This module never sends a room's command itself.

**Reconciling** brings links, probes, subscriptions and members in line with the cluster's map. One task does it, again
and again until everything is in force. Anything that may contradict the map wakes this task:

- a lost link,
- a subscription that a node ended (`sunsubscribe`),
- a command that was answered MOVED or ASK,
- each round of the broker.

Rooms that were without a subscription for a moment get a gap. Other rooms go on untouched.

**States.** *Whole*: every hash slot has a link, and every channel is subscribed. *Partly lost*: some nodes are without
a link; calls for their rooms fail at once. *Lost*: no link at all; the owner got `on_lost`, and gets `on_restored` when
the cluster is whole again. The worker's process stores nothing else, so its death only ends its links; members.py says
how its members are found.

**Run ids.** A stream that moved from one master to another is complete. A stream that a replica took over from a dead
master may have lost its end. Both were written under another server's run id. The run id of a stream counts as good if
its server is still a master in the same map (`run_ids` of links.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from realtime.broker.address import RedisAddress, RedisLocation
from realtime.broker.base import WorkerId
from realtime.broker.cluster_map import fetch_map
from realtime.broker.cluster_route import MOVING_S, REDIRECTIONS, SHARDED_PUBLISH, ClusterRoute, DirectRoute
from realtime.broker.cluster_subscriptions import ClusterSubscriptions, events_of
from realtime.broker.hash_slots import (
    HASH_SLOTS,
    Endpoint,
    HashSlotMap,
    hash_slot_of_channel,
    read_redirection,
    tag_in_hash_slots,
)
from realtime.broker.keys import RedisKeys
from realtime.broker.links import NodesOwner, RedisLink
from realtime.broker.nodes import PAUSES_S
from realtime.broker.redis_connection import CONNECT_S, CommandFailed
from realtime.errors import BrokerAway, BrokerUnavailable
from realtime.log_lines import log

logger = logging.getLogger("realtime.broker.redis")


class ClusterNodes:
    """
    `Nodes` with many servers at a time.

    Invariant: `_direct.slots` holds only links that are in `_links`. A lost link is removed from both in one step, so
    no command is sent on it afterwards.
    """

    publishing = SHARDED_PUBLISH

    def __init__(
        self, location: RedisLocation, owner: NodesOwner, *, name: str, keys: RedisKeys, worker: WorkerId
    ) -> None:
        """`name` is the name of the connections at the servers. `keys` and `worker` name the probes' channels."""
        self.shown = location.shown
        self._location, self._owner, self._name = location, owner, name
        self._keys, self._worker = keys, worker
        self._links: dict[Endpoint, RedisLink] = {}
        self._fresh: set[RedisLink] = set()  # links at which members must still be registered
        self._direct = DirectRoute(self.shown)
        self._route = ClusterRoute(self.shown, self._direct, self)
        self._subscriptions = ClusterSubscriptions(self._direct)
        self._map_source: Endpoint | None = None  # the node with the newest map, as a MOVED says
        self._wake = asyncio.Event()
        self._reconciled = asyncio.Event()  # set after the next attempt, then replaced
        self._reconciling: asyncio.Task[None] | None = None
        self._is_whole = False
        self._was_lost = False  # the owner got on_lost, and no on_restored yet

    @property
    def is_whole(self) -> bool:
        return self._is_whole

    @property
    def links(self) -> Iterable[RedisLink]:
        return self._links.values()

    @property
    def links_by_endpoint(self) -> Mapping[Endpoint, RedisLink]:
        return self._links

    @property
    def route(self) -> ClusterRoute:
        """The route, while there is any node. A command whose node is missing waits, or fails alone."""
        if not self._links:
            raise BrokerAway(self.shown, "there is no link now")
        return self._route

    async def start(self) -> None:
        """
        Connect to all masters.

        Raises:
            BrokerUnavailable: some hash slots have no reachable node. A cluster that is not whole must not be started
                on, because its operator would learn of it from clients.
        """
        try:
            await self._reconcile()
        except CommandFailed as error:
            raise BrokerUnavailable(self.shown, error.text) from error
        if not self._is_whole:
            raise BrokerUnavailable(self.shown, "some hash slots have no node that answers")
        self._reconciling = asyncio.get_running_loop().create_task(self._reconcile_forever())

    async def close(self) -> None:
        """End the reconciling task first, so that it opens no link while the links are closed."""
        if self._reconciling is not None:
            self._reconciling.cancel()
            await asyncio.gather(self._reconciling, return_exceptions=True)
        links, self._links, self._is_whole = self._links, {}, False
        self._direct.slots = [None] * HASH_SLOTS
        for link in links.values():
            link.close()

    def recheck(self, link: RedisLink | None = None) -> None:
        """Wake the reconciling task. Whichever link it is about, the whole map is fetched."""
        self._wake.set()

    async def reconcile_again(self, source: Endpoint | None = None) -> None:
        """Wake the reconciling task, and wait until its next attempt is done. `source` is asked first for the map."""
        if source is not None:
            self._map_source = source
        self._wake.set()
        await self._reconciled.wait()

    # Subscriptions

    async def subscribe(self, channel: bytes) -> None:
        """
        Subscribe to a channel at the node of its hash slot, and again if the slot moves meanwhile.

        Raises:
            BrokerUnavailable: there is no link to that node, or this takes too long.
            CommandFailed: the node refused.
        """
        try:
            async with asyncio.timeout(MOVING_S + CONNECT_S):
                await self._subscribe(channel)
        except TimeoutError as late:
            raise BrokerUnavailable(self.shown, "a room could not be subscribed in time") from late

    async def _subscribe(self, channel: bytes) -> None:
        """
        Subscribe at the node that has the hash slot by the map of now. A slot can move between the look at the map and
        the node's answer, so this repeats until the subscription is in force.
        """
        while True:
            link = self._direct.link_of(hash_slot_of_channel(channel))
            source = None
            try:
                await self._subscriptions.subscribe_at(link, [channel])
            except CommandFailed as error:
                if error.code not in REDIRECTIONS:
                    raise
                if error.code == "MOVED":
                    source = read_redirection(error.text, link.address.host)
            if channel in self._subscriptions:
                return
            await self.reconcile_again(source)  # the hash slot left that node meanwhile

    async def unsubscribe(self, channel: bytes) -> None:
        await self._subscriptions.unsubscribe(channel)

    def _push(self, link: RedisLink, message: list[Any]) -> None:
        """Handle a push: a message, a probe of this worker, or the end of a subscription."""
        kind, channel = message[0], message[1]
        if kind == b"sunsubscribe":
            if self._subscriptions.note_end(link, channel):
                self._wake.set()
            elif channel == link.probe:
                link.probe = None
                self._wake.set()
        elif channel == link.probe:
            link.note_probe()
        else:
            self._owner.on_message(channel, message[2])

    # Links

    def _lost(self, link: RedisLink) -> None:
        """Forget a lost link, and reconcile. With the last link, notify the owner once until everything is back."""
        endpoint = (link.address.host, link.address.port)
        if self._links.get(endpoint) is not link:
            return
        self._forget(endpoint)
        log(logger, logging.WARNING, "node link lost", server=link.address.shown)
        self._is_whole = False
        self._wake.set()
        if not self._links and not self._was_lost:
            self._was_lost = True
            self._owner.on_lost()

    def _forget(self, endpoint: Endpoint) -> None:
        """Remove the link to a node, with its hash slots and subscriptions."""
        link = self._links.pop(endpoint)
        assert link not in self._links.values(), "a link has one endpoint"
        self._fresh.discard(link)
        self._direct.slots = [None if each is link else each for each in self._direct.slots]
        self._subscriptions.forget_link(link)

    async def _open(self, endpoint: Endpoint) -> None:
        """Open a link to a master. A failure is only logged: reconciling tries again until the cluster is whole."""
        address: RedisAddress = self._location.login.at(*endpoint)
        try:
            link = await RedisLink.open(address, name=self._name, on_lost=self._lost, on_push=self._push, sharded=True)
        except BrokerUnavailable as error:
            log(logger, logging.DEBUG, "- node not connected", server=address.shown, reason=error)
            return
        assert endpoint not in self._links, "one reconciling at a time opens links, and only missing ones"
        self._links[endpoint] = link
        self._fresh.add(link)

    # Reconciling

    async def _reconcile_forever(self) -> None:
        """Reconcile whenever this task is woken, until the cluster is whole, with growing pauses."""
        while True:
            await self._wake.wait()
            attempt = 0
            while True:
                self._wake.clear()
                try:
                    await self._reconcile()
                except (BrokerUnavailable, CommandFailed) as error:
                    self._is_whole = False
                    log(logger, logging.DEBUG, "- nodes not reconciled", server=self.shown, reason=error)
                except Exception:  # noqa: BLE001 - logged with its traceback
                    self._is_whole = False
                    log(logger, logging.ERROR, "nodes not reconciled", server=self.shown, exc_info=True)
                # Those that wait in reconcile_again() go on after each attempt, also after a failed one.
                reconciled, self._reconciled = self._reconciled, asyncio.Event()
                reconciled.set()
                if self._is_whole:
                    break
                await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
                attempt += 1

    async def _reconcile(self) -> None:
        """
        Bring links, probes, subscriptions and members in line with the map, as far as that is possible now.

        Raises:
            BrokerUnavailable: no node gives a map, or members could not be registered.
            CommandFailed: likewise.
        """
        await self._open_and_close_links(await self._fetch_map())
        await asyncio.gather(*[self._subscribe_probe(link) for link in tuple(self._links.values())])
        regained = await self._subscribe_missing()
        is_whole = None not in self._direct.slots and self._subscriptions.are_complete(self._owner.channels())
        assert self._fresh <= set(self._links.values()), "_forget() removes a link from both"
        if self._fresh:
            fresh = set(self._fresh)  # links may become fresh meanwhile; those stay for the next time
            await self._owner.enter(self._direct, fresh.__contains__)
            self._fresh -= fresh
        self._is_whole = is_whole and not self._wake.is_set()  # an event meanwhile may contradict what was found
        if self._was_lost and is_whole:
            self._was_lost = False
            self._owner.on_restored()
        elif regained:
            self._owner.on_gap(regained)

    async def _open_and_close_links(self, found: HashSlotMap) -> None:
        """Have a link to each master of the map, and to no other node. Then apply the map."""
        wanted = found.masters | {each.master for each in found.ranges}
        for endpoint in self._links.keys() - wanted:
            link = self._links[endpoint]
            log(
                logger, logging.INFO, "x node link closed", server=link.address.shown, reason="it is no master any more"
            )
            self._forget(endpoint)
            link.close()
        self._assign(found)
        missing = [endpoint for endpoint in wanted if endpoint not in self._links]
        if missing:
            await asyncio.gather(*[self._open(endpoint) for endpoint in missing])
            self._assign(found)

    async def _fetch_map(self) -> HashSlotMap:
        """Request the map of one node: first of the source that a MOVED named, then of linked nodes, then of seeds."""
        problem = BrokerUnavailable(self.shown, "no node answers")
        source, self._map_source = self._map_source, None
        candidates: dict[Endpoint, None] = dict.fromkeys([source] if source is not None else [])
        candidates |= dict.fromkeys([*self._links, *((seed.host, seed.port) for seed in self._location.seeds)])
        for endpoint in candidates:
            try:
                link = self._links.get(endpoint)
                return await fetch_map(
                    self._location.login.at(*endpoint), self._name, None if link is None else link.commands
                )
            except BrokerUnavailable as error:
                problem = error
        raise problem

    def _assign(self, found: HashSlotMap) -> None:
        """Route every hash slot as the map says, and give each link the run ids that count as good."""
        slots: list[RedisLink | None] = [None] * HASH_SLOTS
        for each in found.ranges:
            slots[each.first : each.last + 1] = [self._links.get(each.master)] * (each.last + 1 - each.first)
        self._direct.slots = slots
        run_ids = {link.run_id for endpoint, link in self._links.items() if endpoint in found.masters and link.run_id}
        for link in self._links.values():
            link.run_ids = " ".join([link.run_id, *sorted(run_ids - {link.run_id})])

    async def _subscribe_probe(self, link: RedisLink) -> None:
        """Subscribe to a probe channel in a hash slot of this link's node, unless that is done."""
        slots = self._direct.slots
        if link.probe is not None and slots[hash_slot_of_channel(link.probe)] is link:
            return
        own = {hash_slot for hash_slot, owner in enumerate(slots) if owner is link}
        link.probe = None
        if not own:
            return
        probe = self._keys.probe(self._worker, tag_in_hash_slots(own)).encode()
        try:
            await events_of(link).send_subscription("SSUBSCRIBE", probe)
        except (CommandFailed, BrokerUnavailable) as error:
            log(logger, logging.DEBUG, "- probe not subscribed", server=link.address.shown, reason=error)
        else:
            link.probe = probe
            link.note_probe()

    async def _subscribe_missing(self) -> list[bytes]:
        """Subscribe to each channel that is not subscribed at its node. Return those that are now."""
        regained = await self._subscriptions.subscribe_all(self._subscriptions.missing(self._owner.channels()))
        wanted = set(self._owner.channels())
        for channel in regained:
            if channel not in wanted:  # the worker unsubscribed meanwhile
                await self._subscriptions.unsubscribe(channel)
        return [channel for channel in regained if channel in wanted]
