"""
`Gathering`: a question to all workers of all machines, and their answers.

Runs in the worker, as a part of the cluster bus. It knows from the broker which workers there are, sends a question
with a number, and waits for an answer of each. A worker that does not answer in time is named to the caller; nothing
is asked twice. It never looks into an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from realtime.broker.base import Broker, WorkerId
from realtime.cluster.mailbox import Mailbox
from realtime.cluster.messages import CalledGroup, FoundGroup, Message, encode

Reply: TypeAlias = FoundGroup | CalledGroup


class Gathering:
    """The questions that this worker has asked, and that are not answered by all."""

    __slots__ = ("_broker", "_mailbox", "_number", "_open")

    def __init__(self, broker: Broker, mailbox: Mailbox) -> None:
        self._broker = broker
        self._mailbox = mailbox
        self._number = 0
        self._open: dict[int, tuple[dict[str, Reply], asyncio.Event]] = {}

    async def ask(
        self, question: Callable[[int], Message], within_s: float, *, only: WorkerId | None = None
    ) -> tuple[list[Reply], list[WorkerId]]:
        """
        Ask every worker, or one, and return their answers, and which workers did not answer in time.

        Args:
            question: made with the number that the answers have.
            within_s: how long to wait for all of them.
            only: the one worker that is asked.

        Raises:
            BrokerUnavailable: no worker can be asked.
        """
        expected = [only] if only is not None else list(await self._broker.workers())
        self._number += 1
        number = self._number
        assert number not in self._open, "a number is given once, so no answer reaches another question"
        replies, more = self._open[number] = ({}, asyncio.Event())
        try:
            await self._mailbox.send(only, encode(question(number)))
            async with asyncio.timeout(within_s):
                while not replies.keys() >= set(expected):
                    await more.wait()
                    more.clear()
        except TimeoutError:
            pass  # the caller gets to know which are missing
        finally:
            del self._open[number]
        return list(replies.values()), [each for each in expected if each not in replies]

    def answered(self, reply: Reply) -> None:
        """Take an answer. One that comes too late is not looked at."""
        if reply.number in self._open:
            replies, more = self._open[reply.number]
            replies[reply.worker] = reply
            more.set()
