"""The plain language of the peers: which room a text asks to join. Runs in a peer's process; knows no library."""

from __future__ import annotations

JOIN = '{"join":"'


def joined(text: str) -> str | None:
    """Return the room that a text asks for, None when it is a message."""
    return text[len(JOIN) :].partition('"')[0] if text.startswith(JOIN) else None


def answer(room: str) -> str:
    """Return what a client is told that has joined."""
    return f'{{"joined":"{room}"}}'
