"""
The first message of the primary to a worker: which worker it is, and with which settings.

Used in a worker, before its loop: so it waits. It decides nothing.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any, Final

from sticky.errors import NotAWorker
from sticky.handoff import messages
from sticky.handoff.channel import CHANNEL_FD, Channel, ChannelClosed, Unreadable
from sticky.handoff.journal import Journal
from sticky.handoff.messages import from_primary

BOOT_WAIT_S: Final = 30.0  # for the first message, which the primary sends when it starts the process


def receive_boot() -> tuple[Channel, dict[str, Any], Journal]:
    """
    Take the channel to the primary over, and wait for the first message on it. The caller owns the channel.

    Raises:
        NotAWorker: no primary started this process, or it has sent no such message.
    """
    text = os.environ.pop(CHANNEL_FD, "")
    if not text.isdecimal():
        raise NotAWorker(f"{CHANNEL_FD} is not set")
    try:
        sock = socket.socket(fileno=int(text))
    except OSError as error:
        raise NotAWorker(f"{CHANNEL_FD} names no socket ({error.strerror})") from error
    sock.set_inheritable(False)  # not for the children of the application
    channel = Channel(sock, from_primary)
    try:
        about, fd = _receive_first(channel)
    except NotAWorker:
        channel.close()
        raise
    return channel, about, Journal.from_fd(fd)


def _receive_first(channel: Channel) -> tuple[dict[str, Any], int | None]:
    """Wait for the first message. Return what it says, and the descriptor of the journal, which the caller owns."""
    poll = select.poll()  # select() knows no descriptor above 1023, and the channel may be one
    poll.register(channel.fileno(), select.POLLIN)
    if not poll.poll(BOOT_WAIT_S * 1000):
        raise NotAWorker("the primary has sent nothing")
    try:
        first = channel.receive()[0]
    except ChannelClosed:
        raise NotAWorker("the primary is gone") from None
    if isinstance(first, Unreadable) or not isinstance(first.message, messages.Boot):
        raise NotAWorker(f"the first message of the primary is not BOOT: {first}")
    return first.message.about, first.fd
