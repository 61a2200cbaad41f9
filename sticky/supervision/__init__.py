"""Keeping each slot filled with a worker that serves."""
