"""
The Lua scripts of the Redis broker, by name.

Runs in the worker. A script is sent by its digest, and whole when Redis does not know it (after a restart, or on a
replica that was promoted). Room data travels in KEYS and ARGV only: no script's text ever holds any.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any, Final

from realtime.broker.resp import CommandFailed, Connection, Word

_DIRECTORY: Final = Path(__file__).parent / "lua"


class Script:
    """One script. `keys` of its arguments are keys."""

    __slots__ = ("digest", "says_life", "text")

    def __init__(self, name: str, *, says_life: bool = False) -> None:
        """`says_life`: its last argument is the server's life (links.py), which whoever sends it adds."""
        self.says_life = says_life
        self.text = (_DIRECTORY / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA goes by

    async def run(self, connection: Connection, keys: int, *arguments: Word, asking: bool = False) -> Any:
        """
        Run it at one server; `asking`, at one to which a cluster moves the keys. The first time on a connection it goes
        whole: what is asked right behind it finds it there, and nothing is overtaken by having to be sent again.

        Raises:
            CommandFailed: Redis refused.
            BrokerUnavailable: the connection is lost.
        """
        try:
            if asking:
                connection.ask("ASKING").add_done_callback(_look)
            if self.digest in connection.scripts:
                return await connection.ask("EVALSHA", self.digest, keys, *arguments)
            connection.scripts.add(self.digest)
            return await connection.ask("EVAL", self.text, keys, *arguments)
        except CommandFailed as error:
            if error.code != "NOSCRIPT":
                raise
        if asking:
            connection.ask("ASKING").add_done_callback(_look)
        return await connection.ask("EVAL", self.text, keys, *arguments)


def _look(asked: asyncio.Future[Any]) -> None:
    """See what became of ASKING: where it failed, what follows fails as well, and says why."""
    if not asked.cancelled():
        asked.exception()


PUBLISH: Final = Script("publish", says_life=True)
HISTORY: Final = Script("history", says_life=True)
MEMBER_ADD: Final = Script("member_add")
MEMBER_REMOVE: Final = Script("member_remove")
MEMBER_INHERIT: Final = Script("member_inherit")
ALLOW: Final = Script("allow")
LEASE: Final = Script("lease")
