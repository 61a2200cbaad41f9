"""
Hears what workers say, and bears whatever that is.

Runs in the primary: the edge between it and a worker that may be broken. A message that cannot be read, or makes no
sense after what was said before, costs its worker and nothing else. No descriptor that came with one is lost. What a
message asks for is done by the supervisor.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from sticky.channel import ChannelClosed, Received, Unreadable, close_all, connection_from
from sticky.errors import OutOfTurn
from sticky.messages import GiveBack
from sticky.poller import Poller
from sticky.worker_handle import State, WorkerHandle

logger = logging.getLogger("sticky")


class Hearing:
    """Reads the channels of all workers."""

    def __init__(
        self,
        poller: Poller,
        *,
        take: Callable[[WorkerHandle, Received], None],
        condemn: Callable[[WorkerHandle, str], None],
        on_given_back: Callable[[socket.socket, str, int, bytes], None],
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            take: does what a message asks for. It raises OutOfTurn where that makes no sense.
            condemn: kills a worker, and says why.
            on_given_back: as `Acceptor.take_back`.
        """
        self._poller = poller
        self._take = take
        self._condemn = condemn
        self._on_given_back = on_given_back
        self._counters = counters

    def hear(self, worker: WorkerHandle) -> bool:
        """Take a round of what a worker said. Return False when it has ended."""
        try:
            received = worker.channel.receive()
        except ChannelClosed:
            return False
        taken = 0
        try:
            for message in received:
                taken += 1
                if isinstance(message, Unreadable):
                    self._condemn(worker, message.reason)
                else:
                    self._take(worker, message)
                if worker.state in (State.CONDEMNED, State.GONE):
                    break
        except OutOfTurn as error:
            self._condemn(worker, str(error))
        except Exception:  # noqa: BLE001 - `failed` logs it
            self._poller.failed(lambda: self._condemn(worker, "an error, see above"))
        finally:
            close_all(each.fd for each in received[taken:] if isinstance(each, Received))
        return True

    def give_back(self, message: GiveBack, received: Received) -> None:
        """
        Pass on a connection that a worker gives back.

        Raises:
            OutOfTurn: it is none.
        """
        if received.fd is None:
            self._counters["lost_given_back"] += 1
            logger.error("! out of file descriptors: a connection on its way between workers is lost (ulimit -n)")
            return
        try:
            sock = connection_from(received.fd)
        except OSError as error:
            raise OutOfTurn(f"it gives back what is no connection of a client ({error.strerror})") from error
        self._poller.guard(
            lambda: self._on_given_back(sock, message.peer_address, message.port, received.carried),
            on_failed=sock.close,
        )
