"""
Commands of the broker: each goes to the server that has its keys, and failures become the contract's errors.

Runs in the worker. Callers get `BrokerUnavailable`, whatever error Redis replied. Two errors have more effects:

- READONLY means that another server became the master, so the nodes are checked again.
- An error that means "no writes now" is noted at the link.

This module never sends a command a second time, and knows no key. Code that needs the error of Redis itself, or another
route than the open one, uses a `Route` (links.py) directly.
"""

from __future__ import annotations

import contextlib
from typing import Any

from realtime.broker.links import Nodes
from realtime.broker.redis_connection import CommandFailed, Word
from realtime.broker.scripts import Script
from realtime.errors import BrokerUnavailable


class RedisCommands:
    """Sends commands by the route that is open now. `tag` is the hash tag of the keys of a command."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def request(self, tag: str, *words: Word) -> Any:
        """
        Send a command, and return its reply.

        Raises:
            BrokerUnavailable: there is no route now, the link was lost, or Redis refused.
        """
        try:
            return await self._nodes.route.request(tag, *words)
        except CommandFailed as error:
            raise self.refused(tag, error) from error

    async def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Any:
        """
        Run a script, and return its result.

        Raises:
            BrokerUnavailable: as `request`.
        """
        try:
            return await self._nodes.route.run(tag, script, keys, *arguments)
        except CommandFailed as error:
            raise self.refused(tag, error) from error

    def refused(self, tag: str, error: CommandFailed) -> BrokerUnavailable:
        """Note a refusal, and return the error to raise to the caller."""
        with contextlib.suppress(BrokerUnavailable):  # without a link there is nothing to note or recheck
            # The link may be another one if the hash slot moves right now. The next probe corrects that.
            link = self._nodes.route.link(tag)
            link.note_refusal(error)
            if error.code == "READONLY":
                self._nodes.recheck(link)
        return BrokerUnavailable(self._nodes.shown, error.text)
