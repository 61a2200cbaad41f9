"""
The load itself: connect, publish when it is due, wait for what is on its way, leave.

Theory of operation. One client goes first: when it is refused, the others would be too, and the run ends with its
reason. The others connect each when it is due. Then `_publish_due` runs for each due publication; it enters it in the
ledger before it is sent, so what is lost on any way is missed. Clients report deliveries by the mark in the data. At
the end the run settles: it waits until every member that is left has everything, or for `SETTLE_S`, and closes the
ledger.

Runs in the load client's process, in its only event loop. It is an open loop: publications are sent when they are due,
whatever became of those before, and a latency counts from then. So a server that stands still for a second is seen by
all that was due in it. What is due while the process itself is late is late as well: `lateness` says how much of what
was measured may be this end's doing.

It takes SIGALRM: the interval timer of the process is exact to some 50 microseconds, where the loop's own timers have
whole milliseconds, as much as a publication on one machine takes. So it belongs in a main thread, and into one at a
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from time import perf_counter_ns
from typing import Final

from realtime.loadtest.client import Client, Stage, problem
from realtime.loadtest.errors import Failure, LoadRefused, refusal
from realtime.loadtest.histogram import Histogram
from realtime.loadtest.ledger import Account, Ledger
from realtime.loadtest.marks import Mark, Marker
from realtime.loadtest.outcome import Live, Outcome
from realtime.loadtest.plan import Plan

JOIN_S: Final = 15.0  # to become a member, from when it was due
SETTLE_S: Final = 5.0  # what comes later than this after the last publication counts as lost
QUIET_S: Final = 0.1  # waited for what comes twice
LEAVE_S: Final = 2.0
TICK_S: Final = 0.25
PROBE_S: Final = 0.01  # how often it is measured how late this process is
MARKS_MAX: Final = 4096  # lines that are remembered; they are forgotten all at once
NOT_YET: Final = (100, 111)  # errors of the moment: others of the first publication will be the answer to all


class Load:
    """One run. It is a `Listener` of its clients."""

    def __init__(
        self,
        plan: Plan,
        marker: Marker,
        *,
        token_of: Callable[[int], str],
        tls: ssl.SSLContext | None,
        show: Callable[[Live], None] = lambda live: None,
    ) -> None:
        self._plan = plan
        self._marker = marker
        self._token_of = token_of
        self._tls = tls
        self._show = show
        self._host = plan.address.host
        self._is_local = False
        self._ledger = Ledger(plan.rooms)
        self._clients: list[Client] = []
        self._members: list[list[Client]] = [[] for _ in range(plan.rooms)]
        self._waited_for: dict[int, Client] = {}  # begun, and neither member nor failed; the earliest first
        self._opening: set[asyncio.Task[None]] = set()
        self._failures: Counter[Failure] = Counter()
        self._failed_first: LoadRefused | None = None
        self._joined = 0
        self._here = 0  # those of them that have not ended
        self._stopping = asyncio.Event()
        self._stopped_twice = asyncio.Event()
        self._settled = asyncio.Event()  # no client is waited for at the moment
        self._sent = asyncio.Event()  # the last publication
        self._next = 0
        self._begun_ns = 0
        self._step = "connecting"
        self._step_ns = perf_counter_ns()
        self._connect, self._latency, self._lateness, self._recent = (Histogram() for _ in range(4))
        self.marks: dict[bytes, Mark] = {}

    def stop(self) -> None:
        """End early: publish nothing more, and receive what is on its way. A second time it ends at once."""
        if self._stopping.is_set():
            self._stopped_twice.set()
        self._stopping.set()
        self._sent.set()
        self._settled.set()

    async def run(self) -> Outcome:
        """
        Run it to its end.

        Raises:
            LoadRefused: the first client did not get in, or nothing may be published.
        """
        async with beside(self._tick()):
            try:
                await self._first()
                await self._others()
                return await self._publish_all()
            finally:
                await self._leave()

    # Connecting

    async def _first(self) -> None:
        """Let one client in, to see whether the others need try. It also finds which address of a name answers."""
        failure = Failure("reach", 0, "no answer in time")
        for host in await self._addresses():
            self._host, self._is_local = host, host.startswith("127.")
            self._begin(0, self._elapsed_s())
            await self._wait_until_settled(self._elapsed_s() + JOIN_S)
            if self._joined or self._stopping.is_set():
                return
            failure = next(iter(self._failures))
            self._failures.clear()
            self._clients.clear()
            if failure.step != "reach":
                break
        raise refusal(str(self._plan.address), self._plan.name_of(0), failure)

    async def _addresses(self) -> list[str]:
        address = self._plan.address
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(address.host, address.port, type=1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise refusal(str(address), "", Failure("reach", 0, reason)) from None
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    async def _others(self) -> None:
        """Let the others in, each when it is due."""
        begun_s = self._elapsed_s()
        for number in range(1, self._plan.clients):
            due_s = begun_s + self._plan.begin_s(number)
            if (early_s := due_s - self._elapsed_s()) > 0.001:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), early_s)
            if self._stopping.is_set():
                return
            self._begin(number, due_s)
        await self._wait_until_settled(begun_s + self._plan.begin_s(self._plan.clients) + JOIN_S)

    def _begin(self, number: int, due_s: float) -> None:
        """Start a client, in a task of its own until it is connected. `_wait_until_settled` has to follow."""
        plan = self._plan
        room = plan.name_of(plan.room_of(number))
        client = Client(self, number, room, plan.address, self._token_of(number), due_s)
        self._clients.append(client)
        self._waited_for[number] = client
        self._settled.clear()
        task = asyncio.create_task(self._open(client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, client: Client) -> None:
        """
        Connect a client, or have it fail with the step that did not succeed.

        On the loopback network each client has an address of its own. So a server that chooses workers by the address
        of a client spreads them, as it spreads clients of the Internet.
        """
        address = self._plan.address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(JOIN_S):
                await loop.create_connection(
                    lambda: client,
                    self._host,
                    address.port,
                    ssl=self._tls,
                    server_hostname=address.host if self._tls else None,
                    local_addr=(self._plan.source(client.number), 0) if self._is_local else None,
                )
        except ssl.SSLCertVerificationError as error:
            client.fail(Failure("trust", 0, error.verify_message))
        except ssl.SSLError as error:
            client.fail(Failure("secure", 0, (error.reason or "failed").replace("_", " ").lower()))
        except OSError as error:
            client.fail(Failure("reach", 0, problem(error)))

    async def _wait_until_settled(self, until_s: float) -> None:
        """Wait until each client is a member or has failed; the deadline fails those that are neither."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - self._elapsed_s())):
                await self._settled.wait()
        if not self._stopping.is_set():
            for client in list(self._waited_for.values()):
                client.fail(Failure("connect", 0, "no answer in time"))

    # Publishing

    async def _publish_all(self) -> Outcome:
        plan = self._plan
        gc.collect()
        gc.freeze()  # what lives until the end need not be looked through while time is measured
        members = self._joined
        self._step, self._step_ns = "publishing", perf_counter_ns()
        self._begun_ns = perf_counter_ns()
        if not self._here:
            self._sent.set()
        used_s = time.process_time()
        async with beside(self._probe()):
            with self._alarms():
                await self._sent.wait()
        published_s = self._since_us(perf_counter_ns()) / 1e6
        busy = (time.process_time() - used_s) / max(published_s, 1e-9)
        await self._settle()
        if self._failed_first is not None:
            raise self._failed_first
        balance = self._ledger.balance()
        self._latency.missed = balance.lost
        return Outcome(
            plan=plan,
            members=members,
            failures=dict(self._failures),
            balance=balance,
            connect=self._connect,
            latency=self._latency,
            lateness=self._lateness,
            busy=busy,
            published_s=published_s,
            bytes_in=sum(each.bytes_in for each in self._clients),
            bytes_out=sum(each.bytes_out for each in self._clients),
            is_interrupted=self._stopping.is_set(),
            is_local=self._is_local,
        )

    @contextlib.contextmanager
    def _alarms(self) -> Iterator[None]:
        """Have `_publish_due` called when the next publication is due."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGALRM, self._publish_due)
        self._publish_due()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            loop.remove_signal_handler(signal.SIGALRM)

    def _publish_due(self) -> None:
        """Publish all that is due by now, and set the alarm for the next. Called by the alarm, in the event loop."""
        plan = self._plan
        while not self._sent.is_set():
            is_over = self._next == plan.publications
            due_s = plan.seconds if is_over else plan.due_s(self._next)
            early_s = due_s - self._since_us(perf_counter_ns()) / 1e6
            if early_s > 0:
                signal.setitimer(signal.ITIMER_REAL, max(early_s, 1e-5))
                return
            if is_over:
                self._sent.set()
                return
            self._lateness.add(round(-early_s * 1e6))
            self._publish(self._next % plan.rooms, round(due_s * 1e6))
            self._next += 1

    def _publish(self, room: int, due_us: int) -> None:
        """Publish by the first member of a room that is still there. A room without members has nothing due."""
        members = self._members[room]
        if not members:
            return
        number = self._ledger.publish(room)
        # One publisher in each room, as long as it lasts: publications of a single client stay in order.
        client = next((each for each in members if each.stage is Stage.MEMBER), None)
        if client is not None:
            client.publish(number, self._marker.data(Mark(room, number, due_us)))

    async def _probe(self) -> None:
        """Measure how late this process is when it has nothing to do but be on time."""
        while True:
            before_ns = perf_counter_ns()
            await asyncio.sleep(PROBE_S)
            late_us = (perf_counter_ns() - before_ns) // 1000 - round(PROBE_S * 1e6)
            self._lateness.add(max(0, late_us - 1000))  # the loop's clock has whole milliseconds

    async def _settle(self) -> None:
        """Wait until the members that are still there have everything, but no longer than `SETTLE_S`."""
        self._step, self._step_ns = "settling", perf_counter_ns()
        until_s = self._elapsed_s() + SETTLE_S
        while not self._all_there() and self._elapsed_s() < until_s and await self._waits(0.02):
            pass
        await self._waits(QUIET_S)

    async def _waits(self, seconds: float) -> bool:
        """Wait; return whether the run was not ended meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped_twice.wait(), seconds)
        return not self._stopped_twice.is_set()

    def _all_there(self) -> bool:
        """Return whether every member that is left has everything that its room was to get."""
        lacks = self._ledger.lacks
        here = (each for room in self._members for each in room if each.stage is Stage.MEMBER)
        return not any(lacks(each.account) for each in here if each.account is not None)

    async def _leave(self) -> None:
        """Close every client. What is still being opened is cancelled, and waited for: no task outlives the run."""
        for task in list(self._opening):
            task.cancel()
        for client in self._clients:
            client.leave()
        self._clients.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*self._opening, return_exceptions=True)

    # What clients report

    def mark_of(self, line: bytes) -> Mark | None:
        """Return the mark of a publication that was not seen before, and keep it in `marks`."""
        mark = self._marker.find(line)
        if mark is not None:
            if len(self.marks) >= MARKS_MAX:
                self.marks.clear()
            self.marks[line] = mark
        return mark

    def delivered(self, account: Account, mark: Mark, at_ns: int) -> None:
        """Enter a delivery."""
        room, number, due_us = mark
        if room != account.room or number >= self._ledger.published[room]:
            self._ledger.strange += 1
        elif account.take(number):
            late_us = (at_ns - self._begun_ns) // 1000 - due_us
            self._latency.add(late_us)
            self._recent.add(late_us)

    def joined(self, client: Client) -> None:
        """Take a new member in."""
        room = self._plan.room_of(client.number)
        assert client.account is None, "a client becomes a member once"
        client.account = self._ledger.open(room)
        self._members[room].append(client)
        self._joined += 1
        self._here += 1
        self._connect.add(round((self._elapsed_s() - client.due_s) * 1e6))
        self._no_longer_waited_for(client)

    def failed(self, client: Client, failure: Failure) -> None:
        """Enter that a client has ended. What it was to get stays due; without members there is no more to publish."""
        self._failures[failure] += 1
        if client.account is not None:
            self._here -= 1
            if not self._here and self._begun_ns:
                self._sent.set()
        self._no_longer_waited_for(client)

    def refused(self, client: Client, number: int, failure: Failure, *, temporary: bool) -> None:
        """Enter that the server refused a publication; after the very first one it would refuse all."""
        self._failures[failure] += 1
        self._ledger.refuse(self._plan.room_of(client.number), number)
        if number == 0 and not temporary and failure.code not in NOT_YET and not self._latency.measured:
            self._failed_first = refusal(str(self._plan.address), client.room, failure)
            self.stop()
            self.stop()

    def _no_longer_waited_for(self, client: Client) -> None:
        self._waited_for.pop(client.number, None)
        if not self._waited_for:
            self._settled.set()

    # Time

    @staticmethod
    def _elapsed_s() -> float:
        return perf_counter_ns() / 1e9

    def _since_us(self, at_ns: int) -> float:
        return (at_ns - self._begun_ns) / 1e3

    async def _tick(self) -> None:
        """Show how it goes, four times a second, until cancelled."""
        while True:
            before_ns = perf_counter_ns()
            await asyncio.sleep(TICK_S)
            self._show(self._live((perf_counter_ns() - before_ns) / 1e9))

    def _live(self, tick_s: float) -> Live:
        """Return what is shown now, and begin the next tick's histogram."""
        recent = self._recent
        elapsed_s = (perf_counter_ns() - self._step_ns) / 1e9
        done: float = self._joined
        of: float = self._plan.clients
        if self._step != "connecting":
            of = self._plan.seconds if self._step == "publishing" else SETTLE_S
            done = min(elapsed_s, of)
        failures: Counter[str] = Counter()
        for failure, count in self._failures.items():
            failures[failure.kind] += count
        live = Live(
            step=self._step,
            done=done,
            of=of,
            elapsed_s=elapsed_s,
            failures=dict(failures),
            per_s=recent.measured / tick_s,
            p50_us=recent.percentile_us(0.5),
            p99_us=recent.percentile_us(0.99),
        )
        recent.clear()
        return live


@contextlib.asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something in a task beside the block, and cancel it at the end of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
