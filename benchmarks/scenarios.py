"""What is measured: publications to many members of one room, and connections that come and go."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from benchmarks.cpu import Meter
from benchmarks.load import LoadClient, faults
from benchmarks.servers import Server

PADDING = "x" * 100  # with its number and names, a publication has about 128 bytes
AT_ONCE = 50
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scenario: microseconds of processor time per unit, by group of processes; what went wrong."""

    scenario: str
    server: str
    unit: str
    units: int
    per_unit_us: dict[str, float]
    faults: list[str] = field(default_factory=list)

    @property
    def total_us(self) -> float:
        return sum(self.per_unit_us.values())


async def broadcast(server: Server, *, members: int, publications: int, per_second: float) -> Run:
    """S1: publications of 128 bytes at a steady rate into one room; the unit is a delivery to one member."""
    clients = await _join(server, members)
    publisher = clients[0]
    meter = Meter(server.groups())
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for number in range(publications):
        await asyncio.sleep(max(begin + number / per_second - loop.time(), 0))
        publisher.send(server.publication(number, PADDING))
    await _all_have(clients, publications)
    run = _run("broadcast", server, "delivery", members * publications, meter, faults(clients, publications))
    for client in clients:
        client.close()
    return run


async def connects(server: Server, *, count: int) -> Run:
    """S6: clients that connect, are admitted, and go away; the unit is one of them."""
    await _join_and_leave(server, AT_ONCE)  # the first ones load code
    meter = Meter(server.groups())
    for begin in range(0, count, AT_ONCE):
        await _join_and_leave(server, min(AT_ONCE, count - begin))
    return _run("connect", server, "connection", count, meter, [])


async def _join(server: Server, count: int) -> list[LoadClient]:
    clients: list[LoadClient] = []
    for begin in range(0, count, AT_ONCE):
        wave = range(begin, min(begin + AT_ONCE, count))
        clients += await asyncio.gather(
            *[LoadClient.join(server.port, server.path, server.greetings, _address(number)) for number in wave]
        )
    return clients


async def _join_and_leave(server: Server, count: int) -> None:
    for client in await _join(server, count):
        client.close()


def _address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


async def _all_have(clients: list[LoadClient], publications: int) -> None:
    """Wait until everybody has everything; who never gets it is in the ledger."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            for client in clients:
                await client.has(publications)


def _run(scenario: str, server: Server, unit: str, units: int, meter: Meter, wrong: list[str]) -> Run:
    per_unit_us = {name: used_s * 1e6 / units for name, used_s in meter.used_s().items()}
    return Run(scenario, server.name, unit, units, per_unit_us, wrong)
