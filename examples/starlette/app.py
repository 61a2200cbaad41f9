"""
Starlette with its sessions in memory: `realtime serve --workers 4 --sticky session examples/starlette/app.py`.

What a visitor did is kept in a dictionary of the process that serves him. With several workers that is right only as
long as he always meets the same one. Nothing here knows of it; `--sticky none` shows what happens without.
"""

from __future__ import annotations

import os
import secrets

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

visits: dict[str, int] = {}


async def visit(request: Request) -> JSONResponse:
    """Count this visitor's visits."""
    visitor = request.cookies.get("visitor") or secrets.token_urlsafe(12)
    visits[visitor] = visits.get(visitor, 0) + 1
    answer = JSONResponse({"visits": visits[visitor], "pid": os.getpid()})
    answer.set_cookie("visitor", visitor, httponly=True, samesite="lax")
    return answer


app = Starlette(routes=[Route("/", visit)])
