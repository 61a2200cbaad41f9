"""The two ends of the link to a template, over a socket pair in one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from sticky.handoff.channel import ChannelClosed
from sticky.handoff.fork_link import TEMPLATE_FD, ForkFailed, ForkLink, TemplateEnd, end_from


@dataclass
class Pair:
    link: ForkLink
    end: TemplateEnd
    raw: socket.socket  # another handle of the template's end


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = end_from({TEMPLATE_FD: str(os.dup(theirs.fileno()))})
    assert end is not None
    with closing(ForkLink(ours)) as link, closing(end), theirs:
        yield Pair(link, end, theirs)


def same_file(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


def test_a_template_says_when_it_can_be_asked(pair: Pair) -> None:
    assert not pair.link.is_ready(), "nothing has come"
    pair.end.ready()
    assert pair.link.is_ready()


def test_a_worker_is_asked_for_with_its_environment_and_its_channel(pair: Pair) -> None:
    channel, pidfd = os.memfd_create("channel"), os.memfd_create("pidfd")
    try:
        pair.end.forked(77, pidfd)  # waits in the link: the template answers in its own process
        pid, received = pair.link.ask({"A": "1", "é": "ü"}, channel)
        asked = pair.end.next()
        assert asked is not None
        env, inherited = asked
        assert (pid, env) == (77, {"A": "1", "é": "ü"})
        assert same_file(received, pidfd)
        assert same_file(inherited, channel)
        assert received != pidfd, "each end has a descriptor of its own"
        os.close(received)
        os.close(inherited)
    finally:
        os.close(channel)
        os.close(pidfd)


def test_a_template_that_cannot_fork_says_why_and_can_be_asked_again(pair: Pair) -> None:
    for _ in range(2):
        pair.end.failed("Resource temporarily unavailable")
        with pytest.raises(ForkFailed, match="Resource temporarily unavailable"):
            pair.link.ask({}, 0)


def test_an_environment_that_is_too_large_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ForkFailed, match=r"an environment of 3\d+ bytes"):
        pair.link.ask({"A": "x" * 300_000}, 0)
    pair.raw.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.raw.recv(1)


@pytest.mark.parametrize("answer", [b"\xc1", b"\x80", b"ready"], ids=["no message", "another message", "out of turn"])
def test_a_template_that_answers_something_else_is_gone(pair: Pair, answer: bytes) -> None:
    pair.raw.send(answer)
    with pytest.raises(ChannelClosed):
        pair.link.ask({}, 0)


def test_a_worker_without_a_pidfd_is_none(pair: Pair) -> None:
    pair.raw.send(b"\x91\x07")
    with pytest.raises(ForkFailed, match="pidfd"):
        pair.link.ask({}, 0)


def test_the_end_of_either_side_is_the_end_of_the_link(pair: Pair) -> None:
    pair.raw.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ChannelClosed):
        pair.link.is_ready()
    with pytest.raises(ChannelClosed):
        pair.link.ask({}, 0)
    assert pair.end.next() is None


def test_a_first_word_that_is_no_readiness_ends_the_link(pair: Pair) -> None:
    pair.raw.send(b"hello")
    with pytest.raises(ChannelClosed):
        pair.link.is_ready()


def test_a_process_that_was_not_started_as_a_template_is_none() -> None:
    environ = {"PATH": "/bin"}
    assert end_from(environ) is None
    assert environ == {"PATH": "/bin"}
