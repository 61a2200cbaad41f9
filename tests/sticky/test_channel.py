"""
A channel between two processes, at its limits: each is provoked in the kernel, and none loses what was to be sent.

`send` answers False where the kernel takes no more (EAGAIN, ETOOMANYREFS, ENOBUFS): the caller keeps the descriptor and
comes again. What can never go is an error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sticky.handoff.channel import CARRIED_MAX, MESSAGE_MAX, RELAYED_MAX, Channel, ChannelClosed, Kind, Received
from sticky.handoff.messages import Handoff, from_primary, from_worker
from tests.support.server import ROOT

Ends = tuple[Channel, Channel]

# Of a handoff, what comes after its number.
HEADER = ("127.0.0.1", 0, "http", "http", "GET", "/", False, None, None, "ip", "127.0.0.1")


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = Channel.pair(from_worker)
    pair = ours, Channel(theirs, from_primary)
    yield pair
    for each in pair:
        each.close()


def drain(channel: Channel) -> int:
    """Receive all that is there, close the descriptors, return how many messages came."""
    count = 0
    while messages := channel.receive():
        count += len(messages)
        for message in messages:
            assert isinstance(message, Received)
            if message.fd is not None:
                os.close(message.fd)
    return count


def numbers(messages: list[object]) -> list[int]:
    """Return the numbers of handoffs."""
    found = []
    for message in messages:
        assert isinstance(message, Received)
        assert isinstance(message.message, Handoff)
        found.append(message.message.number)
    return found


def fill(channel: Channel, fd: int) -> int:
    count = 0
    while channel.send(Kind.HANDOFF, count, *HEADER, fd=fd):
        count += 1
    return count


def test_a_full_channel_takes_nothing_and_then_goes_on_where_it_was(ends: Ends) -> None:
    ours, theirs = ends
    with socket.socket() as sock:
        sent = fill(ours, sock.fileno())
        assert sent > 100
        assert not ours.send(Kind.HANDOFF, sent, *HEADER, fd=sock.fileno()), "and still full"
        assert drain(theirs) == sent
        assert ours.send(Kind.HANDOFF, sent, *HEADER, fd=sock.fileno())
        [message] = theirs.receive()
        assert numbers([message]) == [sent]
        assert isinstance(message, Received)
        assert message.fd is not None
        os.close(message.fd)


def test_what_is_too_large_for_any_message_is_an_error(ends: Ends) -> None:
    ours, theirs = ends
    with pytest.raises(ValueError, match="larger than"):
        ours.send(Kind.MESSAGE, "x" * RELAYED_MAX)
    with pytest.raises(ValueError, match="larger than"):
        theirs.send(Kind.MESSAGE, "x" * MESSAGE_MAX)
    with socket.socket() as sock, pytest.raises(ValueError, match="are more than"):
        ours.send(Kind.HANDOFF, fd=sock.fileno(), carried=b"x" * (CARRIED_MAX + 1))
    assert theirs.receive() == []


def test_who_is_gone_gets_nothing(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.send(Kind.MESSAGE, "hello")
    with pytest.raises(ChannelClosed):
        ours.receive()


TOO_MANY = """
import errno, os, resource, socket, sys
from sticky.handoff.channel import Channel, Kind
from sticky.handoff.messages import from_primary, from_worker
from tests.sticky.test_channel import HEADER

if os.geteuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(61234, 61234, 61234)  # a user of whom nothing else is in flight
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
ours, theirs = Channel.pair(from_worker)
theirs = Channel(theirs, from_primary)
sent = 0
with socket.socket() as sock:
    while ours.send(Kind.HANDOFF, sent, *HEADER, fd=sock.fileno()):
        sent += 1
    try:
        socket.send_fds(ours.sock, [b"x"], [sock.fileno()])
    except OSError as error:
        print(errno.errorcode[error.errno])
    came = 0
    while came < sent:
        for message in theirs.receive():
            came += 1
            if message.fd is not None:
                os.close(message.fd)
    print(sent, came, ours.send(Kind.HANDOFF, sent, *HEADER, fd=sock.fileno()))
"""


def test_more_descriptors_in_flight_than_a_user_may_have_wait() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", TOO_MANY], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    which, counts = asked.stdout.splitlines()
    assert which == "ETOOMANYREFS"
    sent, came, again = counts.split()
    assert sent == came
    assert 30 <= int(sent) < 100
    assert again == "True"


def test_a_process_out_of_descriptors_learns_which_connections_it_missed(ends: Ends) -> None:
    ours, theirs = ends
    with socket.socket() as sock:
        for number in range(3):
            carried = b"x" * 100_000 if number == 1 else b"read"
            assert ours.send(Kind.HANDOFF, number, *HEADER, fd=sock.fileno(), carried=carried)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)  # the lowest free number: no descriptor above it may be made, one below may
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, limits[1]))
    try:
        messages = theirs.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert numbers([*messages]) == [0, 1, 2]
    received = [message for message in messages if isinstance(message, Received)]
    assert [message.fd is None for message in received] == [False, True, True]
    assert received[0].carried == b"read"
    assert received[0].fd == spare
    os.close(spare)


# No memory for a message: the kernel says ENOBUFS. To have it say so, a thread forbids itself sendmsg with that errno.
SENDMSG = {"x86_64": 46, "aarch64": 211}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def have_the_kernel_refuse(syscall: int, error: int) -> None:
    """Let this thread's calls of `syscall` fail with `error` from now on (seccomp(2), mode filter)."""
    steps = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, syscall), (RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(steps), code)), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.skipif(platform.machine() not in SENDMSG, reason="which number sendmsg has here is not known")
def test_a_kernel_without_buffers_is_asked_again_later(ends: Ends) -> None:
    ours, theirs = ends
    found: list[object] = []

    def without_buffers() -> None:
        have_the_kernel_refuse(SENDMSG[platform.machine()], errno.ENOBUFS)
        try:
            ours.sock.sendmsg([b"x"])
        except OSError as error:
            found.append(error.errno)
        with socket.socket() as sock:
            found.append(ours.send(Kind.HANDOFF, 1, *HEADER, fd=sock.fileno()))

    thread = threading.Thread(target=without_buffers)  # the filter ends with it
    thread.start()
    thread.join()
    assert found == [errno.ENOBUFS, False]
    with socket.socket() as sock:
        assert ours.send(Kind.HANDOFF, 1, *HEADER, fd=sock.fileno())
    assert drain(theirs) == 1
