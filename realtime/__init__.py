"""Realtime applications on a sticky cluster."""

__version__ = "0.1.0"
