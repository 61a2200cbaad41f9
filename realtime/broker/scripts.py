"""
The Lua scripts of the Redis broker, by name.

Runs in the worker. A script is sent by its digest. Its whole text is sent when Redis does not know it: after a restart,
or on a replica that was promoted. Room data travels in KEYS and ARGV only; the text of a script never holds any.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from realtime.broker.redis_connection import CommandFailed, RedisConnection, Word, ignore_failure

_DIRECTORY: Final = Path(__file__).parent / "lua"


class Script:
    """One script. The first `keys` arguments of a call are keys."""

    __slots__ = ("digest", "needs_run_ids", "text")

    def __init__(self, name: str, *, needs_run_ids: bool = False) -> None:
        """`needs_run_ids`: the last argument is the server's run ids, which `links.run_at` adds."""
        self.needs_run_ids = needs_run_ids
        self.text = (_DIRECTORY / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()  # as EVALSHA expects it

    async def run(self, connection: RedisConnection, keys: int, *arguments: Word, asking: bool = False) -> Any:
        """
        Run the script on one server. With `asking`, the server is one to which a cluster moves the keys.

        The first call on a connection sends the whole text. Calls pipelined right behind it then find the script
        known. No call has to be sent a second time, which would let later calls overtake it.

        Raises:
            CommandFailed: Redis refused.
            BrokerUnavailable: the connection is lost.
        """
        try:
            if asking:
                connection.request("ASKING").add_done_callback(ignore_failure)  # the script's own error says why
            if self.digest in connection.scripts:
                return await connection.request("EVALSHA", self.digest, keys, *arguments)
            connection.scripts.add(self.digest)
            return await connection.request("EVAL", self.text, keys, *arguments)
        except CommandFailed as error:
            if error.code != "NOSCRIPT":
                raise
        if asking:
            connection.request("ASKING").add_done_callback(ignore_failure)
        return await connection.request("EVAL", self.text, keys, *arguments)


PUBLISH: Final = Script("publish", needs_run_ids=True)
HISTORY: Final = Script("history", needs_run_ids=True)
MEMBER_ADD: Final = Script("member_add")
MEMBER_REMOVE: Final = Script("member_remove")
MEMBER_INHERIT: Final = Script("member_inherit")
ALLOW: Final = Script("allow")
LEASE: Final = Script("lease")
