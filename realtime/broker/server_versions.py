"""
Which servers a Redis URL leads to, and what they are: for `realtime doctor`, before anything is started.

It connects as a worker does and leaves nothing behind. It runs in the command, never in a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from realtime.broker.address import Address, Kind, Where, parse
from realtime.broker.cluster import draw_map
from realtime.broker.links import Link
from realtime.broker.nodes import Sentinels
from realtime.errors import BrokerUnavailable

NAME = "realtime-doctor"


async def versions(url: str) -> Mapping[str, str]:
    """
    Return address -> version of each server that a worker would use; the version is empty where it is not told.

    Raises:
        BrokerUnavailable: one of them does not answer, or is not what the URL says.
        SettingsError: it is no Redis URL.
    """
    where = parse(url)
    found = {}
    for address in await _addresses(where):
        link = await Link.open(
            address,
            name=NAME,
            on_lost=lambda _: None,
            on_push=lambda _, __: None,
            sharded=where.kind is Kind.CLUSTER,
        )
        found[address.shown] = link.facts.get(b"redis_version", "")
        link.close()
    return found


async def _addresses(where: Where) -> Sequence[Address]:
    if where.kind is Kind.ONE:
        return where.seeds
    if where.kind is Kind.SENTINEL:
        return [await Sentinels(where.seeds, where.service, where.login).find()]
    problem = BrokerUnavailable(where.shown, "no node answers")
    for seed in where.seeds:
        try:
            drawn = await draw_map(seed, NAME)
        except BrokerUnavailable as error:
            problem = error
        else:
            return [where.login.at(*master) for master in sorted({each.master for each in drawn.ranges})]
    raise problem
