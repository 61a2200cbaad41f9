"""
The answer to a load balancer's probe, as the primary gives it while no worker is ready.

Pure, used in the primary: a probe is answered at once, for a balancer that waits learns nothing. Workers answer probes
otherwise, and their answers have the same form: a small JSON object with a status and the reasons. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

UNREADY: Final = "unready"
NO_WORKER: Final = "no worker is ready"


def body(status: str, reasons: Sequence[str]) -> bytes:
    """Return the body of an answer: the status, and the reasons for it."""
    return msgspec.json.encode({"status": status, "reasons": reasons}) + b"\n"


def unready(reasons: Sequence[str], *, is_head: bool) -> bytes:
    """Return a whole HTTP response that no new client should be sent, and why. It ends its connection."""
    text = body(UNREADY, reasons)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if is_head else text)
