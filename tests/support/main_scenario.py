"""
Everything that an operator does, under load, and whether any client noticed: the scenario by which deploys are judged.

Thousands of clients of every kind in fifty rooms; in each, two publications a second; beside them a hundred connects a
second. Then reloads, scaling, drains, an upgrade, and the death of the primary. `Scenario` plays it, step by step.
`Outcome.faults` has a sentence for each thing that a client noticed. The slow tests play it small. Large, with a table:

    python -m tests.support.main_scenario --clients 5000 --sticky ip --broker local

Gaps are reported and never judged: a gap is the longest time between two publications of a room, less the usual one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from sticky.keeper.report import PRIMARY_LOST
from sticky.loop.log_lines import SERVER_TAKEN_OVER, SIDECAR_READY, WORKER_READY
from sticky.process.control import send_request
from tests.support.aio import eventually
from tests.support.audience_handle import AudienceHandle
from tests.support.established import Established, established
from tests.support.log_lines import PID, pattern
from tests.support.paced_connects import PacedConnects
from tests.support.redis_server import RedisServer
from tests.support.scenario_ledger import Ledger
from tests.support.scenario_outcome import Outcome, Plan, Step, row, summary
from tests.support.sdk_clients import SdkClients
from tests.support.server import RunningServer

APP = """
import os

from realtime import App

app = App()
app.room("hall:{n}", history=10_000, history_ttl_s=3_600, presence=True, join_leave=True, open=True)


@app.on_connect
def on_connect(conn):
    pass


@app.rpc("where")
def where(conn):
    return {"slot": conn.slot, "moves": conn.state.get("moves", 0)}


@app.on_migrate
def on_migrate(conn, when):
    if when == "before":
        conn.state["pid"] = os.getpid()
    elif conn.state["pid"] != os.getpid():  # else its target has died, and it is back where it was
        conn.state["moves"] = conn.state.get("moves", 0) + 1
