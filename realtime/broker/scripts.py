"""
The Lua scripts of the Redis broker, by name.

Runs in the worker. A script is sent by its digest, and whole when Redis does not know it (after a restart, or on a
replica that was promoted). Room data travels in KEYS and ARGV only: no script's text ever holds any.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from realtime.broker.resp import CommandFailed, Connection, Word

_DIRECTORY: Final = Path(__file__).parent / "lua"


class Script:
    """One script. `keys` of its arguments are keys."""

    __slots__ = ("digest", "text")

    def __init__(self, name: str) -> None:
        self.text = (_DIRECTORY / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA goes by

    async def run(self, connection: Connection, keys: int, *arguments: Word) -> Any:
        """
        Raises:
            CommandFailed: Redis refused.
            BrokerUnavailable: the connection is lost.
        """
        try:
            return await connection.ask("EVALSHA", self.digest, keys, *arguments)
        except CommandFailed as error:
            if error.code != "NOSCRIPT":
                raise
        return await connection.ask("EVAL", self.text, keys, *arguments)


PUBLISH: Final = Script("publish")
HISTORY: Final = Script("history")
MEMBER_ADD: Final = Script("member_add")
MEMBER_REMOVE: Final = Script("member_remove")
MEMBER_INHERIT: Final = Script("member_inherit")
ALLOW: Final = Script("allow")
LEASE: Final = Script("lease")
