"""
The servers of a Redis URL and their versions, for `realtime doctor`, before anything starts.

Runs in the command, never in a worker. It connects as a worker does, and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from realtime.broker.address import RedisAddress, RedisLocation, Topology, parse_url
from realtime.broker.cluster_map import fetch_map
from realtime.broker.links import RedisLink
from realtime.broker.nodes import Sentinels
from realtime.errors import BrokerUnavailable

NAME = "realtime-doctor"


async def versions(url: str) -> Mapping[str, str]:
    """
    Return address -> version of each server that a worker would use. The version is empty where INFO lacks it.

    Raises:
        BrokerUnavailable: a server does not answer, or is not of the kind that the URL names.
        SettingsError: the URL is no Redis URL.
    """
    where = parse_url(url)
    found = {}
    for address in await _addresses(where):
        link = await RedisLink.open(
            address,
            name=NAME,
            on_lost=lambda _: None,
            on_push=lambda _, __: None,
            sharded=where.topology is Topology.CLUSTER,
        )
        found[address.shown] = link.facts.get(b"redis_version", "")
        link.close()
    return found


async def _addresses(where: RedisLocation) -> Sequence[RedisAddress]:
    if where.topology is Topology.ONE:
        return where.seeds
    if where.topology is Topology.SENTINEL:
        return [await Sentinels(where.seeds, where.service, where.login).find()]
    problem = BrokerUnavailable(where.shown, "no node answers")
    for seed in where.seeds:
        try:
            slot_map = await fetch_map(seed, NAME)
        except BrokerUnavailable as error:
            problem = error
        else:
            return [where.login.at(*master) for master in sorted({each.master for each in slot_map.ranges})]
    raise problem
