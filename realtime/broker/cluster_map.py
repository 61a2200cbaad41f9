"""
Reads the map of a Redis Cluster from one of its nodes.

Runs in the worker, and in `realtime doctor`. It decides nothing: cluster.py chooses the node, and uses the map.
"""

from __future__ import annotations

import asyncio

from realtime.broker.address import RedisAddress
from realtime.broker.hash_slots import HashSlotMap, read_map
from realtime.broker.redis_connection import CONNECT_S, CommandFailed, RedisConnection
from realtime.errors import BrokerUnavailable


async def fetch_map(address: RedisAddress, name: str, commands: RedisConnection | None = None) -> HashSlotMap:
    """
    Request the map of a node, on `commands`, or on a connection opened for this.

    Raises:
        BrokerUnavailable: the node does not answer, or is in no cluster.
    """
    own = None
    try:
        if commands is None:
            commands = own = await RedisConnection.connect(address, name=name, on_lost=lambda _: None)
        async with asyncio.timeout(CONNECT_S):
            slots, nodes = await asyncio.gather(
                commands.request("CLUSTER", "SLOTS"), commands.request("CLUSTER", "NODES")
            )
        return read_map(slots, nodes, address.host)
    except (CommandFailed, TimeoutError, ValueError) as error:
        raise BrokerUnavailable(address.shown, str(error) or "no answer") from error
    finally:
        if own is not None:
            own.close()
