"""A worker's link to its primary: what is sent to a full channel, to a lost primary, and to the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sticky.handoff.channel import Channel, Kind
from sticky.handoff.messages import Ready, from_primary, from_worker
from sticky.worker.primary_link import PrimaryLink
from tests.support.worker_ends import PrimaryEnd


@pytest.fixture
def primary() -> Iterator[PrimaryEnd]:
    primary = PrimaryEnd()
    yield primary
    primary.close()


def test_a_full_channel_takes_nothing_and_loses_nothing(primary: PrimaryEnd) -> None:
    primary.fill()
    assert not primary.link.send(Kind.READY)
    assert not primary.link.is_lost
    primary.drain()
    assert primary.link.send(Kind.READY)
    assert primary.received() == [Ready()]


def test_sending_to_a_primary_that_is_gone_fails_without_an_error(primary: PrimaryEnd) -> None:
    primary.channel.close()
    assert not primary.link.send(Kind.READY)
    assert not primary.link.is_lost, "the reader of the channel finds that out, behind what was sent before"


def test_a_lost_primary_gets_nothing_though_its_channel_is_open(primary: PrimaryEnd) -> None:
    primary.link.lose()
    assert not primary.link.send(Kind.READY)
    assert primary.received() == []


def test_the_next_primary_gets_what_is_sent_from_then_on(primary: PrimaryEnd) -> None:
    ours, theirs = Channel.pair(from_worker)
    link = PrimaryLink(Channel(theirs, from_primary))
    ours.close()
    assert not link.send(Kind.READY)
    link.lose()
    theirs.close()
    link.found(primary.worker_channel)
    assert not link.is_lost
    assert link.send(Kind.READY)
    assert primary.received() == [Ready()]


def test_a_message_that_is_too_large_is_the_callers_error(primary: PrimaryEnd) -> None:
    with pytest.raises(ValueError, match="is larger than"):
        primary.link.send(Kind.MESSAGE, "all", "x" * 1_000_000)
    assert primary.link.send(Kind.READY)
