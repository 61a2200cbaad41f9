"""
A worker's link to its primary: sends messages, and remembers when the primary is lost.

Used in a worker. Everything that a worker reports goes through `send`, which never raises and never waits. What could
not be sent is the caller's to keep: each report says how.
"""

from __future__ import annotations

from typing import Any

from sticky.handoff.channel import Channel, ChannelClosed, Kind


class PrimaryLink:
    """The channel of this worker. The worker owns the channel, and closes it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.is_lost = False
        """Whether the primary is gone, or cannot be understood. It never comes back; another may follow."""

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        """
        Send one message. The caller keeps its copy of `fd`.

        Returns:
            False when the channel is full or the primary is lost. Then nothing was sent.

        Raises:
            ValueError: the message is too large.
        """
        if self.is_lost:
            return False
        try:
            return self._channel.send(kind, *fields, fd=fd, carried=carried)
        except ChannelClosed:
            return False  # the reader of the channel sees that too, and calls `lose`

    def lose(self) -> None:
        """Send nothing more: the primary is gone."""
        self.is_lost = True

    def found(self, channel: Channel) -> None:
        """Send to another primary from now on. The worker has closed the channel before."""
        self._channel, self.is_lost = channel, False
