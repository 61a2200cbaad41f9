"""Rates and timers. The time is always an argument or a clock that is passed in."""
