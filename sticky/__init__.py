"""The primary and the hand-over: sticky connections for any Python server."""
