"""What a running HAProxy thinks of its servers, asked over its statistics socket."""

from __future__ import annotations

import csv
import socket
import time
from pathlib import Path

DEADLINE_S = 60.0  # only a hang reaches it


def states(path: Path) -> dict[str, str]:
    """Return the state of each server by its name: `UP`, `DOWN`, or on the way, such as `UP 1/2`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"show stat\n")
        with sock.makefile(encoding="ascii") as stream:
            rows = list(csv.DictReader(line.removeprefix("# ") for line in stream if line.strip()))
    return {row["svname"]: row["status"] for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}


def wait_until_up(path: Path, server: str) -> None:
    """Wait until HAProxy sends new clients to a server, without doubt."""
    give_up_at = time.monotonic() + DEADLINE_S
    while states(path)[server] != "UP":
        assert time.monotonic() < give_up_at, states(path)
