"""
The primary has an edge: whatever a worker says, it costs that worker, and nothing and nobody else.

Each of the messages below is said in the name of a worker that serves. It is killed, the log says which and why, it is
counted, no descriptor is lost, and the other worker and the loop go on.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sticky.accept.acceptor import Acceptor
from sticky.handoff.channel import MESSAGE_MAX, RELAYED_MAX, Channel, Kind, Received, Unreadable
from sticky.handoff.messages import TEXT_MAX, from_worker
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import Refusals
from sticky.handoff.worker_handle import WorkerState
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.lifetime import Lifetime
from sticky.loop.log_lines import WORKER_CONDEMNED
from sticky.loop.poller import FAILED, READ, Poller
from tests.support.edge import Edge, open_descriptors
from tests.support.log_lines import exited, pattern

encode = msgspec.msgpack.encode
NESTED = b"\x91" * 70_000

Fds = Callable[[], list[int]]


def nothing() -> list[int]:
    return []


def sockets(count: int) -> Fds:
    return lambda: [socket.socket().detach() for _ in range(count)]


def a_file() -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY)]


def a_datagram_socket() -> list[int]:
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()]


def a_socket_and_a_pipe() -> list[int]:
    """The pipe stands where a file in memory should: whoever reads it waits for ever."""
    reader, writer = os.pipe()
    os.close(writer)
    return [socket.socket().detach(), reader]


def a_socket_and_a_large_file() -> list[int]:
    memory = os.memfd_create("large", os.MFD_CLOEXEC)
    os.truncate(memory, 2**40)
    return [socket.socket().detach(), memory]


BROKEN: dict[str, tuple[bytes, Fds]] = {
    "a kind that is none": (encode([99]), nothing),
    "a kind that the primary says": (encode([Kind.DRAIN, 1.0]), nothing),
    "no array": (encode({"kind": 10}), nothing),
    "an empty array": (encode([]), nothing),
    "no kind but a text": (encode(["ready"]), nothing),
    "no msgpack": (b"\xc1", nothing),
    "an empty packet": (b"", nothing),
    "an empty packet with a descriptor": (b"", sockets(1)),
    "half a message": (encode([Kind.ACK, 1, 1])[:-1], nothing),
    "a message and a half": (encode([Kind.READY]) + b"\x01", nothing),
    "a packet that is too long": (b"\x92\x05" + b"x" * (RELAYED_MAX + 1), nothing),
    "lists in lists without an end": (b"\x93\x05\xa3all" + NESTED, nothing),
    "a message nested too deep for others": (b"\x93\x05\xa3all" + b"\x91" * 400 + b"\x01", nothing),
    "a message that grows": (b"\x93\x05\xa3all\xdd" + (38_000).to_bytes(4, "big") + b"\xca\0\0\0\1" * 38_000, nothing),
    "an acknowledgement without numbers": (encode([Kind.ACK]), nothing),
    "an acknowledgement of a text": (encode([Kind.ACK, "1", 1]), nothing),
    "an acknowledgement below zero": (encode([Kind.ACK, -1, -1]), nothing),
    "an acknowledgement beyond what was given": (encode([Kind.ACK, 2**40, 0]), nothing),
    "something settled that was not taken": (encode([Kind.ACK, 0, 1]), nothing),
    "a no to what was not given": (encode([Kind.NACK, 77]), nothing),
    "a no beyond all numbers": (encode([Kind.NACK, 2**63]), nothing),
    "ready a second time": (encode([Kind.READY]), nothing),
    "a heartbeat without statistics": (encode([Kind.BEAT, 1, 1]), nothing),
    "a heartbeat with fewer than no connections": (encode([Kind.BEAT, -1, 0, {}]), nothing),
    "a heartbeat with half a connection": (encode([Kind.BEAT, 0.5, 0, {}]), nothing),
    "statistics that are a list": (encode([Kind.BEAT, 1, 1, []]), nothing),
    "statistics that JSON cannot say": (encode([Kind.BEAT, 1, 1, {"a": msgspec.msgpack.Ext(5, b"x")}]), nothing),
    "statistics with bytes": (encode([Kind.BEAT, 1, 1, {"a": b"x"}]), nothing),
    "statistics with a date": (encode([Kind.BEAT, 1, 1, {"a": datetime.datetime.now(datetime.UTC)}]), nothing),
    "statistics under a list": (b"\x94\x0b\x01\x01\x81\x91\x01\x01", nothing),
    "statistics nested too deep": (b"\x94\x0b\x01\x01\x81\xa1a" + b"\x91" * 400 + b"\x01", nothing),
    "a heartbeat with a descriptor": (encode([Kind.BEAT, 1, 1, {}]), sockets(1)),
    "a reason too long": (encode([Kind.BOOT_FAILED, "x" * (TEXT_MAX + 1)]), nothing),
    "ends of a list of connections": (encode([Kind.ENDED, ["127.0.0.1"]]), nothing),
    "keys that are no list": (encode([Kind.KEYS_ENDED, b"k", 1]), nothing),
    "a key of many kilobytes": (encode([Kind.KEYS_ENDED, [b"k" * 4096], 1]), nothing),
    "more keys than a report has": (encode([Kind.KEYS_AWAY, [b"k"] * 2000, 1, 1, True]), nothing),
    "keys of a connection that was never given": (encode([Kind.KEYS_ENDED, [b"k"], 2**52]), nothing),
    "keys away of a connection that was never given": (encode([Kind.KEYS_AWAY, [b"k"], 2**52, 1, True]), nothing),
    "fewer than no ends": (encode([Kind.ENDED, {"127.0.0.1": -1}]), nothing),
    "no text but a number": (encode([Kind.INSPECTED, 5]), nothing),
    "a message for nobody's name": (encode([Kind.MESSAGE, "x" * 1000, 1]), nothing),
    "a connection without a descriptor": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), nothing),
    "a connection with two": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), sockets(2)),
    "a connection with three": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), sockets(3)),
    "a connection with many": (encode([Kind.GIVE_BACK, None, "127.0.0.1", 1]), sockets(100)),
    "a connection that is a file": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), a_file),
    "a connection that is none": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), a_datagram_socket),
    "a connection and a pipe": (encode([Kind.GIVE_BACK, None, "127.0.0.1", 1]), a_socket_and_a_pipe),
    "a connection and a large file": (encode([Kind.GIVE_BACK, None, "127.0.0.1", 1]), a_socket_and_a_large_file),
    "a connection from a port that is none": (encode([Kind.GIVE_BACK, b"", "127.0.0.1", 65536]), sockets(1)),
    "a connection from nowhere": (encode([Kind.GIVE_BACK, b"", "", 1]), sockets(1)),
}


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with Edge() as edge:
        yield edge


@pytest.mark.parametrize("name", BROKEN)
def test_a_message_that_cannot_be_right_costs_its_worker_and_nothing_else(
    edge: Edge, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, make = BROKEN[name]
    other, worker = edge.worker(1), edge.worker(0)
    ends = edge.silent.ends[worker.pid]
    ends.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * RELAYED_MAX)
    before, condemned, failed = open_descriptors(), edge.counters["condemned"], edge.counters[FAILED]
    fds = make()
    with caplog.at_level(logging.INFO):
        edge.say(worker, data, fds)
        edge.say(worker, encode([Kind.GIVE_BACK, b"", "127.0.0.1", 1]), fds[:1] or None)  # is not heard any more
        for fd in fds:
            os.close(fd)
        while worker.pid in edge.workers.by_pid:
            edge.turn()
    found = re.search(pattern(WORKER_CONDEMNED, slot=0, pid=worker.pid, reason=r"(\".+\"|\S+)"), caplog.text)
    assert found, caplog.text
    assert re.search(exited("killed by SIGKILL", slot=0, pid=worker.pid), caplog.text)
    assert edge.counters["condemned"] == condemned + 1
    assert edge.counters[FAILED] == failed, "it was expected"
    assert worker.state is WorkerState.GONE
    assert edge.workers.live[other.slot] is other, "the other serves on"
    assert not edge.given_back
    assert edge.worker(0) is not worker, "and another takes its place"
    assert open_descriptors() == before


def test_what_a_worker_had_before_it_was_condemned_goes_to_others(edge: Edge) -> None:
    edge.worker(0), edge.worker(1)
    handoff, client = edge.hand_over()
    [worker] = [each for each in edge.workers.live.values() if handoff in each.unacked]
    edge.say(worker, encode([Kind.NACK, handoff.number]))
    edge.turn()
    [second] = [each for each in edge.workers.live.values() if handoff in each.unacked]
    assert second is not worker
    edge.say(worker, encode([Kind.NACK, handoff.number - 1]))  # it was not given that one any more
    edge.say(second, b"garbage")
    while {worker.pid, second.pid} & set(edge.workers.by_pid):
        edge.turn()
    edge.worker(0), edge.worker(1)
    [third] = [each for each in edge.workers.live.values() if handoff in each.unacked]
    edge.say(third, encode([Kind.ACK, handoff.number, handoff.number]))
    while handoff.sock.fileno() >= 0:
        edge.turn()
    client.close()


def test_a_message_for_a_slot_that_is_not_there_is_nobodys_fault(edge: Edge) -> None:
    worker = edge.worker(0)
    condemned = edge.counters["condemned"]
    edge.say(worker, encode([Kind.MESSAGE, "slot:400", "hello"]))
    edge.say(worker, encode([Kind.MESSAGE, "nobody", "hello"]))
    edge.say(worker, encode([Kind.INSPECTED, "nobody has asked"]))
    edge.say(worker, encode([Kind.MESSAGE, "primary", "done"]))
    while ("message", {"from": "slot:0", "data": "done"}) not in edge.hooks:
        edge.turn()
    assert edge.worker(0) is worker
    assert edge.counters["condemned"] == condemned


def test_a_newer_worker_may_say_more_than_its_primary_knows(edge: Edge) -> None:
    worker = edge.worker(0)
    edge.say(worker, encode([Kind.BEAT, 3, 0, {}, "added later"]))
    while worker.reported != 3:
        edge.turn()
    assert edge.worker(0) is worker
    worker.reported = 0


def test_a_worker_that_says_all_the_time_keeps_nobody_waiting(edge: Edge) -> None:
    loud, other = edge.worker(0), edge.worker(1)
    edge.silent.ends[loud.pid].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    for number in range(500):
        edge.say(loud, encode([Kind.MESSAGE, "primary", number]))
    edge.say(other, encode([Kind.BEAT, 7, 0, {}]))
    edge.turn()
    heard = sum(name == "message" and fields["from"] == "slot:0" for name, fields in edge.hooks)
    assert other.reported == 7, "in the same round"
    assert heard < 200, "and the loud one goes on in the next"
    other.reported = 0


def test_a_message_of_the_largest_size_is_carried_to_all(edge: Edge) -> None:
    sender, receiver = edge.worker(0), edge.worker(1)
    ends = edge.silent.ends
    data = "x" * (MESSAGE_MAX - len(encode([Kind.MESSAGE, "all", ""])) - 4)  # 4: a text this long says its length so
    message = encode([Kind.MESSAGE, "all", data])
    assert len(message) == MESSAGE_MAX
    edge.say(sender, message)
    ends[receiver.pid].setblocking(False)
    while True:
        edge.turn()
        with contextlib.suppress(BlockingIOError):
            received = msgspec.msgpack.decode(ends[receiver.pid].recv(2 * MESSAGE_MAX))
            if received[0] == Kind.MESSAGE:
                break
    assert received == [Kind.MESSAGE, "slot:0", data], "though the sender's name is longer than `all`"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KINDS = st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 300)
NUMBERS = st.integers(0, 5) | st.integers(-(2**63), 2**64 - 1)
MEANT = st.one_of(
    st.tuples(st.just(Kind.ACK.value), NUMBERS, NUMBERS),
    st.tuples(st.just(Kind.NACK.value), NUMBERS),
    st.tuples(st.just(Kind.BEAT.value), NUMBERS, NUMBERS, st.dictionaries(st.text(max_size=5), PLAIN, max_size=3)),
    st.tuples(st.just(Kind.GIVE_BACK.value), st.none() | st.binary(max_size=9), st.text(max_size=9), NUMBERS),
    st.tuples(st.just(Kind.MESSAGE.value), st.sampled_from(["all", "primary", "slot:0", "slot:9", ""]), PLAIN),
    st.tuples(st.sampled_from([Kind.BOOT_FAILED.value, Kind.INSPECTED.value]), st.text(max_size=9)),
    st.tuples(st.sampled_from([Kind.READY.value, Kind.RETIRE.value])),
)
PACKETS = st.one_of(
    st.binary(max_size=40),
    MEANT.map(encode),
    st.tuples(KINDS, PLAIN).map(encode),
    st.tuples(MEANT.map(encode), st.integers(0, 30)).map(lambda cut: cut[0][: cut[1]]),
)
BESIDE = st.sampled_from(
    [nothing, nothing, nothing, sockets(1), sockets(2), sockets(3), a_file, a_datagram_socket, a_socket_and_a_pipe]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.tuples(PACKETS, BESIDE), min_size=1, max_size=6))
def test_whatever_a_worker_says_the_loop_goes_on_and_no_descriptor_is_lost(
    edge: Edge, said: list[tuple[bytes, Fds]]
) -> None:
    other, worker = edge.worker(1), edge.worker(0)
    before = open_descriptors()
    for data, make in said:
        fds = make()
        edge.say(worker, data, fds)
        for fd in fds:
            os.close(fd)
    edge.say(worker, b"\xc1")
    while worker.pid in edge.workers.by_pid:
        edge.turn()
    while edge.given_back:
        edge.given_back.pop()[0].close()
    assert edge.counters[FAILED] == 0
    assert edge.workers.live[other.slot] is other
    edge.worker(0)
    while len(edge.workers.by_pid) > 2:  # RETIRE had another started
        edge.turn()
    assert open_descriptors() == before


# The channel alone


@settings(max_examples=150, deadline=None)
@given(data=PACKETS, make=BESIDE)
def test_what_comes_through_a_channel_is_a_message_or_unreadable(data: bytes, make: Fds) -> None:
    before = open_descriptors()
    ours, theirs = Channel.pair(from_worker)
    fds = make()
    socket.send_fds(theirs, [data], fds)
    for fd in fds:
        os.close(fd)
    [received] = ours.receive()
    assert isinstance(received, (Received, Unreadable))
    if isinstance(received, Received) and received.fd is not None:
        os.close(received.fd)
    ours.close()
    theirs.close()
    assert open_descriptors() == before


# Callbacks


def test_an_error_in_a_callback_closes_what_it_concerned_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    poller = Poller()
    ours, theirs = socket.socketpair()
    done: list[str] = []

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    def close() -> None:
        poller.forget(ours.fileno())
        done.append("closed")

    poller.watch(ours.fileno(), READ, broken, on_failed=close)
    poller.after(0, broken, on_failed=broken)
    poller.after(0, lambda: done.append("the next timer"))
    theirs.send(b"x")
    with caplog.at_level(logging.ERROR):
        poller.run_once()
    assert done == ["closed", "the next timer"]
    assert "could not be closed either" in caplog.text
    assert caplog.text.count("Traceback") == 4, "of the descriptor; of the timer; and with it of what was to close"
    poller.close()
    ours.close()
    theirs.close()


def test_a_descriptor_whose_callback_fails_is_watched_no_longer_where_nothing_else_was_said() -> None:
    counters: Counter[str] = Counter()
    poller = Poller(counters=counters)
    ours, theirs = socket.socketpair()
    poller.watch(ours.fileno(), READ, lambda events: dict[str, int]()["a bug"])
    theirs.send(b"x")
    for _ in range(3):
        poller.after(0, lambda: None)
        poller.run_once()
    assert counters[FAILED] == 1
    poller.close()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("arrives", ["at once", "later"])
def test_an_error_over_one_connection_closes_it_and_the_next_is_served(arrives: str) -> None:
    counters: Counter[str] = Counter()
    poller = Poller(counters=counters)
    delivered: list[PendingHandoff] = []

    class Delivers:
        def dispatch(self, handoff: PendingHandoff) -> None:
            if handoff.path == "/bug":
                raise KeyError("a bug")
            delivered.append(handoff)

    acceptor = Acceptor(
        poller,
        Affinity(AffinitySettings()),
        limits=HeadLimits(),
        handshake_s=60.0,
        expects_proxy=False,
        tls=False,
        raw=False,
        addresses=Addresses(Affinity(AffinitySettings()), most=None, descriptors=1024),
        descriptors=1024,
        refusals=Refusals(poller, descriptors=1024, tls=False, counters=counters),
        dispatcher=Delivers(),
        counters=counters,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    acceptor.open([listener], 16)
    before = open_descriptors()
    for path in ("/bug", "/"):
        client = socket.create_connection(address)
        for part in (f"GET {path} HTTP/1.1\r\n", "Host: a\r\n\r\n"):
            if arrives == "later":
                poller.after(0.01, lambda: None)
                poller.run_once()
            client.sendall(part.encode())
        while path == "/bug" and not counters[FAILED]:
            poller.run_once()
        while path == "/" and not delivered:
            poller.run_once()
        if path == "/bug":
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        client.close()
    assert counters[FAILED] == 1
    delivered.pop().sock.close()
    assert open_descriptors() == before
    assert acceptor.waiting == 0
    acceptor.close()
    acceptor.release()
    poller.close()


def test_who_watches_over_workers_looks_again_after_an_error() -> None:
    with Edge(workers=1, settings={"hung_s": 0.2, "heartbeat_s": 0.1, "boot_s": 600.0}) as edge:
        worker = edge.worker(0)
        worker.lifetime = cast(Lifetime, None)  # any bug would do
        while edge.counters[FAILED] < 2:
            edge.turn()
        worker.lifetime = Lifetime()
        while worker.state is not WorkerState.GONE:
            edge.turn()
        assert edge.counters["hung"] == 1
