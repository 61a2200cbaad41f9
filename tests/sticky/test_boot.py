"""The first message of a worker: what counts as one, and what each process gets to read that no primary started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from sticky.errors import NotAWorker
from sticky.handoff import journal
from sticky.handoff.channel import CHANNEL_FD, Channel, ChannelClosed, Kind, Received
from sticky.handoff.messages import Ready, from_worker
from sticky.worker import boot
from sticky.worker.boot import receive_boot

ABOUT: dict[str, Any] = {"slot": 3, "config": {"app": "demo"}}


class Parent:
    """The primary's end of a worker's channel. The worker's end is in the environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channel, theirs = Channel.pair(from_worker)
        self.fd = theirs.detach()
        os.set_inheritable(self.fd, True)
        monkeypatch.setenv(CHANNEL_FD, str(self.fd))


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    parent = Parent(monkeypatch)
    yield parent
    parent.channel.close()


def test_the_first_message_brings_identity_settings_and_journal(parent: Parent) -> None:
    memory = journal.create()
    assert memory is not None
    parent.channel.send(Kind.BOOT, ABOUT, fd=memory)
    channel, about, notes = receive_boot()
    assert about == ABOUT
    mark = notes.open(b"a key")
    mark.begin()
    assert list(journal.in_flight(memory)) == [b"a key"], "the primary has the same memory"
    assert channel.send(Kind.READY)
    assert parent.channel.receive() == [Received(Ready())]
    assert not channel.sock.get_inheritable(), "no child of the application keeps it open"
    assert CHANNEL_FD not in os.environ, "no child of the application takes it for its own"
    channel.close()
    os.close(memory)


def test_a_worker_without_a_journal_notes_in_vain(parent: Parent) -> None:
    parent.channel.send(Kind.BOOT, ABOUT)
    channel, _, notes = receive_boot()
    notes.open(b"a key").begin()
    channel.close()


@pytest.mark.parametrize("text", [None, "", "three", "-1"])
def test_a_process_that_was_started_by_hand_is_no_worker(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    monkeypatch.delenv(CHANNEL_FD, raising=False)
    if text is not None:
        monkeypatch.setenv(CHANNEL_FD, text)
    with pytest.raises(NotAWorker, match=f"{CHANNEL_FD} is not set"):
        receive_boot()


def test_a_descriptor_that_is_no_socket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null") as file:
        monkeypatch.setenv(CHANNEL_FD, str(file.fileno()))
        with pytest.raises(NotAWorker, match=f"{CHANNEL_FD} names no socket"):
            receive_boot()


def test_a_primary_that_is_gone_has_sent_nothing(parent: Parent) -> None:
    parent.channel.close()
    with pytest.raises(NotAWorker, match="the primary is gone"):
        receive_boot()


def test_a_primary_that_stays_silent_is_not_waited_for_for_ever(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "BOOT_WAIT_S", 0)
    with pytest.raises(NotAWorker, match="the primary has sent nothing"):
        receive_boot()


@pytest.mark.parametrize("kind", [Kind.INSPECT, Kind.IDENTIFY])
def test_another_message_first_is_refused(parent: Parent, kind: Kind) -> None:
    parent.channel.send(kind)
    with pytest.raises(NotAWorker, match="the first message of the primary is not BOOT"):
        receive_boot()


def test_a_message_that_cannot_be_read_is_refused(parent: Parent) -> None:
    parent.channel.sock.send(b"\xc1")
    with pytest.raises(NotAWorker, match="not BOOT") as caught:
        receive_boot()
    assert caught.tb, "nothing of the failed start is garbage yet"
    with pytest.raises(ChannelClosed):  # the primary sees that its worker is none
        parent.channel.receive()
