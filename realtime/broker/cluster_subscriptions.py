"""
The subscriptions of a worker at the nodes of a cluster.

Runs in the worker. Each channel is subscribed at the node that has its hash slot. A node ends a subscription by itself
when the hash slot leaves it (`sunsubscribe`). This module knows which channel is subscribed where. It subscribes what
is missing when cluster.py says so, and never fetches a map or opens a link.

Invariant: a channel is noted at most at one link. `forget_link` removes the channels of a lost link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import groupby

from realtime.broker.cluster_route import DirectRoute
from realtime.broker.hash_slots import hash_slot_of_channel
from realtime.broker.links import RedisLink
from realtime.broker.redis_connection import CommandFailed
from realtime.broker.sharded import ShardedEvents
from realtime.log_lines import log

logger = logging.getLogger("realtime.broker.redis")


class ClusterSubscriptions:
    """The link at which each channel is subscribed."""

    def __init__(self, direct: DirectRoute) -> None:
        self._direct = direct
        self._links: dict[bytes, RedisLink] = {}

    def __contains__(self, channel: bytes) -> bool:
        return channel in self._links

    async def subscribe_at(self, link: RedisLink, channels: list[bytes]) -> None:
        """
        Subscribe to channels that are all of one hash slot.

        Afterwards, check whether the channels are still subscribed: the node may end a subscription at any time.

        Raises:
            CommandFailed, BrokerUnavailable: none of them is subscribed.
        """
        first, last = hash_slot_of_channel(channels[0]), hash_slot_of_channel(channels[-1])
        assert first == last, "a node refuses SSUBSCRIBE for channels of several hash slots"
        for channel in channels:  # noted before the reply: the node may end the subscription right after it
            self._links[channel] = link
        try:
            await events_of(link).send_subscription("SSUBSCRIBE", *channels)
        except BaseException:
            for channel in channels:
                if self._links.get(channel) is link:
                    del self._links[channel]
            raise

    async def unsubscribe(self, channel: bytes) -> None:
        """
        End a subscription.

        Raises:
            BrokerUnavailable: the link was lost meanwhile, or there is none to the node of the channel.
        """
        link = self._links.pop(channel, None)
        if link is None or link.is_lost:
            self._direct.link_of(hash_slot_of_channel(channel))  # raises where there is none
            return
        try:
            await events_of(link).send_subscription("SUNSUBSCRIBE", channel)
        except CommandFailed as error:  # the hash slot has left that node, and the subscription ended with it
            log(logger, logging.DEBUG, "- SUNSUBSCRIBE failed", server=link.address.shown, reason=error.text)

    def note_end(self, link: RedisLink, channel: bytes) -> bool:
        """Note that a node ended a subscription by itself. Return whether it was in force there."""
        if self._links.get(channel) is not link:
            return False
        del self._links[channel]
        return True

    def forget_link(self, link: RedisLink) -> None:
        """Forget the subscriptions of a link that is gone."""
        self._links = {channel: each for channel, each in self._links.items() if each is not link}

    def are_complete(self, channels: Iterable[bytes]) -> bool:
        """Return whether every one of these channels is subscribed."""
        return all(channel in self._links for channel in channels)

    def missing(self, channels: Iterable[bytes]) -> list[tuple[RedisLink, list[bytes]]]:
        """Return the channels that are not subscribed at the node of their hash slot, one group per hash slot."""
        by_slot = sorted((hash_slot_of_channel(channel), channel) for channel in channels)
        groups: list[tuple[RedisLink, list[bytes]]] = []
        for hash_slot, pairs in groupby(by_slot, key=lambda pair: pair[0]):
            link = self._direct.slots[hash_slot]
            missing = [channel for _, channel in pairs if self._links.get(channel) is not link]
            if link is not None and missing:
                groups.append((link, missing))
        return groups

    async def subscribe_all(self, groups: list[tuple[RedisLink, list[bytes]]]) -> list[bytes]:
        """Subscribe to groups of channels, at all nodes at the same time. Return the channels where it succeeded."""
        done = await asyncio.gather(
            *[self.subscribe_at(link, channels) for link, channels in groups], return_exceptions=True
        )
        regained: list[bytes] = []
        for (link, channels), error in zip(groups, done, strict=True):
            if error is None:
                regained += channels
            else:
                log(logger, logging.DEBUG, "- SSUBSCRIBE failed", server=link.address.shown, reason=error)
        return regained


def events_of(link: RedisLink) -> ShardedEvents:
    """Return the pub/sub connection of a cluster node's link."""
    assert isinstance(link.events, ShardedEvents), "cluster.py opens every link with sharded=True"
    return link.events