"""
SECRET = "a secret of the tests, of 32 bytes or more"
PATIENT = ("--boot", "5m", "--hung", "1m")  # on a busy machine no worker is replaced for being slow
SLOTS = 4
RELOADS = 3
KILLS = 3
STEP_S = 300.0  # only a hang reaches it
BETWEEN = 4  # publications that each client gets between two steps
SHOWN = 8  # of what clients noticed in one step
ROUND = 8  # publications in each room while slots become a little more equal
WATCHERS = 4  # clients of each room that are asked who is there


class Scenario:
    """One play."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None] = lambda _: None) -> None:
        assert plan.machines == 1 or plan.broker == "redis", "machines share one broker"
        assert plan.clients >= plan.rooms, "each room needs a publisher"
        self.plan = plan
        self.outcome = Outcome(plan)
        self._directory = directory
        self._say = say
        self.servers: list[RunningServer] = []
        self._audiences: list[AudienceHandle] = []
        self._sdks: SdkClients
        self._connects: PacedConnects
        self._ids: dict[str, set[str]] = defaultdict(set)  # of the clients of each room
        self._kills: list[tuple[float, float]] = []
        self._publications: dict[str, Any] = {}
        self._presence: list[Any] = []
        self._tuples: list[Established] = []

    async def run(self) -> Outcome:
        """Play all steps, and judge."""
        async with contextlib.AsyncExitStack() as stack:
            await self._begin(stack)
            ends_s = time.monotonic() + self.plan.seconds
            for name, step in self._steps():
                if not name.startswith(self.plan.only):
                    continue
                if self._has_failed() or time.monotonic() > ends_s:
                    self.outcome.left_out.append(name)
                else:
                    await self._play(name, step)
            await self._end(stack)
        return self.outcome

    def _has_failed(self) -> bool:
        """Whether clients have noticed something: the steps that follow would only hide it."""
        return bool(self.outcome.faults or (self.outcome.steps and self.outcome.steps[-1].noticed))

    # Its beginning and its end

    async def _begin(self, stack: contextlib.AsyncExitStack) -> None:
        app = self._directory / "app.py"
        app.write_text(APP)
        options = ["--sticky", self.plan.sticky, "--drain", "60s", *PATIENT]
        if self.plan.broker == "redis":
            options += ["--redis", stack.enter_context(RedisServer()).url]
        for machine in range(self.plan.machines):
            bind = f"127.0.0.{machine + 1}:0"
            server = RunningServer(app, *options, workers=SLOTS, env={"REALTIME_SECRET": SECRET}, bind=bind)
            stack.callback(server.stop, signal.SIGQUIT)
            server.start()
            server.wait_until_listening(deadline_s=STEP_S)
            server.log.wait_for(pattern(WORKER_READY, ready=f"{SLOTS}/{SLOTS}"), deadline_s=STEP_S)
            self.servers.append(server)
        await self._enter(stack)
        self._connects = stack.enter_context(
            PacedConnects([(each.host, each.port) for each in self.servers], self.plan.connects)
        )
        self._tuples.append(established([each.port for each in self.servers]))
        await asyncio.gather(*(each.order("publish", rate=self.plan.rate) for each in self._audiences))
        await self._wait_for_more(BETWEEN)
        self._presence.append(await self._who_is_there())

    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        urls = [each.websocket_url for each in self.servers]
        clients = [
            {
                "number": number,
                "url": urls[number // self.plan.rooms % len(urls)],
                "address": f"127.61.{number // 250}.{number % 250 + 1}",
            }
            for number in range(self.plan.clients)
        ]
        for number in range(self.plan.processes):
            audience = await stack.enter_async_context(AudienceHandle())
            self._audiences.append(audience)
            mine = [each for at, each in enumerate(clients) if at // self.plan.rooms % self.plan.processes == number]
            for one in await audience.order("enter", clients=mine, rooms=self.plan.rooms):
                self._ids[one["room"]].add(one["id"])
            self._say(f"{len(mine)} clients entered")
        self._sdks = await stack.enter_async_context(SdkClients())
        for room, client in await self._sdks.enter(self.servers, self.plan.sdks, self.plan.rooms):
            self._ids[room].add(client)
        self._say(f"{len(self._sdks.puppets)} clients of SDKs entered")

    async def _end(self, stack: contextlib.AsyncExitStack) -> None:
        self._presence.append(await self._who_is_there())
        for each in self._audiences:
            self._publications |= await each.order("stop_publishing")
        counts = {room: len(found["acknowledged"]) for room, found in self._publications.items()}
        await self._sdks.wait_for(counts)
        reports: list[dict[str, Any]] = []
        for number, each in enumerate(self._audiences):
            path = self._directory / f"audience-{number}.json"
            await each.order("finish", counts=counts, path=str(path))
            reports += msgspec.json.decode(await asyncio.to_thread(path.read_bytes))
        self._tuples.append(established([each.port for each in self.servers]))
        await asyncio.to_thread(self._connects.__exit__, None, None, None)
        self._judge(reports)
        for each in self._audiences:
            await each.order("leave")

    async def _who_is_there(self) -> list[Any]:
        found = [await each.order("presence", watchers=WATCHERS) for each in self._audiences]
        return [one for each in found for one in each]

    async def _wait_for_more(self, count: int) -> None:
        """Wait until each client has so many more publications, or one has noticed something."""
        wanted = [each["least"] + count for each in [await each.order("least") for each in self._audiences]]

        async def is_there() -> bool:
            found = [await each.order("least") for each in self._audiences]
            return any(each["odd"] for each in found) or all(
                each["least"] >= least for each, least in zip(found, wanted, strict=True)
            )

        await asyncio.wait_for(eventually(is_there, every_s=0.2), STEP_S)

    # The steps

    def _steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        def scale(slots: int) -> Callable[[], Awaitable[None]]:
            return lambda: self._scale(slots)

        def drain(slot: int) -> Callable[[], Awaitable[None]]:
            return lambda: self._drain(slot)

        return [
            *[(f"reload {number + 1}", self._reload) for number in range(RELOADS)],
            *[(f"scale {slots}", scale(slots)) for slots in (2 * SLOTS, SLOTS - 1, SLOTS)],
            *[(f"drain {slot}", drain(slot)) for slot in range(SLOTS)],
            ("upgrade", self._upgrade),
            *[(f"kill -9 of the primary {number + 1}", self._kill) for number in range(KILLS)],
        ]

    async def _play(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        began_s, answered = time.monotonic(), self._connects.answered.total()
        failed = len(self._connects.failures)
        try:
            await asyncio.wait_for(step(), STEP_S)
        except TimeoutError:
            self.outcome.faults.append(f"{name} did not end in {STEP_S:g} s")
        took_s = time.monotonic() - began_s
        await self._wait_for_more(BETWEEN)
        found = [await each.order("progress") for each in self._audiences]
        usual_s = 1 / self.plan.rate
        shown = Step(
            name,
            took_s,
            [max(0.0, gap - usual_s) for each in found for gap in each["gaps"]],
            sum(len(each["odd"]) for each in found),
            self._connects.answered.total() - answered,
            len(self._connects.failures) - failed,
        )
        noticed = [what for each in found for what in each["odd"]]
        for what in noticed[sum(each.noticed for each in self.outcome.steps[-1:]) :][:SHOWN]:
            self._say(f"  {what}")
        self.outcome.steps.append(shown)
        self._say(row(shown))

    @property
    def _server(self) -> RunningServer:
        """The machine that is deployed."""
        return self.servers[0]

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._server.status)

    async def _pids(self) -> dict[int, int]:
        return {each["slot"]: each["pid"] for each in (await self._status())["workers"]}

    async def _settled(self, slots: int, gone: set[int]) -> None:
        """Wait until each slot has one worker, which serves, and is none of these."""

        async def is_settled() -> bool:
            status = await self._status()
            states = sorted((each["slot"], each["state"]) for each in status["workers"])
            is_whole = not status["reload"]["left"] and states == [(slot, "ready") for slot in range(slots)]
            return is_whole and not gone & {each["pid"] for each in status["workers"]}

        await eventually(is_settled, every_s=0.1)

    async def _reload(self) -> None:
        before = await self._pids()
        self._server.send_signal(signal.SIGHUP)
        await self._settled(SLOTS, set(before.values()))

    async def _scale(self, slots: int) -> None:
        await asyncio.to_thread(send_request, self._server.control, {"command": "scale", "workers": slots})
        await self._settled(slots, set())
        before = -1
        while (moved := await self._moved_in()) != before:  # without keys slots become equal in rounds
            before = moved
            await self._wait_for_more(ROUND)

    async def _moved_in(self) -> int:
        """Return how many connections have come to the workers of now."""
        found = [(each["statistics"] or {}).get("moves", {}) for each in (await self._status())["workers"]]
        return sum(each.get("in", 0) for each in found)

    async def _drain(self, slot: int) -> None:
        before = (await self._pids())[slot]
        await asyncio.to_thread(send_request, self._server.control, {"command": "drain", "slot": slot})
        await self._settled(SLOTS, {before})

    async def _upgrade(self) -> None:
        mark, log = self._server.log.mark(), self._server.log
        self._server.send_signal(signal.SIGUSR2)
        await asyncio.to_thread(log.wait_for, SERVER_TAKEN_OVER, since=mark, deadline_s=STEP_S)
        if self.plan.broker == "local":
            await asyncio.to_thread(log.wait_for, pattern(SIDECAR_READY, pid=PID), since=mark, deadline_s=STEP_S)
        await self._settled(SLOTS, set())

    async def _kill(self) -> None:
        mark, pid = self._server.log.mark(), (await self._status())["pid"]
        before_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._kills.append((before_s, time.monotonic()))
        for line in (pattern(PRIMARY_LOST, pid=pid), SERVER_TAKEN_OVER):
            await asyncio.to_thread(self._server.log.wait_for, line, since=mark, deadline_s=STEP_S)
        await self._settled(SLOTS, set())

    # The judgement

    def _judge(self, reports: list[dict[str, Any]]) -> None:
        outcome, faults = self.outcome, self.outcome.faults
        faults += [f"client {each['number']}: {what}" for each in reports for what in each["odd"]]
        faults += self._sdks.faults()
        faults += self._judge_connects()
        faults += self._judge_tuples()
        faults += self._judge_presence()
        ledger = Ledger()
        for each in reports:
            pairs = zip(each["offsets"], each["values"], strict=True)
            ledger.add(f"client {each['number']}", each["room"], pairs, each["epoch"])
        for name, room, got in self._sdks.ledgers():
            ledger.add(name, room, got)
        faults += ledger.judge(self._publications)
        outcome.published = sum(each["sent"] for each in self._publications.values())
        outcome.delivered = ledger.delivered
        deployed = [each for each in reports if each["number"] // self.plan.rooms % self.plan.machines == 0]
        outcome.moves = [each["where"]["moves"] for each in deployed if each["where"]]
        least = 0 if self.plan.only or outcome.left_out else RELOADS + 1  # each slot is drained once
        faults += [f"a client moved {moves} times, of at least {least}" for moves in outcome.moves if moves < least]
        for server in self.servers:
            faults += [f"log: {each.string}" for each in server.log.find_all("Traceback")]
            found = server.log.find_all(r'connection not moved .*?reason=("[^"]*"|\S+)')
            outcome.not_moved.update(each[1] for each in found)

    def _judge_connects(self) -> list[str]:
        connects, faults = self._connects, []
        self.outcome.answered = connects.answered.total()
        self.outcome.slowest_connect_s = connects.slowest_s
        for each in connects.failures:
            is_pending = any(each.began_s <= after_s and before_s <= each.ended_s for before_s, after_s in self._kills)
            if each.is_refused or not is_pending:
                self.outcome.refused += each.is_refused
                faults.append(f"connect: {each}")
            else:
                self.outcome.reset_while_killed += 1
        return faults

    def _judge_tuples(self) -> list[str]:
        before, after = self._tuples
        self.outcome.tuples = len(before)
        wanted = self.plan.clients + len(self._sdks.puppets)
        faults = [f"{len(before)} connections instead of {wanted}"] * (len(before) != wanted)
        faults += [f"gone: {each}" for each in sorted(set(before.items()) - set(after.items()))]
        return faults + [f"new: {each}" for each in sorted(set(after.items()) - set(before.items()))]

    def _judge_presence(self) -> list[str]:
        return [
            f"presence in {room} {when}: {len(ids)} clients, of {len(self._ids[room])}"
            for when, found in zip(("before", "after"), self._presence, strict=True)
            for room, ids in found
            if set(ids) != self._ids[room]
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Play the main scenario and print what clients noticed.")
    parser.add_argument("--clients", type=int, default=int(os.environ.get("CLIENTS", "5000")))
    parser.add_argument("--sdks", type=int, default=12, help="clients of each of five kinds")
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--connects", type=float, default=100)
    parser.add_argument("--sticky", choices=("ip", "session", "none"), default="ip")
    parser.add_argument("--broker", choices=("local", "redis"), default="local")
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="the steps whose names begin so")
    parser.add_argument("--seconds", type=float, default=3600, help="no step begins later")
    parser.add_argument("--log", type=Path, help="where the servers' logs go")
    found = vars(parser.parse_args())
    log = found.pop("log")
    with tempfile.TemporaryDirectory() as directory:
        scenario = Scenario(Plan(**found), Path(directory), lambda line: print(line, flush=True))
        try:
            outcome = asyncio.run(scenario.run())
        finally:
            if log:
                log.write_text("\n".join(line for each in scenario.servers for line in each.log.lines))
    print(summary(outcome))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
