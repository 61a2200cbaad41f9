"""
Commands of the broker, each to the server that has its keys, with failures as the contract says them.

Runs in the worker. Whoever calls is told `BrokerUnavailable`, whatever Redis said; a refusal that tells of another
master makes the nodes look again, and one that tells that nothing is written is noted at the link. It never sends a
command a second time, and knows no key. What has to see Redis's own words, or to go another way than the one open now,
asks a `Route` (links.py) by itself.
"""

from __future__ import annotations

import contextlib
from typing import Any

from realtime.broker.links import Nodes
from realtime.broker.resp import CommandFailed, Word
from realtime.broker.scripts import Script
from realtime.errors import BrokerUnavailable


class Commands:
    """The way to the servers that is open now. `tag` is what the keys of a command are hashed by."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def ask(self, tag: str, *words: Word) -> Any:
        """
        Send a command, and return its reply.

        Raises:
            BrokerUnavailable: there is no way now, it was lost, or Redis refused.
        """
        try:
            return await self._nodes.route.ask(tag, *words)
        except CommandFailed as error:
            raise self.refused(tag, error) from error

    async def run(self, tag: str, script: Script, keys: int, *arguments: Word) -> Any:
        """
        Run a script, and return what it returns.

        Raises:
            BrokerUnavailable: as `ask`.
        """
        try:
            return await self._nodes.route.run(tag, script, keys, *arguments)
        except CommandFailed as error:
            raise self.refused(tag, error) from error

    def refused(self, tag: str, error: CommandFailed) -> BrokerUnavailable:
        """Return what the caller is told. A server that may write no more is another's replica now."""
        with contextlib.suppress(BrokerUnavailable):  # it is gone meanwhile, and nobody has to doubt it
            link = self._nodes.route.link(tag)
            link.refused(error)  # the way it went, unless its slot moves just now: the next probe puts that right
            if error.code == "READONLY":
                self._nodes.doubt(link)
        return BrokerUnavailable(self._nodes.shown, error.text)
