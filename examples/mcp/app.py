"""
An MCP server on several workers, with the sessions of the protocol (streamable HTTP):

    pip install 'mcp<2'
    realtime serve --workers 4 --sticky session --session-header Mcp-Session-Id examples/mcp/app.py

A session of an MCP server lives in the memory of the process that answered `initialize`, and is named by an id that
this server makes. With `--session-header` that id leads back to its worker, for clients with cookies and without.
"""

from __future__ import annotations

import os
from collections import Counter
from weakref import WeakKeyDictionary

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.session import ServerSession

mcp = FastMCP("counter")
counts: WeakKeyDictionary[ServerSession, Counter[str]] = WeakKeyDictionary()


@mcp.tool()
def count(ctx: Context) -> dict[str, int]:
    """Count the calls of this session, in this process."""
    calls = counts.setdefault(ctx.session, Counter())
    calls["count"] += 1
    return {"calls": calls["count"], "worker": os.getpid()}


app = mcp.streamable_http_app()
