"""Giving each connection to a worker, and the messages between the primary and its workers."""
